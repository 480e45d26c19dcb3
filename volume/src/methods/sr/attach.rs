//! `SR.attach`: finds the SR's memory, gives it the size of its configuration, or makes it where a reboot has
//! emptied it, from its save if it has one; and the file of its graphs, which the daemon reads from then on.

use smapiv3::{Error, sr::ConfigurationParams};

use store::{Sr, Swap, SwapSpace};

use crate::{Context, convert, device_config, graphs, methods, saving};

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
    say_of_swap(ctx, &sr)?;
    graphs::made(ctx, &sr);
    Ok(sr.uuid().to_string())
}

/// Says in the log what becomes of device-config:swap.
fn say_of_swap(ctx: &Context<'_>, sr: &Sr) -> Result<(), Error> {
    let ((wanted, swap), uuid) = (sr.swap()?, sr.uuid());
    let has_swap = SwapSpace::now().is_ok_and(|swap| swap.size > 0);
    if let Some(word) = convert::swapped(uuid, wanted, swap, has_swap) {
        ctx.log.warning(word);
    }
    if wanted && swap == Swap::InAnyCase {
        ctx.log.info(format!(
            "SR {uuid}: device-config:swap=true makes no difference here: this kernel knows no tmpfs without swap, \
             and may swap every ram SR"
        ));
    }
    if wanted && !has_swap {
        ctx.log.warning(format!(
            "SR {uuid}: device-config:swap=true, but this host has no swap: ram-sr(7) tells how to make zram"
        ));
    }
    Ok(())
}
