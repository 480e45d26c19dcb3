//! `Volume.similar_content`: the volumes that share something with one, the most alike first.

use smapiv3::{Error, volume::VolumeParams};

use crate::{Context, methods};

pub(crate) fn run(ctx: &Context<'_>, p: VolumeParams) -> Result<Vec<String>, Error> {
    let keys = methods::open(ctx, &p.sr)?.lock()?.similar_volumes(&p.key)?;
    Ok(keys.iter().map(ToString::to_string).collect())
}
