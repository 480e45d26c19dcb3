//! Which parts of a disk have changed: a copy that runs beside a live disk reads them again.

/// The size of the range that one bit stands for, in bytes.
pub const GRANULE_BYTES: u64 = 64 << 10;

const WORD_BITS: u64 = u64::BITS as u64;

/// A bit for each granule of a disk; it grows with what is marked.
#[derive(Clone, Debug, Default)]
pub struct Dirty {
    words: Vec<u64>,
    count: u64,
}

impl Dirty {
    /// Nothing has changed yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Every granule of a disk of `size` bytes is marked.
    #[must_use]
    pub fn all(size: u64) -> Self {
        let mut dirty = Self::new();
        dirty.mark(0, size);
        dirty
    }

    /// Marks every granule that a range touches. Offset and length in bytes.
    #[inline]
    pub fn mark(&mut self, offset: u64, length: u64) {
        if length == 0 {
            return;
        }
        let (first, last) = (offset / GRANULE_BYTES, (offset + length - 1) / GRANULE_BYTES);
        let needed = index(last) + 1;
        if self.words.len() < needed {
            self.words.resize(needed, 0);
        }
        for granule in first..=last {
            let (word, bit) = (&mut self.words[index(granule)], 1 << (granule % WORD_BITS));
            self.count += u64::from(*word & bit == 0);
            *word |= bit;
        }
    }

    /// Takes the first marked granule at or behind `offset`, else the first of all: its offset in bytes.
    pub fn take(&mut self, offset: u64) -> Option<u64> {
        if self.count == 0 {
            return None;
        }
        let start = offset / GRANULE_BYTES;
        let granule = self.next(start).or_else(|| self.next(0))?;
        self.words[index(granule)] &= !(1 << (granule % WORD_BITS));
        self.count -= 1;
        Some(granule * GRANULE_BYTES)
    }

    /// The first marked granule at or behind `offset`, which stays marked: its offset in bytes.
    #[must_use]
    pub fn find(&self, offset: u64) -> Option<u64> {
        self.next(offset.div_ceil(GRANULE_BYTES)).map(|granule| granule * GRANULE_BYTES)
    }

    /// Takes the mark of the granule at `offset`, in bytes; whether it had one.
    pub fn unmark(&mut self, offset: u64) -> bool {
        let granule = offset / GRANULE_BYTES;
        let Some(word) = self.words.get_mut(index(granule)) else { return false };
        let bit = 1 << (granule % WORD_BITS);
        let was_marked = *word & bit != 0;
        *word &= !bit;
        self.count -= u64::from(was_marked);
        was_marked
    }

    fn next(&self, start: u64) -> Option<u64> {
        let first = index(start);
        let masked = |word: usize| {
            let bits = self.words[word];
            if word == first { bits & (u64::MAX << (start % WORD_BITS)) } else { bits }
        };
        let word = (first..self.words.len()).find(|&word| masked(word) != 0)?;
        Some(word as u64 * WORD_BITS + u64::from(masked(word).trailing_zeros()))
    }

    /// How many granules are marked.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }
}

fn index(granule: u64) -> usize {
    usize::try_from(granule / WORD_BITS).expect("a disk of 16 TiB has 2^28 granules")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_marks_every_granule_that_it_touches_once() {
        let mut dirty = Dirty::new();
        dirty.mark(GRANULE_BYTES - 1, 2);
        dirty.mark(0, 1);
        dirty.mark(5, 0);
        assert_eq!(dirty.count(), 2);
        assert_eq!(
            [dirty.take(0), dirty.take(0), dirty.take(0)],
            [Some(0), Some(GRANULE_BYTES), None]
        );
    }

    #[test]
    fn a_mark_is_found_where_it_is_and_taken_once() {
        let mut dirty = Dirty::new();
        assert_eq!((dirty.find(0), dirty.unmark(1 << 40)), (None, false));
        dirty.mark(100 * GRANULE_BYTES, 2 * GRANULE_BYTES);
        assert_eq!(dirty.find(0), Some(100 * GRANULE_BYTES));
        assert_eq!(dirty.find(100 * GRANULE_BYTES + 1), Some(101 * GRANULE_BYTES));
        assert_eq!(dirty.find(102 * GRANULE_BYTES), None);
        assert!(dirty.unmark(100 * GRANULE_BYTES) && !dirty.unmark(100 * GRANULE_BYTES));
        assert_eq!((dirty.find(0), dirty.count()), (Some(101 * GRANULE_BYTES), 1));
    }

    /// A copy goes on where it is and comes back for what changed behind it.
    #[test]
    fn taking_goes_on_from_an_offset_and_wraps() {
        let mut dirty = Dirty::all(200 * GRANULE_BYTES);
        assert_eq!(dirty.count(), 200);
        assert_eq!(dirty.take(130 * GRANULE_BYTES), Some(130 * GRANULE_BYTES));
        assert_eq!(dirty.take(130 * GRANULE_BYTES), Some(131 * GRANULE_BYTES));
        assert_eq!(dirty.take(1000 * GRANULE_BYTES), Some(0));
        let mut taken = 3;
        while dirty.take(131 * GRANULE_BYTES).is_some() {
            taken += 1;
        }
        assert_eq!((taken, dirty.count()), (200, 0));
    }
}
