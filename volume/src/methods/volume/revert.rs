//! `Volume.revert`: the volume reads again what the snapshot kept. An active one is refused.

use schemas::{Error, volume::RevertParams};

use crate::{Context, errors, live::Tapdisks, methods};

pub(crate) fn run(ctx: &Context<'_>, p: RevertParams) -> Result<(), Error> {
    let sr = methods::open(ctx, &p.sr)?;
    let mut live = Tapdisks::new(&sr, ctx.log);
    sr.revert(&p.snapshot, &p.key, &mut live).map_err(errors::from_store)
}
