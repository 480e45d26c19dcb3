//! The count of an SR's memory: pages of data and of metadata together, in `meta/used`, which every
//! process that works on the SR maps and changes atomically.
//!
//! A page is added before it is allocated, or right after by an operation that cannot say before how many
//! it needs, and subtracted after it is freed. A process that is killed in between leaves the count wrong;
//! `budget::recount` corrects it. What an empty SR has is not counted: see
//! [`Entry::is_counted`](super::Entry::is_counted).

use std::{
    fs::File,
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use memory::SharedWords;

use crate::block::PAGE_BYTES;

/// The words of the page, by position. The rest is for later versions.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Word {
    /// Pages in use.
    Used = 0,
    /// Pages that may still be given out before the host's memory is looked at again. In the file that all SRs
    /// of the host share, as the next one; those of an SR are used where there is no such file.
    Granted = 1,
    /// When it was looked at, in milliseconds of the host's monotonic clock.
    Looked = 2,
    /// Pages that the SR may take, which a change of its size changes for all processes at once; 0 where a
    /// version made it that had none.
    Size = 3,
}

/// A mapping of the page. Copies share it.
#[derive(Clone, Debug)]
pub(crate) struct Counter(Arc<SharedWords>);

impl Counter {
    /// Maps a file, of which the first page is allocated.
    pub(super) fn map(file: &File) -> io::Result<Self> {
        #[cfg(feature = "testing")]
        super::hooks::count_mapping();
        let length = usize::try_from(PAGE_BYTES).expect("64-bit host");
        SharedWords::new(file, length).map(|words| Self(Arc::new(words)))
    }

    pub(crate) fn word(&self, word: Word) -> &AtomicU32 {
        &self.0.words()[word as usize]
    }

    /// Pages in use.
    pub(crate) fn used(&self) -> u32 {
        self.word(Word::Used).load(Ordering::Acquire)
    }

    /// Pages that the SR may take, if that was said.
    pub(crate) fn size(&self) -> Option<u32> {
        Some(self.word(Word::Size).load(Ordering::Acquire)).filter(|&pages| pages > 0)
    }

    /// Says how many pages the SR may take.
    pub(crate) fn set_size(&self, pages: u64) {
        self.word(Word::Size).store(narrow(pages), Ordering::Release);
    }

    /// Counts pages that are in use from now on.
    pub(crate) fn add(&self, pages: u64) {
        change(self.word(Word::Used), |used| used.saturating_add(narrow(pages)));
    }

    /// Counts pages that are not in use any more.
    pub(crate) fn subtract(&self, pages: u64) {
        change(self.word(Word::Used), |used| used.saturating_sub(narrow(pages)));
    }

    /// Replaces `wrong` by `right`, unless the count has changed meanwhile.
    pub(crate) fn correct(&self, wrong: u32, right: u32) -> bool {
        let used = self.word(Word::Used);
        used.compare_exchange(wrong, right, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

fn change(word: &AtomicU32, change: impl Fn(u32) -> u32) {
    // The closure never refuses.
    let _before = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |it| Some(change(it)));
}

fn narrow(pages: u64) -> u32 {
    u32::try_from(pages).unwrap_or(u32::MAX)
}
