//! `gc`: frees what operations left that were killed.

use plugin::Args;
use schemas::Error;

use crate::{Context, live::Tapdisks, methods};

pub(crate) fn run(ctx: &Context<'_>, args: &Args) -> Result<String, Error> {
    let sr = methods::open(ctx, super::sr(args))?;
    let freed = sr.lock()?.collect(&mut Tapdisks::new(&sr, ctx.log))?;
    Ok(format!("{freed} bytes freed in SR {}\n", sr.uuid()))
}
