//! Datapath.detach: a domain has done with the volume; after the last one there is no tapdisk.

use smapiv3::{Error, datapath::DomainParams};

use crate::{Context, vdi::Vdi};

pub(crate) fn run(ctx: &Context<'_>, p: DomainParams) -> Result<(), Error> {
    let mut vdi = Vdi::lock(ctx, &p.uri)?;
    if vdi.is_mirrored() {
        // It may detach without having deactivated, which is a cut-over as well.
        vdi.cut_over(&p.domain)?;
    }
    vdi.state.domains.remove(&p.domain);
    if vdi.state.domains.is_empty() {
        vdi.end_mirrors();
        vdi.stop()?;
    } else if vdi.state.mode().is_none() {
        vdi.close_image()?;
    }
    vdi.save()
}
