//! What a connection needs of a disk, and what it counts while serving it.

use std::io;

use memory::Slice;

/// A piece of what was read.
#[derive(Clone, Debug)]
pub enum Extent {
    /// That many zero bytes, of which no copy exists.
    Zeroes(u32),
    /// Bytes that lie in the store.
    Data(Slice),
}

impl Extent {
    /// Length in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        match self {
            Self::Zeroes(count) => *count as usize,
            Self::Data(slice) => slice.length(),
        }
    }

    /// Whether it is [`Zeroes`](Self::Zeroes).
    #[must_use]
    pub fn is_zeroes(&self) -> bool {
        matches!(self, Self::Zeroes(_))
    }
}

/// A range whose blocks are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusExtent {
    /// In bytes, not 0.
    pub length: u64,
    /// A write there may run out of space. Only together with `zero`: a hole that does not read
    /// as zeroes has undefined contents to a client.
    pub hole: bool,
    /// It reads as zeroes.
    pub zero: bool,
}

/// A disk, as its connections see it.
///
/// Ranges are checked before they get here: never beyond [`size`](Self::size), never empty, and
/// nothing changes a read-only one. A method never waits. Each one has taken effect when it
/// returns, or has failed: a failed write may have been applied in part.
///
/// [`Slice`]s that `read` hands out must keep their content until something changes those blocks
/// of the disk. Changes made by a connection are taken care of; see [`Loans`](crate::Loans) for
/// the others.
pub trait Export {
    /// A change of one byte may let go of all of the data of its block: of what a
    /// [`Slice`] points to anywhere in that unit.
    const BLOCK_BYTES: u64 = 4096;

    /// Size in bytes.
    fn size(&self) -> u64;

    /// Whether writes are refused.
    fn read_only(&self) -> bool {
        false
    }

    /// Appends pieces that, in order, are exactly the range. Neighbours should be of different
    /// kinds where possible: each run becomes a part of the reply.
    ///
    /// # Errors
    /// Where the range cannot be read; what was appended is then ignored.
    fn read(&mut self, offset: u64, length: u32, into: &mut Vec<Extent>) -> io::Result<()>;

    /// Stores the bytes.
    ///
    /// # Errors
    /// Where there is no space.
    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes the range read as zeroes. With `keep_allocated` later writes there must find space.
    ///
    /// # Errors
    /// Where that needs space and there is none.
    fn write_zeroes(&mut self, offset: u64, length: u64, keep_allocated: bool) -> io::Result<()>;

    /// Gives the range up: it may read as anything afterwards.
    ///
    /// # Errors
    /// Where that needs space and there is none.
    fn trim(&mut self, offset: u64, length: u64) -> io::Result<()>;

    /// Makes everything acknowledged as permanent as it can be.
    ///
    /// # Errors
    /// Where it cannot.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Prepares for reading the range.
    ///
    /// # Errors
    /// Where it cannot.
    fn cache(&mut self, _offset: u64, _length: u64) -> io::Result<()> {
        Ok(())
    }

    /// Appends what the blocks from `offset` on are like, at least one extent and as many as is
    /// cheap (a few thousand), with neighbours that differ. The last one may reach beyond the
    /// range.
    ///
    /// # Errors
    /// Where that cannot be told.
    fn status(&mut self, offset: u64, length: u64, into: &mut Vec<StatusExtent>) -> io::Result<()>;
}

/// What was served. The loop owns one per disk and hands it to every connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Reads obeyed.
    pub reads: u64,
    /// Writes obeyed.
    pub writes: u64,
    /// Sectors of 512 bytes read, those touched in part included.
    pub read_sectors: u64,
    /// Sectors of 512 bytes written, those touched in part included.
    pub write_sectors: u64,
    /// Reads answered with an error.
    pub read_fails: u64,
    /// Writes answered with an error.
    pub write_fails: u64,
    /// Flushes obeyed, those asked for by a flag of another request included.
    pub flushes: u64,
    /// Trims and writes of zeroes obeyed.
    pub discards: u64,
    /// All other requests answered with an error.
    pub other_fails: u64,
}

/// Unit of [`Stats`], in bytes.
const SECTOR_BYTES: u64 = 512;

impl Stats {
    /// How many sectors a range touches.
    #[inline]
    pub(crate) fn sectors(offset: u64, length: u32) -> u64 {
        (offset + u64::from(length)).div_ceil(SECTOR_BYTES) - offset / SECTOR_BYTES
    }
}
