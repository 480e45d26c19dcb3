//! `SR.stat`: name, health and space.

use plugin::Context;
use schemas::{
    Error,
    sr::{SrParams, SrStat},
};

use crate::{convert, errors, methods};

pub(crate) fn run(ctx: &Context<'_>, p: SrParams) -> Result<SrStat, Error> {
    let stat = methods::open(ctx, &p.sr)?.stat().map_err(errors::from_store)?;
    Ok(convert::sr_stat(&stat))
}
