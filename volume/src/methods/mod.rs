//! The methods, one file each, and what all of them begin with.

pub(crate) mod plugin;
pub(crate) mod sr;
pub(crate) mod volume;

use ::plugin::Context;
use schemas::Error;
use store::{Host, Sr};

use crate::errors;

/// The host that the environment describes.
pub(crate) fn host(ctx: &Context<'_>) -> Host {
    Host::from_env(|name| ctx.env.get(name)?.into_string().ok())
}

/// An attached SR, by its handle.
pub(crate) fn open(ctx: &Context<'_>, handle: &str) -> Result<Sr, Error> {
    Sr::open(&host(ctx), handle).map_err(errors::from_store)
}
