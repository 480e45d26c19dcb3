//! Datapath.deactivate: a domain uses the volume no more; after the last one it is not served.

use schemas::{Error, datapath::DomainParams};

use crate::{Context, disk::Disk};

pub(crate) fn run(ctx: &Context<'_>, p: DomainParams) -> Result<(), Error> {
    let mut disk = Disk::lock(ctx, &p.uri)?;
    disk.state.deactivate(&p.domain);
    if disk.state.mode().is_none() {
        disk.close_image()?;
    }
    disk.save()
}
