//! `gc`: frees what operations left that were killed.

use plugin::Args;
use schemas::Error;

use crate::{Context, errors, live::Tapdisks, methods};

pub(crate) fn run(ctx: &Context<'_>, args: &Args) -> Result<String, Error> {
    let sr = methods::open(ctx, super::sr(args))?;
    let freed = sr.collect(&mut Tapdisks::new(&sr, ctx.log)).map_err(errors::from_store)?;
    Ok(format!("{freed} bytes freed in SR {}\n", sr.uuid()))
}
