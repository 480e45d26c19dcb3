//! `Volume.unset`: forgets a value; one that is not there is no error.

use smapiv3::{Error, volume::UnsetParams};

use crate::{Context, methods};

pub(crate) fn run(ctx: &Context<'_>, p: UnsetParams) -> Result<(), Error> {
    Ok(methods::open(ctx, &p.sr)?.lock()?.unset_volume_key(&p.key, &p.k)?)
}
