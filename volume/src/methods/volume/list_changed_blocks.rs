//! `Volume.list_changed_blocks`: a bitmap of the blocks that changed from one volume to another.

use base64::{Engine, engine::general_purpose::STANDARD};
use smapiv3::{
    Error,
    volume::{ChangedBlocks, ListChangedBlocksParams},
};
use store::GRANULE_BYTES;

use crate::{Context, methods};

pub(crate) fn run(ctx: &Context<'_>, p: ListChangedBlocksParams) -> Result<ChangedBlocks, Error> {
    let changed =
        methods::open(ctx, &p.sr)?.lock()?.changed_blocks(&p.key, &p.key2, p.offset, p.length)?;
    // Callers read it in words of 32 bits.
    let mut bitmap = changed.bitmap;
    bitmap.resize(bitmap.len().next_multiple_of(4), 0);
    Ok(ChangedBlocks { granularity: GRANULE_BYTES, bitmap: STANDARD.encode(bitmap) })
}
