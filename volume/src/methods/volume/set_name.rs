//! `Volume.set_name`.

use smapiv3::{Error, volume::SetNameParams};

use crate::{Context, methods};

pub(crate) fn run(ctx: &Context<'_>, p: SetNameParams) -> Result<(), Error> {
    Ok(methods::open(ctx, &p.sr)?.lock()?.set_volume_name(&p.key, &p.new_name)?)
}
