//! `SR.create`: checks that the SR can be, and returns what attaches it. Memory is taken only by
//! SR.attach, which follows.

use plugin::Context;
use schemas::{Error, StringMap, sr::CreateParams};

use crate::{device_config, errors, methods};

pub(crate) fn run(ctx: &Context<'_>, p: CreateParams) -> Result<StringMap, Error> {
    let host = methods::host(ctx);
    let new = device_config::for_create(&p, &host)?;
    host.check_new(&new.uuid, new.size).map_err(errors::from_store)?;
    Ok(device_config::of(new))
}
