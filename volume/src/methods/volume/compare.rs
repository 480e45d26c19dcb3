//! `Volume.compare`: where two volumes differ. Ranges are in units of the block size
//! (`ocaml/xapi-storage/generator/lib/common.mli`), not in bytes as the store has them.

use smapiv3::{Blocklist, Error, volume::CompareParams};
use store::BLOCK_BYTES;

use crate::{Context, methods};

pub(crate) fn run(ctx: &Context<'_>, p: CompareParams) -> Result<Blocklist, Error> {
    let sr = methods::open(ctx, &p.sr)?;
    let ranges = sr.lock()?.compare_volumes(&p.key, &p.key2)?;
    let blocks = |(start, length): (u64, u64)| {
        let end = (start + length).div_ceil(BLOCK_BYTES);
        (start / BLOCK_BYTES, end - start / BLOCK_BYTES)
    };
    Ok(Blocklist { blocksize: BLOCK_BYTES, ranges: ranges.into_iter().map(blocks).collect() })
}
