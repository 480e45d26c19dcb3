//! Datapath.activate_readonly: the volume is served, and writes are refused.

use smapiv3::{Error, datapath::DomainParams};

use crate::{Context, state::Mode, vdi::Vdi};

pub(crate) fn run(ctx: &Context<'_>, p: DomainParams) -> Result<(), Error> {
    Vdi::lock(ctx, &p.uri)?.activate(p.domain, Mode::ReadOnly)
}
