//! Datapath.activate: the volume is served, for reading and writing.

use smapiv3::{Error, datapath::DomainParams};

use crate::{Context, state::Mode, vdi::Vdi};

pub(crate) fn run(ctx: &Context<'_>, p: DomainParams) -> Result<(), Error> {
    Vdi::lock(ctx, &p.uri)?.activate(p.domain, Mode::ReadWrite)
}
