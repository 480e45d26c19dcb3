//! `srs`: lists the SRs in this host's memory, those that the toolstack has forgotten and those that
//! are damaged included.

use smapiv3::Error;
use smapiv3_plugin::Args;

use crate::{
    Context,
    methods::{self, plugin::diagnostics},
};

pub(crate) fn run(ctx: &Context<'_>, _: &Args) -> Result<String, Error> {
    let host = methods::host(ctx);
    let found = host.srs()?;
    let damaged = host.damaged_srs()?;
    let sound = found.iter().map(|sr| diagnostics::describe_sr(&sr.stat));
    let damaged = damaged.iter().map(|(uuid, error)| diagnostics::describe_damaged_sr(uuid, error));
    Ok(sound.chain(damaged).map(|line| line + "\n").collect())
}
