//! `Volume.disable_cbt`: changed blocks can always be listed; callers want the flag to change.

use smapiv3::{Error, volume::VolumeParams};

use crate::{Context, methods};

pub(crate) fn run(ctx: &Context<'_>, p: VolumeParams) -> Result<(), Error> {
    Ok(methods::open(ctx, &p.sr)?.lock()?.set_volume_cbt(&p.key, false)?)
}
