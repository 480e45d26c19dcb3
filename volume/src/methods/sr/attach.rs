//! `SR.attach`: finds the SR's memory, gives it the size of its configuration, or makes it where a reboot has
//! emptied it, from its save if it has one; and the file of its graphs, which the daemon reads from then on.

use smapiv3::{Error, sr::ConfigurationParams};

use crate::{Context, device_config, graphs, methods, saving};

pub(crate) fn run(ctx: &Context<'_>, p: ConfigurationParams) -> Result<String, Error> {
    let host = methods::host(ctx);
    let wanted = device_config::for_attach(&p.configuration)?;
    let sr = saving::attach(ctx, &host, &wanted)?;
    let size = sr.size()?;
    if size != wanted.size {
        // A command has given it another one since.
        let said = device_config::other_size(size, wanted.size);
        ctx.log.warning(format!("SR {} has {} bytes; {said}", sr.uuid(), size));
    }
    graphs::made(ctx, &sr);
    Ok(sr.uuid().to_string())
}
