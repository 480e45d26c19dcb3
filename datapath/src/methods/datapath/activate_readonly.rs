//! Datapath.activate_readonly: the volume is served, and writes are refused.

use plugin::Context;
use schemas::{Error, datapath::DomainParams};

use crate::{disk::Disk, state::Mode};

pub(crate) fn run(ctx: &Context<'_>, p: DomainParams) -> Result<(), Error> {
    Disk::lock(ctx, &p.uri)?.activate(p.domain, Mode::ReadOnly)
}
