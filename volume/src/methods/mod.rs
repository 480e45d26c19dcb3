//! The methods, one file each, and what all of them begin with.

pub(crate) mod plugin;
pub(crate) mod sr;
pub(crate) mod volume;

use schemas::Error;
use store::{Host, Sr};

use crate::Context;

/// The host as it is configured.
pub(crate) fn host(ctx: &Context<'_>) -> Host {
    let config = ctx.config;
    Host::new(config.sr_root.clone(), config.lock_dir.clone(), config.may_mount)
}

/// An attached SR, by its handle.
pub(crate) fn open(ctx: &Context<'_>, handle: &str) -> Result<Sr, Error> {
    Ok(Sr::open(&host(ctx), handle)?)
}
