//! `Volume.enable_cbt`: changed blocks can always be told; this is what callers want to hear.

use schemas::{Error, volume::VolumeParams};

use crate::{Context, methods};

pub(crate) fn run(ctx: &Context<'_>, p: VolumeParams) -> Result<(), Error> {
    Ok(methods::open(ctx, &p.sr)?.lock()?.set_volume_cbt(&p.key, true)?)
}
