//! `SR.stat`: name, health and space.

use smapiv3::{
    Error,
    sr::{SrParams, SrStat},
};

use crate::{Context, convert, graphs, methods};

pub(crate) fn run(ctx: &Context<'_>, p: SrParams) -> Result<SrStat, Error> {
    let sr = methods::open(ctx, &p.sr)?;
    let stat = sr.stat()?;
    let damaged = sr.damaged()?;
    for volume in &damaged {
        ctx.log.error(volume.error.chain());
    }
    if let Some(word) = convert::short_of_room(&stat) {
        ctx.log.warning(word);
    }
    graphs::written(ctx, &stat);
    Ok(convert::sr_stat(&stat, &damaged))
}
