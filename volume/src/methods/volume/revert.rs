//! `Volume.revert`: the volume reads again what the snapshot kept. An active one is refused.

use plugin::Context;
use schemas::{Error, volume::RevertParams};

use crate::{errors, live::Tapdisks, methods};

pub(crate) fn run(ctx: &Context<'_>, p: RevertParams) -> Result<(), Error> {
    let sr = methods::open(ctx, &p.sr)?;
    let mut live = Tapdisks::new(&sr, ctx.log);
    sr.revert(&p.snapshot, &p.key, &mut live).map_err(errors::from_store)
}
