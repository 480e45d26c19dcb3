//! Datapath.open: whether writes are to outlive Datapath.close. Where not, an anonymous clone takes
//! them from now on; that of an earlier session is thrown away.

use smapiv3::{Error, Failure, datapath::OpenParams};

use crate::{Context, unused::Claim, vdi::Vdi};

pub(crate) fn run(ctx: &Context<'_>, p: OpenParams) -> Result<(), Error> {
    let mut vdi = Vdi::lock(ctx, &p.uri)?;
    vdi.require_volume()?;
    if vdi.state.mode().is_some() && vdi.state.persistent == p.persistent {
        return Ok(());
    }
    vdi.end_unused(Claim::Session)?;
    if vdi.state.mode().is_some() {
        if vdi.is_alive() {
            let kept = if vdi.state.persistent { "kept" } else { "thrown away" };
            let message = format!(
                "volume {} is active and its writes are to be {kept}: deactivate it before that \
                 is changed",
                vdi.uri.key
            );
            return Err(Error::new(Failure::VdiInUse, message));
        }
        // The tapdisk of these domains is dead, so none of them uses the volume.
        vdi.state.deactivate_all();
    }
    // An image that a killed call left open.
    vdi.close_image()?;
    vdi.drop_clone()?;
    // From here on it is a clone or nothing that is served: never the volume itself by mistake.
    vdi.state.persistent = p.persistent;
    vdi.save()?;
    vdi.drop_unknown_clones();
    if p.persistent { Ok(()) } else { vdi.make_clone() }
}
