//! `Volume.data_destroy`: drops the data of a snapshot and keeps its map, by which changed blocks
//! are listed. Anything but a snapshot is refused, as xapi itself refuses it.

use smapiv3::{Error, volume::VolumeParams};

use crate::{Context, live::Tapdisks, methods, unused::end_and_retry};

pub(crate) fn run(ctx: &Context<'_>, p: VolumeParams) -> Result<(), Error> {
    let sr = methods::open(ctx, &p.sr)?;
    end_and_retry(ctx, &p.sr, Some(&p.key), || {
        sr.lock()?.destroy_volume_data(&p.key, &mut Tapdisks::new(&sr, ctx.log))
    })
}
