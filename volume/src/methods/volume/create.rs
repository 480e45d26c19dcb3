//! `Volume.create`: an empty volume, which takes memory only as it is written.

use schemas::{
    Error,
    volume::{CreateParams, Volume},
};
use store::NewVolume;

use crate::{Context, convert, errors, methods};

pub(crate) fn run(ctx: &Context<'_>, p: CreateParams) -> Result<Volume, Error> {
    let sr = methods::open(ctx, &p.sr)?;
    let new = NewVolume {
        name: &p.name,
        description: &p.description,
        size: p.size,
        sharable: p.sharable,
    };
    let volume = sr.create_volume(&new).map_err(errors::from_store)?;
    Ok(convert::volume(sr.uuid(), volume))
}
