//! `Volume.revert`: the volume gets the contents of the snapshot. An active one is refused.

use schemas::{Error, volume::RevertParams};

use crate::{Context, live::Tapdisks, methods};

pub(crate) fn run(ctx: &Context<'_>, p: RevertParams) -> Result<(), Error> {
    let sr = methods::open(ctx, &p.sr)?;
    let mut live = Tapdisks::new(&sr, ctx.log);
    Ok(sr.lock()?.revert_volume(&p.snapshot, &p.key, &mut live)?)
}
