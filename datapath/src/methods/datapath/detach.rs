//! Datapath.detach: a domain has done with the volume; after the last one there is no tapdisk.

use schemas::{Error, datapath::DomainParams};

use crate::{Context, disk::Disk};

pub(crate) fn run(ctx: &Context<'_>, p: DomainParams) -> Result<(), Error> {
    let mut disk = Disk::lock(ctx, &p.uri)?;
    disk.state.domains.remove(&p.domain);
    if disk.state.domains.is_empty() {
        disk.stop()?;
    } else if disk.state.mode().is_none() {
        // It detaches without having deactivated.
        disk.close_image()?;
    }
    disk.save()
}
