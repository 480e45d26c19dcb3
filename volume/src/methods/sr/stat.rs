//! `SR.stat`: name, health and space.

use schemas::{
    Error,
    sr::{SrParams, SrStat},
};

use crate::{Context, convert, errors, methods};

pub(crate) fn run(ctx: &Context<'_>, p: SrParams) -> Result<SrStat, Error> {
    let sr = methods::open(ctx, &p.sr)?;
    let stat = sr.stat().map_err(errors::from_store)?;
    let damaged = sr.damaged().map_err(errors::from_store)?;
    for volume in &damaged {
        ctx.log.error(volume.error.chain());
    }
    Ok(convert::sr_stat(&stat, &damaged))
}
