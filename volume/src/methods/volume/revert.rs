//! `Volume.revert`: the volume gets the contents of the snapshot. An active one is refused.

use smapiv3::{Error, volume::RevertParams};

use crate::{Context, live::Tapdisks, methods, unused::end_and_retry};

pub(crate) fn run(ctx: &Context<'_>, p: RevertParams) -> Result<(), Error> {
    let sr = methods::open(ctx, &p.sr)?;
    end_and_retry(ctx, &p.sr, Some(&p.key), || {
        sr.lock()?.revert_volume(&p.snapshot, &p.key, &mut Tapdisks::new(&sr, ctx.log))
    })
}
