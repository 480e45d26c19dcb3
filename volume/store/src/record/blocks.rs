//! How many blocks of data a volume refers to, shared or not: what it would take by itself.
//!
//! The length of its index says so, since a length takes no memory, and asking for it costs no more than a
//! look at any file. An index that was written by a program without these counts is shorter than all of
//! them. The length also says whether the index has [slots](super::delta), for which it has room behind its entries.

use std::{fs::File, io};

use crate::{
    block::{CHUNK_BYTES, PAGE_BYTES, VOLUME_BYTES_MAX},
    files::{Dirs, Entry, steps},
    record::delta::SLOT_BYTES,
};

/// The length of an index without slots grows by so many bytes with each block.
const STEP_BYTES: u64 = 32 << 20;
/// The length of an index with slots grows by so many, and is that much more.
const STEP_WITH_SLOTS_BYTES: u64 = 512 << 20;
const MORE_BYTES: u64 = PAGE_BYTES;
/// Where the slots of an index begin, in bytes: behind the entries of the largest volume.
pub(crate) const SLOTS_AT: u64 = CHUNKS_MAX * 4;
/// What the slots of the largest volume take, in bytes of the file's length.
pub(crate) const SLOTS_BYTES: u64 = CHUNKS_MAX * SLOT_BYTES as u64;
const CHUNKS_MAX: u64 = VOLUME_BYTES_MAX / CHUNK_BYTES;

const _: () =
    assert!(CHUNKS_MAX * 4 < STEP_BYTES && SLOTS_AT + SLOTS_BYTES <= STEP_WITH_SLOTS_BYTES);
const _: () = assert!(STEP_WITH_SLOTS_BYTES.is_multiple_of(STEP_BYTES) && MORE_BYTES < STEP_BYTES);

/// What the length of an index says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// How many blocks of data it refers to; `None`: it was written without a count, and has no slots.
    pub(crate) blocks: Option<u64>,
    pub(crate) has_slots: bool,
}

impl Said {
    /// What the index of an empty volume says.
    pub(crate) fn empty(has_slots: bool) -> Self {
        Self { blocks: Some(0), has_slots }
    }

    pub(crate) fn of(length: u64) -> Self {
        let has_slots = length >= STEP_WITH_SLOTS_BYTES && length % STEP_BYTES == MORE_BYTES;
        let step = if has_slots { STEP_WITH_SLOTS_BYTES } else { STEP_BYTES };
        Self { blocks: (length / step).checked_sub(1), has_slots }
    }

    /// What an index says.
    pub(crate) fn of_file(index: &File) -> io::Result<Self> {
        Ok(Self::of(index.metadata()?.len()))
    }

    /// The length of an index with so many entries that says this.
    pub(crate) fn length(self, entries: usize) -> u64 {
        match self.blocks {
            None => entries as u64 * 4,
            Some(blocks) if self.has_slots => (blocks + 1) * STEP_WITH_SLOTS_BYTES + MORE_BYTES,
            Some(blocks) => (blocks + 1) * STEP_BYTES,
        }
    }
}

/// What an index says of its blocks; `None` also where there is no such index.
pub(crate) fn blocks_in(dirs: &Dirs, index: u32) -> Option<u64> {
    let found = dirs.stat(Entry::Index(index)).ok()?;
    Said::of(u64::try_from(found.st_size).ok()?).blocks
}

/// The blocks of a volume that is being served, and the index that says how many they are.
///
/// While they change, the index may be some blocks behind. It is right when the disk is closed; where the
/// disk is killed instead, a collection puts it right.
#[derive(Debug, Default)]
pub(crate) struct BlockCount {
    /// Blocks that are not known are left so.
    said: Said,
    noted: u64,
}

/// So far the index may be behind: 1 MiB of data.
const BEHIND_MAX: u64 = 256;

impl BlockCount {
    /// As the index says when it is opened.
    pub(crate) fn new(said: Said) -> Self {
        Self { said, noted: said.blocks.unwrap_or_default() }
    }

    pub(crate) fn get(&self) -> Said {
        self.said
    }

    /// Counts blocks, and notes them in the index from time to time.
    pub(crate) fn change(&mut self, more: u64, less: u64, index: Option<&File>) {
        let Some(blocks) = &mut self.said.blocks else { return };
        *blocks = (*blocks + more).saturating_sub(less);
        if blocks.abs_diff(self.noted) >= BEHIND_MAX {
            self.note(index);
        }
    }

    /// Notes them now. Where that fails, the index stays behind.
    pub(crate) fn note(&mut self, index: Option<&File>) {
        let (Some(blocks), Some(index)) = (self.said.blocks, index) else { return };
        if blocks != self.noted && steps::set_len(index, self.said.length(0)).is_ok() {
            self.noted = blocks;
        }
    }
}

/// Lets an index say how many blocks its volume refers to.
pub(crate) fn set_blocks(index: &File, blocks: u64) -> io::Result<()> {
    let said = Said { blocks: Some(blocks), ..Said::of_file(index)? };
    steps::set_len(index, said.length(0))
}
