//! The units of the store, and what an entry of a block map says.

/// A block: the unit of allocation and sharing, a page of tmpfs. Bytes.
pub const BLOCK_BYTES: u64 = 4096;

/// Blocks whose entries fill one page of a map.
pub(crate) const CHUNK_BLOCKS: u64 = 1024;

/// A chunk: what one page of a map, and one entry of an index, speaks of. Bytes.
pub const CHUNK_BYTES: u64 = BLOCK_BYTES * CHUNK_BLOCKS;

/// A page of a map: 1024 entries of 32 bits. Bytes.
pub(crate) const PAGE_BYTES: u64 = CHUNK_BLOCKS * 4;

/// The largest volume: what the index of a volume can name within a heap of 16 MiB. Bytes.
pub const VOLUME_BYTES_MAX: u64 = 16 << 40;

/// The number of a layer, as map and index entries carry it.
pub(crate) type Layer = u32;

/// Map entry: the block was never written, in this volume or in what it came from. Reads as zeros.
/// Index entry: so are all blocks of the chunk, and there is no page.
pub(crate) const NEVER: Layer = 0;

/// Map entry: the block was discarded or overwritten with zeros. Reads as zeros, but counts as an
/// update when volumes are compared or composed. Index entry: so are all blocks of the chunk.
pub(crate) const ZEROED: Layer = 1;

/// The first number that names a layer.
pub(crate) const LAYER_FIRST: Layer = 2;

/// Whether a map entry names data.
pub(crate) fn is_data(entry: Layer) -> bool {
    entry >= LAYER_FIRST
}

/// `bytes` rounded up to whole blocks; a volume has at least one. `None` on overflow.
pub(crate) fn round_up(bytes: u64) -> Option<u64> {
    bytes.max(1).checked_next_multiple_of(BLOCK_BYTES)
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
