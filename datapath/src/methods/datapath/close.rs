//! Datapath.close: the session is over. Writes that were not to be kept are thrown away.

use schemas::{Error, Failure, datapath::UriParams};

use crate::{Context, disk::Disk};

pub(crate) fn run(ctx: &Context<'_>, p: UriParams) -> Result<(), Error> {
    let mut disk = Disk::lock(ctx, &p.uri)?;
    if disk.state.persistent && disk.state.clone.is_none() {
        disk.drop_unknown_clones();
        return Ok(());
    }
    if !disk.state.persistent {
        if disk.state.mode().is_some() && disk.is_alive() {
            let message = format!(
                "volume {} is active, and closing it would throw away what is in use: deactivate \
                 it first",
                disk.uri.key
            );
            return Err(Error::new(Failure::VdiInUse, message));
        }
        // Whoever had it active has lost it with the tapdisk.
        disk.state.deactivate_all();
        disk.close_image()?;
    }
    disk.drop_clone()?;
    if disk.state.clone.is_none() {
        disk.state.persistent = true;
    }
    disk.save()
}
