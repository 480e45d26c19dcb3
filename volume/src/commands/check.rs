//! `check`: checks the invariants of an SR against its files.

use smapiv3::{Error, Failure};
use smapiv3_plugin::Args;

use crate::{Context, methods};

pub(crate) fn run(ctx: &Context<'_>, args: &Args) -> Result<String, Error> {
    let sr = methods::open(ctx, super::sr(args))?;
    let found = sr.lock()?.check()?;
    if found.is_empty() {
        return Ok(format!("SR {} is sound\n", sr.uuid()));
    }
    Err(Error::new(
        Failure::MetadataError,
        format!("SR {} is not sound: {}", sr.uuid(), found.join("; ")),
    ))
}
