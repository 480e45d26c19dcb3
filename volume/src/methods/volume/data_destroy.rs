//! `Volume.data_destroy`: drops the data and keeps what tells changed blocks.

use plugin::Context;
use schemas::{Error, volume::VolumeParams};

use crate::{errors, live::Tapdisks, methods};

pub(crate) fn run(ctx: &Context<'_>, p: VolumeParams) -> Result<(), Error> {
    let sr = methods::open(ctx, &p.sr)?;
    sr.data_destroy(&p.key, &mut Tapdisks::new(&sr, ctx.log)).map_err(errors::from_store)
}
