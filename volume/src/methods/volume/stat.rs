//! `Volume.stat`: the properties of a volume, and the URI that a datapath reaches it by.

use smapiv3::{
    Error,
    volume::{Volume, VolumeParams},
};

use crate::{Context, convert, methods};

pub(crate) fn run(ctx: &Context<'_>, p: VolumeParams) -> Result<Volume, Error> {
    let sr = methods::open(ctx, &p.sr)?;
    let volume = sr.volume(&p.key)?;
    Ok(convert::volume(sr.uuid(), volume))
}
