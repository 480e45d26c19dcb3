//! Datapath.close: the session is over. Writes that were not to be kept are thrown away.

use smapiv3::{Error, Failure, datapath::UriParams};

use crate::{Context, unused::Claim, vdi::Vdi};

pub(crate) fn run(ctx: &Context<'_>, p: UriParams) -> Result<(), Error> {
    let mut vdi = Vdi::lock(ctx, &p.uri)?;
    if vdi.state.persistent && vdi.state.clone.is_none() {
        vdi.drop_unknown_clones();
        return Ok(());
    }
    if !vdi.state.persistent {
        vdi.end_unused(Claim::Session)?;
        if vdi.state.mode().is_some() && vdi.is_alive() {
            let message = format!(
                "volume {} is active, and closing it would throw away what is in use: deactivate \
                 it first",
                vdi.uri.key
            );
            return Err(Error::new(Failure::VdiInUse, message));
        }
        // The domains that had it active have lost it with the tapdisk.
        vdi.state.deactivate_all();
        vdi.close_image()?;
    }
    vdi.drop_clone()?;
    if vdi.state.clone.is_none() {
        vdi.state.persistent = true;
    }
    vdi.save()
}
