//! A volume being served: its bytes, read and written through its map.
//!
//! Owned by one tapdisk, which holds the lock on the volume and never takes the SR's lock. It
//! changes only blocks and map pages of the volume's top, entries of the volume's index, and, by
//! punching, blocks and map pages of layers that no other volume needs.
//!
//! The order of steps makes a kill at any moment harmless: data is in its layer before the map
//! names it, a page is in the map before the index names it, a slot counts for an entry of the index before it gets
//! pairs, and a block is punched after the map has let go of it. Where the map does not name the top, the contents
//! of the top are undefined.
//!
//! Operations read the map meanwhile, without a lock on the disk. They rely on this: the entries of blocks only move
//! towards the disk's own top, or zeroes that were written under it, and what is read of a chunk is what it was at
//! one moment.

mod close;
mod erase;
mod layers;
mod load;
mod map;
mod open;
mod read;
mod slots;
mod write;

use std::collections::HashSet;

pub use self::{close::Closed, load::Loaded, open::Open, read::Piece};

use self::{erase::Found, layers::Layers, map::BlockMap};
use crate::{
    block::{BLOCK_BYTES, Layer, is_data},
    budget::Budget,
    error::{Error, ErrorKind, Result},
    files::lock::Lock,
    host::Name,
};

/// Whether a range of a disk is allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Memory is allocated to it.
    Data,
    /// It takes no memory and reads as zeros.
    Hole,
}

/// A volume, or a plain file loaded into memory, that this process serves.
#[derive(Debug)]
pub struct Disk {
    /// The volume's key; a loaded file has none.
    key: Option<Name>,
    /// Bytes. The rest of the last block is never read.
    size: u64,
    /// The layer that is written to; 0: the disk is read-only.
    top: Layer,
    map: BlockMap,
    layers: Layers,
    /// Frozen layers that only this volume needs: a block of them is freed when it is overwritten.
    sole: HashSet<Layer>,
    budget: Budget,
    found: Found,
    /// Why the last write that needed memory did not get any.
    no_room: Option<String>,
    /// Held for as long as the volume is served.
    serving: Option<Lock>,
    /// Whether a process before may have left something in its layers: see [`Served`](crate::record::Served).
    unswept: bool,
}

impl Disk {
    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Has the volume say how much data it refers to now, and not a while ago.
    pub(crate) fn note_blocks(&mut self) {
        self.map.note_blocks();
    }

    /// Why the last write that needed memory did not get any, with the remedy; `None` where it did.
    #[must_use]
    pub fn no_room(&self) -> Option<&str> {
        self.no_room.as_deref()
    }

    /// Whether writes are refused.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.top == 0
    }

    /// Whether a write to the range would release blocks that hold data. Replies that still point
    /// to them have to be copied out or sent before.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub fn write_releases(&mut self, offset: u64, length: u64) -> Result<bool> {
        let top = self.top;
        self.any(offset, length, |layer| is_data(layer) && layer != top)
    }

    /// The same of a discard.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub fn erase_releases(&mut self, offset: u64, length: u64) -> Result<bool> {
        self.any(offset, length, is_data)
    }

    fn any(&mut self, offset: u64, length: u64, wanted: impl Fn(Layer) -> bool) -> Result<bool> {
        let Ok(end) = self.end(offset, length) else { return Ok(false) };
        let (mut block, end) = (offset / BLOCK_BYTES, end.div_ceil(BLOCK_BYTES));
        while block < end {
            let (layer, stop) = self.run(block, end)?;
            if wanted(layer) {
                return Ok(true);
            }
            block = stop;
        }
        Ok(false)
    }

    /// Calls `each` with the length in bytes and the status of each part of a range, in order.
    /// Neighbours differ.
    ///
    /// # Errors
    /// [`ErrorKind::BadArgument`] for a range outside the disk.
    pub fn status(
        &mut self,
        offset: u64,
        length: u64,
        mut each: impl FnMut(u64, Status) -> std::ops::ControlFlow<()>,
    ) -> Result<()> {
        let end = self.end(offset, length)?;
        let mut at = offset;
        while at < end {
            let start = at;
            let (first, _) = self.run(at / BLOCK_BYTES, end.div_ceil(BLOCK_BYTES))?;
            while at < end {
                let (layer, stop) = self.run(at / BLOCK_BYTES, end.div_ceil(BLOCK_BYTES))?;
                if is_data(layer) != is_data(first) {
                    break;
                }
                at = (stop * BLOCK_BYTES).min(end);
            }
            let status = if is_data(first) { Status::Data } else { Status::Hole };
            if each(at - start, status).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The end of a range that has to lie inside the disk.
    fn end(&self, offset: u64, length: u64) -> Result<u64> {
        offset.checked_add(length).filter(|&end| end <= self.size).ok_or_else(|| {
            Error::new(
                ErrorKind::BadArgument,
                format!("{length} bytes at {offset} are beyond the end of a disk of {}", self.size),
            )
        })
    }

    /// Says that the byte at `offset` is read or written soon: its entry of the map is on its way into the
    /// cache then.
    #[inline]
    pub fn prefetch(&self, offset: u64) {
        self.map.prefetch(&self.layers, offset / BLOCK_BYTES);
    }

    /// The layer of `block`, and where the run of blocks with the same layer ends, at most at `end`.
    fn run(&mut self, block: u64, end: u64) -> Result<(Layer, u64)> {
        self.map.run(&mut self.layers, block, end)
    }

    fn writable(&self) -> Result<()> {
        if self.top == 0 {
            return Err(Error::new(ErrorKind::ReadOnly, "the disk is read-only"));
        }
        Ok(())
    }
}
