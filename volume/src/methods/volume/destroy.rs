//! `Volume.destroy`: one that is gone already is no error, one that is active is refused.

use smapiv3::{Error, volume::VolumeParams};

use crate::{Context, live::Tapdisks, methods, unused::end_and_retry};

pub(crate) fn run(ctx: &Context<'_>, p: VolumeParams) -> Result<(), Error> {
    let sr = methods::open(ctx, &p.sr)?;
    end_and_retry(ctx, &p.sr, Some(&p.key), || {
        sr.lock()?.destroy_volume(&p.key, &mut Tapdisks::new(&sr, ctx.log))
    })
}
