//! The methods, one file each, and the steps that all of them begin with.

pub(crate) mod plugin;
pub(crate) mod sr;
pub(crate) mod volume;

use host::Provider;
use smapiv3::{Error, Failure};
use store::{Host, Sr, human};

use crate::Context;

/// The host as it is configured.
pub(crate) fn host(ctx: &Context<'_>) -> Host {
    let config = ctx.config;
    Host::new(config.sr_root.clone(), config.lock_dir.clone(), config.may_mount)
}

/// Refuses a volume of `size` bytes that the tapdisk of the SR could not serve.
pub(crate) fn check_size(sr: &Sr, size: u64) -> Result<(), Error> {
    let kept = sr.provider()?;
    // That of a later version may be able to.
    let Ok(provider) = Provider::of_sr(&kept) else { return Ok(()) };
    provider.check_size(size).map_err(|error| {
        let message = format!("size {} ({size} bytes) is too large: {error}", human(size));
        Error::new(Failure::VdiSize, message)
    })
}

/// An attached SR, by its handle.
pub(crate) fn open(ctx: &Context<'_>, handle: &str) -> Result<Sr, Error> {
    Ok(Sr::open(&host(ctx), handle)?)
}
