//! The interface between a drive and the crate that stores a disk.

use std::io;

use memory::WriteSlice;

use crate::{Extent, StatusExtent};

/// The bytes of a virtual disk.
///
/// A [`Drive`](crate::Drive) is the only caller of these methods. Ranges are checked before they get
/// here: never beyond [`size`](Self::size), never empty, and nothing changes a read-only disk. A method
/// never waits. Each one has taken effect when it returns, or has failed: a failed write may have been
/// applied in part.
///
/// [`Slice`](memory::Slice)s that `read` hands out keep their contents until something changes those
/// blocks through this disk. Until then the drive has copied out what points into them.
pub trait Disk {
    /// Unit in which the disk lets go of memory. A change of one byte may release the memory of all of
    /// its block, and with it what a slice points to anywhere in that block.
    const BLOCK_BYTES: u64 = 4096;

    /// The structure of the disk: everything that can be changed beside its bytes, as its layers and its
    /// size. Frontends never see it.
    type Structure;

    /// Size in bytes.
    fn size(&self) -> u64;

    /// Whether writes are refused.
    fn read_only(&self) -> bool;

    /// The structure of the disk.
    fn structure(&mut self) -> &mut Self::Structure;

    /// Appends extents that, in order, cover exactly the range. Neighbours should be of different
    /// kinds where possible: each run becomes a part of a reply.
    ///
    /// # Errors
    /// Where the range cannot be read; extents that were appended are then ignored.
    fn read(&mut self, offset: u64, length: u32, into: &mut Vec<Extent>) -> io::Result<()>;

    /// Says that the byte at `offset` is read or written soon, so that what the disk looks up for it can
    /// be on its way into the cache meanwhile.
    fn prefetch(&mut self, offset: u64) {
        let _ = offset;
    }

    /// Stores the bytes.
    ///
    /// # Errors
    /// Where there is no space.
    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Appends places that, in order, cover exactly the range, if the bytes of all of it may be stored
    /// where they lie; whether that is so. Where it is not, nothing is appended, and [`write`](Self::write)
    /// is the way. The places are of use until something else is asked of the disk.
    ///
    /// # Errors
    /// Where that cannot be told.
    fn places(&mut self, offset: u64, length: u32, into: &mut Vec<WriteSlice>) -> io::Result<bool> {
        let _ = (offset, length, into);
        Ok(false)
    }

    /// Makes the range read as zeroes. With `keep_allocated` later writes there must find space.
    ///
    /// # Errors
    /// Where that needs space and there is none.
    fn write_zeroes(&mut self, offset: u64, length: u64, keep_allocated: bool) -> io::Result<()>;

    /// Gives the range up: it may read as anything afterwards.
    ///
    /// # Errors
    /// Where that needs space and there is none.
    fn discard(&mut self, offset: u64, length: u64) -> io::Result<()>;

    /// Makes everything acknowledged as permanent as it can be.
    ///
    /// # Errors
    /// Where it cannot.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Appends the allocation status from `offset` on, at least one extent and as many as is cheap (a
    /// few thousand), with neighbours that differ. The last one may reach beyond the range.
    ///
    /// # Errors
    /// Where that cannot be told.
    fn status(&mut self, offset: u64, length: u64, into: &mut Vec<StatusExtent>) -> io::Result<()>;
}
