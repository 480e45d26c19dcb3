//! Copies between a guest's pages and memory of this process, many of them at a time.

use memory::{Slice, WriteSlice};

/// Length of a guest's page, in bytes.
pub const PAGE_BYTES: usize = 4096;

/// The status of a copy that was done (`GNTST_okay` of `xen/grant_table.h`). All others are negative.
pub const OKAY: i16 = 0;

/// A range of one page of the guest, which lies inside the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    gref: u32,
    offset: u16,
    length: u16,
}

impl Grant {
    /// `length` bytes from `offset` on of the page that is granted by `gref`.
    ///
    /// # Panics
    /// If they are not inside a page.
    #[must_use]
    #[inline]
    pub fn new(gref: u32, offset: usize, length: usize) -> Self {
        assert!(
            length <= PAGE_BYTES && offset <= PAGE_BYTES - length,
            "{length} bytes at {offset} are not inside a page"
        );
        Self { gref, offset: offset as u16, length: length as u16 }
    }

    /// The first `count` bytes, and the others.
    ///
    /// # Panics
    /// If it is shorter.
    #[must_use]
    pub fn split(self, count: usize) -> (Self, Self) {
        let (offset, length) = (usize::from(self.offset), usize::from(self.length));
        assert!(count <= length, "cannot split {length} bytes at {count}");
        let front = Self::new(self.gref, offset, count);
        (front, Self::new(self.gref, offset + count, length - count))
    }

    /// The grant reference.
    #[must_use]
    pub fn gref(&self) -> u32 {
        self.gref
    }

    /// Where the range begins in its page, in bytes.
    #[must_use]
    pub fn offset(&self) -> u16 {
        self.offset
    }

    /// Its length in bytes.
    #[must_use]
    pub fn length(&self) -> u16 {
        self.length
    }
}

/// The direction of a copy, and its end in this process.
#[derive(Clone, Debug)]
pub enum Local {
    /// From the guest to memory of a block.
    ToBlock(WriteSlice),
    /// From the guest to the buffer of [`Copies`], from this place on.
    ToBuffer(usize),
    /// From memory of a block to the guest.
    FromBlock(Slice),
    /// Zeroes to the guest. (A hole must not be read through a mapping: that allocates it.)
    Zeroes,
}

/// One copy.
#[derive(Clone, Debug)]
pub struct Segment {
    grant: Grant,
    local: Local,
    /// Set by [`Domain::copy`](crate::Domain::copy): [`OKAY`], or why it was not done.
    pub status: i16,
}

impl Segment {
    /// The guest's end.
    #[must_use]
    pub fn grant(&self) -> Grant {
        self.grant
    }

    /// Our end. It has the length of the guest's.
    #[must_use]
    pub fn local(&self) -> &Local {
        &self.local
    }
}

/// Copies to be carried out together. Kept for its capacities.
///
/// Invariant: both ends of each segment have the same length, and those in the buffer are inside it.
#[derive(Debug, Default)]
pub struct Copies {
    segments: Vec<Segment>,
    buffer: Vec<u8>,
    /// Bytes of the buffer that are given to segments.
    used: usize,
}

impl Copies {
    /// Nothing to copy, and no buffer yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to copy.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// How many copies there are.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.segments.len()
    }

    /// Adds a copy from or to memory of a block, or of zeroes.
    ///
    /// # Panics
    /// If the ends have different lengths.
    #[inline]
    pub fn push(&mut self, grant: Grant, local: Local) {
        let length = usize::from(grant.length);
        match &local {
            Local::ToBlock(slice) => assert_eq!(slice.length(), length),
            Local::FromBlock(slice) => assert_eq!(slice.length(), length),
            Local::ToBuffer(at) => assert!(*at <= self.used && length <= self.used - at),
            Local::Zeroes => {}
        }
        self.segments.push(Segment { grant, local, status: OKAY });
    }

    /// Takes room in the buffer; where it begins.
    #[inline]
    pub fn reserve(&mut self, bytes: usize) -> usize {
        let at = self.used;
        self.used += bytes;
        if self.buffer.len() < self.used {
            self.buffer.resize(self.used, 0);
        }
        at
    }

    /// Bytes of the buffer that are taken.
    #[must_use]
    pub fn reserved(&self) -> usize {
        self.used
    }

    /// Bytes that were copied from the guest to the buffer.
    ///
    /// # Panics
    /// If they are not inside what was reserved.
    #[must_use]
    pub fn bytes(&self, at: usize, length: usize) -> &[u8] {
        &self.buffer[..self.used][at..at + length]
    }

    /// The segments and the buffer, for what carries the copies out.
    #[must_use]
    pub fn parts(&mut self) -> (&mut [Segment], &mut [u8]) {
        (&mut self.segments, &mut self.buffer[..self.used])
    }

    /// Whether all copies of a range of segments were done.
    #[must_use]
    #[inline]
    pub fn all_done(&self, segments: std::ops::Range<usize>) -> bool {
        self.segments[segments].iter().all(|segment| segment.status == OKAY)
    }

    /// Forgets all copies; capacities stay.
    pub fn clear(&mut self) {
        self.segments.clear();
        self.used = 0;
    }
}
