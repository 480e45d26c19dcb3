//! `Volume.create`: an empty volume, which takes memory only as it is written.

use smapiv3::{
    Error,
    volume::{CreateParams, Volume},
};
use store::NewVolume;

use crate::{Context, convert, methods};

pub(crate) fn run(ctx: &Context<'_>, p: CreateParams) -> Result<Volume, Error> {
    let sr = methods::open(ctx, &p.sr)?;
    // Sizes that no volume can have are refused by the store.
    methods::check_size(&sr, p.size.try_into().unwrap_or_default())?;
    let new = NewVolume {
        name: &p.name,
        description: &p.description,
        size: p.size,
        sharable: p.sharable,
    };
    let volume = sr.lock()?.create_volume(&new)?;
    Ok(convert::volume(sr.uuid(), volume))
}
