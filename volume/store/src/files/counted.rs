//! Counting what files take, by the count of their SR's memory.

use std::{fs::File, io};

use rustix::fs::{CWD, Mode, OFlags, Stat, fstat, openat};

use super::{Dirs, Entry, allocated, counter::Counter, dirs::require_plain, steps};
use crate::{
    block::{PAGE_BYTES, pages},
    error::{Context, Result},
};

/// Beside the directories of SRs. No SR has this name.
const HOST_COUNT: &str = ".memory";

impl Dirs {
    /// The count, which begins here where the SR has none yet. It is mapped once.
    pub(crate) fn counter(&self) -> Result<&Counter> {
        let slot = self.counter_slot();
        if let Some(counter) = slot.get() {
            return Ok(counter);
        }
        let counter = self.map_counter()?;
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

    /// Maps the count that all SRs below one directory share, of the host's memory: only the words `Granted` and
    /// `Looked` are used of it. It is made where there is none yet.
    pub(crate) fn host_counter(&self) -> io::Result<Counter> {
        let above = self.layout().root().parent().ok_or(io::ErrorKind::NotFound)?;
        let how = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = openat(CWD, above.join(HOST_COUNT), how | OFlags::CLOEXEC, mode)?;
        let file = File::from(file);
        map(&file, &require_plain(&file)?)
    }

    /// Maps the count, and begins one where there is none yet.
    fn map_counter(&self) -> Result<Counter> {
        const DOING: &str = "mapping the count of memory";
        let path = || self.path(Entry::Used);
        let (file, found) = self.edit_or_create_with_stat(Entry::Used)?;
        map(&file, &found).doing(DOING, path)
    }
}

/// Maps the page of a count.
fn map(file: &File, found: &Stat) -> io::Result<Counter> {
    if u64::try_from(found.st_size).is_ok_and(|size| size < PAGE_BYTES) || found.st_blocks == 0 {
        // Its page is allocated by writing to it: a store to a hole of a full tmpfs is a SIGBUS.
        steps::write_at(file, &[0; 4], 0).and_then(|()| steps::set_len(file, PAGE_BYTES))?;
    }
    Counter::map(file)
}
