//! Datapath.deactivate: a domain uses the volume no more; after the last one it is not served.

use schemas::{Error, datapath::DomainParams};

use crate::{Context, vdi::Vdi};

pub(crate) fn run(ctx: &Context<'_>, p: DomainParams) -> Result<(), Error> {
    let mut vdi = Vdi::lock(ctx, &p.uri)?;
    vdi.state.deactivate(&p.domain);
    if vdi.state.mode().is_none() {
        vdi.close_image()?;
    }
    vdi.save()
}
