//! `gc`: frees the leftovers of killed operations.

use smapiv3::Error;
use smapiv3_plugin::Args;

use crate::{Context, live::Tapdisks, methods};

pub(crate) fn run(ctx: &Context<'_>, args: &Args) -> Result<String, Error> {
    let sr = methods::open(ctx, super::sr(args))?;
    let freed = sr.lock()?.collect(&mut Tapdisks::new(&sr, ctx.log))?;
    Ok(format!("{freed} bytes freed in SR {}\n", sr.uuid()))
}
