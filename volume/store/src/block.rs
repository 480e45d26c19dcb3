//! The units of the store, and the values of an entry of a block map.

/// A block, in bytes: the unit of allocation and sharing. It is a page of tmpfs.
pub const BLOCK_BYTES: u64 = 4096;

/// Blocks whose entries fill one page of a map.
pub(crate) const CHUNK_BLOCKS: u64 = 1024;

/// A chunk, in bytes: the part of a volume that one page of a map, and one entry of an index,
/// describes.
pub const CHUNK_BYTES: u64 = BLOCK_BYTES * CHUNK_BLOCKS;

/// A page of a map, in bytes: 1024 entries of 32 bits.
pub(crate) const PAGE_BYTES: u64 = CHUNK_BLOCKS * 4;

/// Bytes as pages.
pub(crate) fn pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_BYTES)
}

/// The largest volume, in bytes. Its index takes 16 MiB of the heap of the process that serves it.
pub const VOLUME_BYTES_MAX: u64 = 16 << 40;

/// An entry of a map or an index. Mostly it is the number of a layer: the layer that holds the
/// block, or the layer whose map has the page of the chunk.
pub(crate) type Layer = u32;

/// Map entry: the block was never written, in this volume or in those that it was cloned from.
/// Reads as zeroes. Index entry: this is so of all blocks of the chunk, and there is no page.
pub(crate) const NEVER: Layer = 0;

/// Set in an entry that stands for zeros, beside the number of the layer that was the top when they
/// were written: so that the entry differs from any that was there before the volume branched off,
/// and counts as an update where volumes are compared or composed. In an index entry it speaks of
/// all blocks of the chunk, and there is no page.
const ZEROED: Layer = 1 << 31;

/// Entry of an index in the memory of a disk alone: the slot of the chunk says what the entry of the index is, and of
/// which blocks there is something else to be said. No top has the number 0.
pub(crate) const IN_SLOT: Layer = ZEROED;

/// The first number that names a layer.
pub(crate) const LAYER_FIRST: Layer = 1;

/// Numbers are below this.
pub(crate) const LAYER_END: Layer = ZEROED;

/// The entry of a block that was discarded or zeroed while `top` was written to.
pub(crate) fn zeroed(top: Layer) -> Layer {
    ZEROED | top
}

/// Whether an entry names a layer.
pub(crate) fn is_data(entry: Layer) -> bool {
    entry != NEVER && entry & ZEROED == 0
}

/// So many bytes of a block are looked at together, after its first word.
const LOOKED_AT_BYTES: usize = 128;

/// Whether a block is all zeroes. Most that are not say so in their first word.
pub(crate) fn is_zero(block: &[u8; BLOCK_BYTES as usize]) -> bool {
    let first = block.first_chunk().map_or(0, |word| u64::from_ne_bytes(*word));
    // Within one part there is no way out, so that the compiler can use wide registers.
    let is_zero = |part: &[u8; LOOKED_AT_BYTES]| part.iter().fold(0, |any, byte| any | byte) == 0;
    first == 0 && block.as_chunks().0.iter().all(is_zero)
}

/// The unit of the size of a volume, in bytes. The rest of its last block is never written, and reads as
/// zeroes once the volume has grown.
pub(crate) const SECTOR_BYTES: u64 = 512;

/// `bytes` rounded up to whole sectors; a volume has at least one. `None` on overflow.
pub(crate) fn round_up(bytes: u64) -> Option<u64> {
    bytes.max(1).checked_next_multiple_of(SECTOR_BYTES)
}

/// How many index entries a volume of `bytes` has.
pub(crate) fn chunks(bytes: u64) -> usize {
    usize::try_from(bytes.div_ceil(CHUNK_BYTES)).expect("64-bit host")
}

/// Length in bytes of the map file of a layer that holds blocks of a volume of `bytes`.
pub(crate) fn map_bytes(bytes: u64) -> u64 {
    chunks(bytes) as u64 * PAGE_BYTES
}

const _: () = assert!(BLOCK_BYTES.is_power_of_two() && CHUNK_BYTES == 4 << 20);
