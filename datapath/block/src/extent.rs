//! Parts of a disk: bytes that were read, and ranges with an allocation status.

use memory::Slice;

/// A part of the answer to a read.
#[derive(Clone, Debug)]
pub enum Extent {
    /// That many zero bytes, which are stored nowhere.
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

/// A range whose blocks have the same allocation status.
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
