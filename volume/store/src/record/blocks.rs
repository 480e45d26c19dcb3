//! How many blocks of data a volume refers to, shared or not: what it would take by itself.
//!
//! The length of its index says so, since a length takes no memory, and asking for it costs no more than a
//! look at any file. An index that was written by a program without these counts is shorter than all of
//! them.

use std::{fs::File, io};

use crate::{
    block::{CHUNK_BYTES, VOLUME_BYTES_MAX},
    files::{Dirs, Entry, steps},
};

/// The length of an index grows by so many bytes with each block.
const STEP_BYTES: u64 = 32 << 20;

const _: () = assert!(VOLUME_BYTES_MAX / CHUNK_BYTES * 4 < STEP_BYTES);

/// The length of the index of a volume that refers to so many blocks.
pub(crate) fn index_length(blocks: u64) -> u64 {
    (blocks + 1) * STEP_BYTES
}

/// What the length of an index says; `None` where it was written without a count.
pub(crate) fn blocks_of(length: u64) -> Option<u64> {
    (length / STEP_BYTES).checked_sub(1)
}

/// What an index says; `None` also where there is no such index.
pub(crate) fn blocks_in(dirs: &Dirs, index: u32) -> Option<u64> {
    let found = dirs.stat(Entry::Index(index)).ok()?;
    blocks_of(u64::try_from(found.st_size).ok()?)
}

/// The blocks of a volume that is being served, and the index that says how many they are.
///
/// While they change, the index may be some blocks behind. It is right when the disk is closed; where the
/// disk is killed instead, a collection puts it right.
#[derive(Debug)]
pub(crate) struct BlockCount {
    /// `None`: not known, and left so.
    blocks: Option<u64>,
    noted: u64,
}

/// So far the index may be behind: 1 MiB of data.
const BEHIND_MAX: u64 = 256;

impl BlockCount {
    /// As the index says when it is opened.
    pub(crate) fn new(blocks: Option<u64>) -> Self {
        Self { blocks, noted: blocks.unwrap_or_default() }
    }

    pub(crate) fn get(&self) -> Option<u64> {
        self.blocks
    }

    /// Counts blocks, and notes them in the index from time to time.
    pub(crate) fn change(&mut self, more: u64, less: u64, index: Option<&File>) {
        let Some(blocks) = &mut self.blocks else { return };
        *blocks = (*blocks + more).saturating_sub(less);
        if blocks.abs_diff(self.noted) >= BEHIND_MAX {
            self.note(index);
        }
    }

    /// Notes them now. Where that fails, the index stays behind.
    pub(crate) fn note(&mut self, index: Option<&File>) {
        let (Some(blocks), Some(index)) = (self.blocks, index) else { return };
        if blocks != self.noted && set_blocks(index, blocks).is_ok() {
            self.noted = blocks;
        }
    }
}

/// Lets an index say how many blocks its volume refers to.
pub(crate) fn set_blocks(index: &File, blocks: u64) -> io::Result<()> {
    steps::set_len(index, index_length(blocks))
}
