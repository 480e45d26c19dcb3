//! The count of an SR's memory: pages of data and of metadata together, in `meta/used`, which every
//! process that works on the SR maps and changes atomically.
//!
//! A page is added before it is allocated, or right after by an operation that cannot say before how many
//! it needs, and subtracted after it is freed. A process that is killed in between leaves the count wrong;
//! `budget::recount` corrects it. What an empty SR has is not counted: see [`Entry::is_counted`].

use std::{
    fs::File,
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use memory::SharedWords;
use rustix::fs::fstat;

use super::{Dirs, Entry, allocated, steps};
use crate::{
    block::{PAGE_BYTES, pages},
    error::{Context, Result},
};

/// The words of the page, by position. The rest is for later versions.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Word {
    /// Pages in use.
    Used = 0,
    /// Pages that may still be given out before the host's memory is looked at again.
    Granted = 1,
    /// When it was looked at, in milliseconds of the host's monotonic clock.
    Looked = 2,
}

/// A mapping of the page. Copies share it.
#[derive(Clone, Debug)]
pub(crate) struct Counter(Arc<SharedWords>);

impl Counter {
    /// Maps the count of an SR, and begins one where there is none yet.
    fn open(dirs: &Dirs) -> Result<Self> {
        const DOING: &str = "mapping the count of memory";
        let path = || dirs.path(Entry::Used);
        let (file, found) = dirs.edit_or_create_with_stat(Entry::Used)?;
        if u64::try_from(found.st_size).is_ok_and(|size| size < PAGE_BYTES) || found.st_blocks == 0
        {
            // Its page is allocated by writing to it: a store to a hole of a full tmpfs is a SIGBUS.
            steps::write_at(&file, &[0; 4], 0)
                .and_then(|()| steps::set_len(&file, PAGE_BYTES))
                .doing(DOING, path)?;
        }
        #[cfg(feature = "testing")]
        super::hooks::count_mapping();
        let length = usize::try_from(PAGE_BYTES).expect("64-bit host");
        let words = SharedWords::new(&file, length).doing(DOING, path)?;
        Ok(Self(Arc::new(words)))
    }

    pub(crate) fn word(&self, word: Word) -> &AtomicU32 {
        &self.0.words()[word as usize]
    }

    /// Pages in use.
    pub(crate) fn used(&self) -> u32 {
        self.word(Word::Used).load(Ordering::Acquire)
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

impl Dirs {
    /// The count, which begins here where the SR has none yet. It is mapped once.
    pub(crate) fn counter(&self) -> Result<&Counter> {
        let slot = self.counter_slot();
        if let Some(counter) = slot.get() {
            return Ok(counter);
        }
        let counter = Counter::open(self)?;
        Ok(slot.get_or_init(|| counter))
    }

    /// Runs `act`, which changes what a file has allocated, and counts the difference.
    pub(crate) fn counted<T>(
        &self,
        file: &File,
        act: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let before = pages(allocated(&fstat(file)?));
        self.counted_from(before, file, act)
    }

    /// As [`Self::counted`], of a file that was just made and has nothing allocated.
    pub(crate) fn counted_new<T>(
        &self,
        file: &File,
        act: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        self.counted_from(0, file, act)
    }

    fn counted_from<T>(
        &self,
        before: u64,
        file: &File,
        act: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let done = act();
        self.count(before, pages(allocated(&fstat(file)?)));
        done
    }

    /// Counts that something that took `before` pages takes `after` from now on.
    pub(crate) fn count(&self, before: u64, after: u64) {
        if before == after {
            return;
        }
        // An SR that is being made or removed may have no count.
        let known = self.counter_slot().get().is_some() || self.stat(Entry::Used).is_ok();
        let Some(counter) = known.then(|| self.counter().ok()).flatten() else { return };
        if after > before {
            counter.add(after - before);
        } else {
            counter.subtract(before - after);
        }
    }
}
