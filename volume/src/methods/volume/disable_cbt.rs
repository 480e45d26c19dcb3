//! `Volume.disable_cbt`: changed blocks can always be told; this is what callers want to hear.

use schemas::{Error, volume::VolumeParams};

use crate::{Context, errors, methods};

pub(crate) fn run(ctx: &Context<'_>, p: VolumeParams) -> Result<(), Error> {
    methods::open(ctx, &p.sr)?.set_cbt_enabled(&p.key, false).map_err(errors::from_store)
}
