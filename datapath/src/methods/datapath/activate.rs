//! Datapath.activate: the volume is served, for reading and writing.

use plugin::Context;
use schemas::{Error, datapath::DomainParams};

use crate::{disk::Disk, state::Mode};

pub(crate) fn run(ctx: &Context<'_>, p: DomainParams) -> Result<(), Error> {
    Disk::lock(ctx, &p.uri)?.activate(p.domain, Mode::ReadWrite)
}
