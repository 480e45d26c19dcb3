//! Datapath.open: whether writes are to outlive Datapath.close. Where not, an anonymous clone takes
//! them from now on; that of an earlier session is thrown away.

use schemas::{Error, Failure, datapath::OpenParams};

use crate::{Context, disk::Disk};

pub(crate) fn run(ctx: &Context<'_>, p: OpenParams) -> Result<(), Error> {
    let mut disk = Disk::lock(ctx, &p.uri)?;
    disk.require_volume()?;
    if disk.state.mode().is_some() {
        if disk.state.persistent == p.persistent {
            return Ok(());
        }
        if disk.is_alive() {
            let kept = if disk.state.persistent { "kept" } else { "thrown away" };
            let message = format!(
                "volume {} is active and its writes are to be {kept}: deactivate it before that \
                 is changed",
                disk.uri.key
            );
            return Err(Error::new(Failure::VdiInUse, message));
        }
        // The tapdisk that they had it from is dead: nobody uses it.
        disk.state.deactivate_all();
    }
    // What a call left open that was killed.
    disk.close_image()?;
    disk.drop_clone()?;
    // From here on it is a clone or nothing that is served: never the volume itself by mistake.
    disk.state.persistent = p.persistent;
    disk.save()?;
    disk.drop_unknown_clones();
    if p.persistent { Ok(()) } else { disk.make_clone() }
}
