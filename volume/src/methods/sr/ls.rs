//! `SR.ls`: the volumes, without those that only a datapath knows of.

use plugin::Context;
use schemas::{Error, sr::SrParams, volume::Volume};

use crate::{convert, errors, methods};

pub(crate) fn run(ctx: &Context<'_>, p: SrParams) -> Result<Vec<Volume>, Error> {
    let sr = methods::open(ctx, &p.sr)?;
    let volumes = sr.volumes().map_err(errors::from_store)?;
    Ok(volumes.into_iter().map(|volume| convert::volume(sr.uuid(), volume)).collect())
}
