//! A mapping as 32-bit words that are only loaded: the entries of a block map.

use std::{
    ops::Range,
    ptr,
    sync::atomic::{AtomicU32, Ordering, fence},
};

use crate::copy;

/// Words of a mapping, which other processes may change while they are looked at.
///
/// There is no method that stores: the pages may be mapped without permission to. Loads are
/// acquire loads, made of a relaxed load and a fence: an atomic load of any other ordering is not
/// defined on pages that cannot be written (`std::sync::atomic`, "Atomic accesses to read-only
/// memory"). On x86-64 the fence is no instruction.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a>(&'a [AtomicU32]);

impl<'a> Words<'a> {
    pub(crate) fn new(words: &'a [AtomicU32]) -> Self {
        Self(words)
    }

    /// The words of a range.
    ///
    /// # Panics
    /// If it is not inside.
    #[must_use]
    pub fn range(self, range: Range<usize>) -> Self {
        Self(&self.0[range])
    }

    /// The word at an index.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn load(self, index: usize) -> u32 {
        let word = self.0[index].load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        word
    }

    /// Some words from an index on.
    ///
    /// # Panics
    /// If there are not as many.
    #[must_use]
    #[inline]
    pub fn array<const N: usize>(self, index: usize) -> [u32; N] {
        let words: &[AtomicU32; N] =
            self.0[index..][..N].try_into().expect("a slice of that length");
        let array = words.each_ref().map(|word| word.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        array
    }

    /// How many words from the first one on have this value.
    #[must_use]
    pub fn count_leading(self, value: u32) -> usize {
        let count = self.0.iter().take_while(|word| word.load(Ordering::Relaxed) == value).count();
        fence(Ordering::Acquire);
        count
    }

    /// Says that the word at an index is loaded soon.
    ///
    /// # Panics
    /// If there is none.
    #[inline]
    pub fn prefetch(self, index: usize) {
        copy::prefetch(ptr::from_ref(&self.0[index]).cast());
    }

    /// All words in order.
    pub fn iter(self) -> impl Iterator<Item = u32> + 'a {
        (0..self.0.len()).map(move |index| self.load(index))
    }
}
