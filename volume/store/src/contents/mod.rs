//! The contents of an SR without the place that they lie in: what is saved of an SR before its host
//! restarts, and what an SR is made of afterwards.
//!
//! [`Contents`] has everything but the bytes of the blocks: the records as they are, with the fields that this
//! program does not know, the indexes, the pages of the maps, and which blocks of which layer a map names.
//! Layers keep their numbers, so volumes share after a restore what they shared before. The bytes are read
//! through [`Still`](crate::Still), which keeps them from changing, and written through [`Filler`].
//!
//! What lasts no longer than a running host is left out: clones of non-persistent disks, the sources and
//! destinations of copies, and who serves a disk.

mod fill;

use std::collections::BTreeMap;

pub use self::fill::{Filler, Restore, Writer};
use crate::block::{BLOCK_BYTES, CHUNK_BLOCKS, PAGE_BYTES};

/// So many blocks make a [unit](Unit): a bit for each fits into one word.
pub const UNIT_BLOCKS: u64 = 64;

/// A page of a map, as numbers.
pub type MapPage = [u32; CHUNK_BLOCKS as usize];

/// Everything in an SR but the bytes of its blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// The record of the SR, as JSON.
    pub sr: String,
    /// The number that the next layer or index gets.
    pub next_number: u32,
    /// The records of the volumes, as JSON.
    pub volumes: Vec<String>,
    /// The indexes that they name, by number.
    pub indexes: BTreeMap<u32, SavedIndex>,
    /// The pages of maps that the indexes name: by the layer whose map has it, and by chunk.
    pub pages: BTreeMap<(u32, u32), Box<MapPage>>,
    /// The blocks that the pages name, by layer.
    pub units: BTreeMap<Unit, u64>,
}

/// Blocks of a layer that are saved together: [`UNIT_BLOCKS`] of them, in order of their layers and offsets. With
/// a mask of a bit for each block, the lowest for the first, it says which blocks hold data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unit {
    /// The layer.
    pub layer: u32,
    /// The first block, divided by [`UNIT_BLOCKS`].
    pub number: u32,
}

/// The index of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedIndex {
    /// How many blocks of data it refers to, where that is known.
    pub blocks: Option<u64>,
    /// Chunks and their entries, those left out that were never written.
    pub entries: Vec<(u32, u32)>,
    /// Chunks of which it says something else of some blocks, and the positions and entries of these.
    pub deltas: Vec<(u32, Vec<(u32, u32)>)>,
}

impl Contents {
    /// Bytes of data.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.units.values().map(|mask| u64::from(mask.count_ones()) * BLOCK_BYTES).sum()
    }

    /// About how much memory an SR takes that has these contents, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let indexes = self.indexes.values().map(|index| {
            // A page has 1024 entries, or 64 slots.
            let mut pages: Vec<u32> = index.entries.iter().map(|(chunk, _)| chunk / 1024).collect();
            let mut slots: Vec<u32> = index.deltas.iter().map(|(chunk, _)| chunk / 64).collect();
            pages.dedup();
            slots.dedup();
            (pages.len() + slots.len()) as u64
        });
        let metadata = indexes.sum::<u64>() + self.pages.len() as u64 + self.volumes.len() as u64;
        self.data_bytes() + metadata * PAGE_BYTES
    }
}

/// The runs of blocks of a unit that a mask names: offset in the layer, and length, both in bytes.
pub(crate) fn runs(unit: Unit, mask: u64) -> impl Iterator<Item = (u64, usize)> {
    let (mut left, mut at) = (mask, u64::from(unit.number) * UNIT_BLOCKS);
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let skipped = left.trailing_zeros();
        left >>= skipped;
        let count = left.trailing_ones();
        left = left.checked_shr(count).unwrap_or(0);
        let first = at + u64::from(skipped);
        at = first + u64::from(count);
        Some((first * BLOCK_BYTES, count as usize * BLOCK_BYTES as usize))
    })
}
