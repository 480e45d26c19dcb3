//! `SR.ls`: the volumes, without those that only a datapath knows of. Damaged volumes are logged
//! instead of listed.

use smapiv3::{Error, sr::SrParams, volume::Volume};

use crate::{Context, convert, methods};

pub(crate) fn run(ctx: &Context<'_>, p: SrParams) -> Result<Vec<Volume>, Error> {
    let sr = methods::open(ctx, &p.sr)?;
    let (volumes, damaged) = sr.list()?;
    for damaged in damaged {
        // One that cannot be read must not hide all the others.
        ctx.log.error(damaged.error.chain());
    }
    Ok(volumes.into_iter().map(|volume| convert::volume(sr.uuid(), volume)).collect())
}
