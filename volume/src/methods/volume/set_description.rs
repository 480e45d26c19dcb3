//! `Volume.set_description`.

use smapiv3::{Error, volume::SetDescriptionParams};

use crate::{Context, methods};

pub(crate) fn run(ctx: &Context<'_>, p: SetDescriptionParams) -> Result<(), Error> {
    Ok(methods::open(ctx, &p.sr)?.lock()?.set_volume_description(&p.key, &p.new_description)?)
}
