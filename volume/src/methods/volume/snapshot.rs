//! `Volume.snapshot`: a read-only volume with the contents that the volume has now, active or not.

use smapiv3::{
    Error,
    volume::{Volume, VolumeParams},
};

use crate::{Context, convert, live::Tapdisks, methods};

pub(crate) fn run(ctx: &Context<'_>, p: VolumeParams) -> Result<Volume, Error> {
    let sr = methods::open(ctx, &p.sr)?;
    let made = sr.lock()?.snapshot_volume(&p.key, &mut Tapdisks::new(&sr, ctx.log))?;
    Ok(convert::volume(sr.uuid(), made))
}
