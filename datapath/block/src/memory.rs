//! The smallest disk: a memory file that is mapped once, with one flag for each 4 KiB block. For tests
//! of frontends, and to see what a [`Disk`] has to do.
//!
//! A block that was never written, or was discarded, is a hole of the file and is not touched by reads.

use std::{fs::File, io, thread, time::Duration};

use memory::{Slice, WriteMap, WriteSlice};
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};

use crate::{Disk, Extent, StatusExtent};

/// Unit of allocation, in bytes.
const BLOCK_BYTES: u64 = 4096;

/// A disk in memory.
#[derive(Debug)]
pub struct Memory {
    file: File,
    map: WriteMap,
    size: u64,
    present: Vec<bool>,
    /// Whether writes are refused.
    pub read_only: bool,
    /// An error for the next operation, which then does nothing.
    pub fail_next: Option<io::Error>,
    /// How long the next write takes.
    pub slow_write: Option<Duration>,
    /// How many writes, discards and writes of zeroes were carried out.
    pub changes: u64,
    /// How many flushes were carried out.
    pub flushes: u64,
}

impl Memory {
    /// A disk of that many bytes, all holes.
    ///
    /// # Errors
    /// Where there is no memory file of that size.
    pub fn new(size: u64) -> io::Result<Self> {
        let file = File::from(memfd_create("block-memory", MemfdFlags::CLOEXEC)?);
        let blocks = size.div_ceil(BLOCK_BYTES);
        file.set_len(blocks * BLOCK_BYTES)?;
        let length =
            usize::try_from(blocks * BLOCK_BYTES).map_err(|_| io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            map: WriteMap::new(&file, 0, length)?,
            file,
            size,
            present: vec![false; length / BLOCK_BYTES as usize],
            read_only: false,
            fail_next: None,
            slow_write: None,
            changes: 0,
            flushes: 0,
        })
    }

    /// Calls `each` with every run of blocks that are alike: offset, length, whether they are there.
    fn runs(&self, offset: u64, length: u64, mut each: impl FnMut(u64, u64, bool)) {
        let end = offset + length;
        let mut at = offset;
        while at < end {
            let block = (at / BLOCK_BYTES) as usize;
            let last = end.div_ceil(BLOCK_BYTES) as usize;
            let present = self.present[block];
            let alike = self.present[block..last].iter().take_while(|p| **p == present).count();
            let next = ((block + alike) as u64 * BLOCK_BYTES).min(end);
            each(at, next - at, present);
            at = next;
        }
    }

    fn failure(&mut self) -> io::Result<()> {
        self.fail_next.take().map_or(Ok(()), Err)
    }
}

impl Disk for Memory {
    type Structure = Self;

    fn size(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn structure(&mut self) -> &mut Self {
        self
    }

    fn read(&mut self, offset: u64, length: u32, into: &mut Vec<Extent>) -> io::Result<()> {
        self.failure()?;
        self.runs(offset, length.into(), |at, length, present| {
            into.push(if present {
                Extent::Data(Slice::new(self.map.reader(), at as usize, length as usize))
            } else {
                Extent::Zeroes(length as u32)
            });
        });
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.failure()?;
        if let Some(time) = self.slow_write.take() {
            thread::sleep(time);
        }
        self.changes += 1;
        self.map.write(offset as usize, data);
        let end = (offset + data.len() as u64).div_ceil(BLOCK_BYTES) as usize;
        self.present[(offset / BLOCK_BYTES) as usize..end].fill(true);
        Ok(())
    }

    fn places(&mut self, offset: u64, length: u32, into: &mut Vec<WriteSlice>) -> io::Result<bool> {
        self.failure()?;
        let end = (offset + u64::from(length)).div_ceil(BLOCK_BYTES) as usize;
        if self.present[(offset / BLOCK_BYTES) as usize..end].contains(&false) {
            return Ok(false);
        }
        self.changes += 1;
        into.push(WriteSlice::new(&self.map, offset as usize, length as usize));
        Ok(true)
    }

    fn write_zeroes(&mut self, offset: u64, length: u64, keep_allocated: bool) -> io::Result<()> {
        self.failure()?;
        self.changes += 1;
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, punch, offset, length)?;
        let whole =
            offset.div_ceil(BLOCK_BYTES) as usize..((offset + length) / BLOCK_BYTES) as usize;
        if keep_allocated {
            fallocate(&self.file, FallocateFlags::KEEP_SIZE, offset, length)?;
            let end = (offset + length).div_ceil(BLOCK_BYTES) as usize;
            self.present[(offset / BLOCK_BYTES) as usize..end].fill(true);
        } else if !whole.is_empty() {
            self.present[whole].fill(false);
        }
        Ok(())
    }

    fn discard(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.write_zeroes(offset, length, false)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.failure()?;
        self.flushes += 1;
        Ok(())
    }

    fn status(&mut self, offset: u64, length: u64, into: &mut Vec<StatusExtent>) -> io::Result<()> {
        self.failure()?;
        self.runs(offset, length, |_, length, present| {
            into.push(StatusExtent { length, hole: !present, zero: !present });
        });
        Ok(())
    }
}
