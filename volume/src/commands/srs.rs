//! `srs`: lists the SRs in this host's memory, those that the toolstack has forgotten included.

use plugin::{Args, Context};
use schemas::Error;

use crate::{errors, methods};

pub(crate) fn run(ctx: &Context<'_>, _: &Args) -> Result<String, Error> {
    let found = methods::host(ctx).srs().map_err(errors::from_store)?;
    Ok(found.iter().map(|sr| methods::plugin::diagnostics::describe_sr(&sr.stat) + "\n").collect())
}
