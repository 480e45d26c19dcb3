//! Datapath.activate: the volume is served, for reading and writing.

use schemas::{Error, datapath::DomainParams};

use crate::{Context, disk::Disk, state::Mode};

pub(crate) fn run(ctx: &Context<'_>, p: DomainParams) -> Result<(), Error> {
    Disk::lock(ctx, &p.uri)?.activate(p.domain, Mode::ReadWrite)
}
