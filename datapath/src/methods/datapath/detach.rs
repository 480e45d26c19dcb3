//! Datapath.detach: a domain has done with the volume; after the last one there is no tapdisk.

use schemas::{Error, datapath::DomainParams};

use crate::{Context, vdi::Vdi};

pub(crate) fn run(ctx: &Context<'_>, p: DomainParams) -> Result<(), Error> {
    let mut vdi = Vdi::lock(ctx, &p.uri)?;
    vdi.state.domains.remove(&p.domain);
    if vdi.state.domains.is_empty() {
        vdi.stop()?;
    } else if vdi.state.mode().is_none() {
        // It detaches without having deactivated.
        vdi.close_image()?;
    }
    vdi.save()
}
