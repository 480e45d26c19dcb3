//! `SR.attach`: finds the SR's memory, or makes it where a reboot has emptied it.

use schemas::{Error, sr::ConfigurationParams};

use crate::{Context, device_config, methods};

pub(crate) fn run(ctx: &Context<'_>, p: ConfigurationParams) -> Result<String, Error> {
    let host = methods::host(ctx);
    let wanted = device_config::for_attach(&p.configuration)?;
    let sr = host.attach(&wanted)?;
    Ok(sr.uuid().to_string())
}
