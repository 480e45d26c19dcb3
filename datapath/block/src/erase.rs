//! Discards and writes of zeroes that are too large for one turn: done in steps, answered at the end.

use std::{cell::RefCell, collections::VecDeque, io, ops::Range, rc::Rc};

use rustix::io::Errno;

use crate::{Dirty, Disk};

/// The most that is erased in one step, in bytes: a few milliseconds where all of it is allocated. Steps
/// end at multiples of it, which is what one page of a block map covers.
pub(crate) const STEP_BYTES: u64 = 4 << 20;

/// How a change was begun.
#[derive(Debug)]
pub enum Started {
    /// It is done, or has failed.
    Done(io::Result<()>),
    /// It is done in steps beside other requests; the completion has the result.
    Later(Completion),
}

/// The result of a change that takes several steps. Dropping it lets the change go on unwatched.
#[derive(Clone, Debug, Default)]
pub struct Completion(Rc<RefCell<Option<io::Result<()>>>>);

impl Completion {
    /// The result, once it is there; it is given once.
    #[must_use]
    pub fn take(&self) -> Option<io::Result<()>> {
        self.0.take()
    }

    /// Whether the result is there.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.borrow().is_some()
    }

    fn complete(&self, result: io::Result<()>) {
        *self.0.borrow_mut() = Some(result);
    }
}

/// The change that is made to a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Discard,
    Zeroes { keep_allocated: bool },
}

impl Change {
    pub(crate) fn apply<D: Disk>(self, disk: &mut D, range: Range<u64>) -> io::Result<()> {
        let length = range.end - range.start;
        match self {
            Self::Discard => disk.discard(range.start, length),
            Self::Zeroes { keep_allocated } => {
                disk.write_zeroes(range.start, length, keep_allocated)
            }
        }
    }
}

/// A change that is under way.
#[derive(Debug)]
pub(crate) struct Erase {
    change: Change,
    /// The ranges that are still to be done: ascending, apart, none empty.
    ranges: VecDeque<Range<u64>>,
    /// The first failure, after which nothing more is done.
    failure: Option<io::Error>,
    completion: Completion,
}

impl Erase {
    pub(crate) fn new(change: Change, range: Range<u64>) -> Self {
        Self {
            change,
            ranges: VecDeque::from([range]),
            failure: None,
            completion: Completion::default(),
        }
    }

    pub(crate) fn completion(&self) -> Completion {
        self.completion.clone()
    }

    /// The next step: the change and its range. `None`: everything is done.
    pub(crate) fn next(&mut self) -> Option<(Change, Range<u64>)> {
        let first = self.ranges.front_mut()?;
        let end = (first.start / STEP_BYTES + 1) * STEP_BYTES;
        let step = first.start..end.min(first.end);
        first.start = step.end;
        if first.is_empty() {
            self.ranges.pop_front();
        }
        Some((self.change, step))
    }

    /// Takes out the parts that lie in `range`. A later change of that range has them done first.
    pub(crate) fn split_off(&mut self, range: &Range<u64>) -> Vec<(Change, Range<u64>)> {
        let mut taken = Vec::new();
        let before = std::mem::take(&mut self.ranges);
        for part in before {
            let inside = part.start.max(range.start)..part.end.min(range.end);
            if inside.is_empty() {
                self.ranges.push_back(part);
                continue;
            }
            for rest in [part.start..inside.start, inside.end..part.end] {
                if !rest.is_empty() {
                    self.ranges.push_back(rest);
                }
            }
            taken.push((self.change, inside));
        }
        taken
    }

    pub(crate) fn is_done(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Gives up: the rest is not done, and the error is the result.
    pub(crate) fn fail(&mut self, error: io::Error) {
        self.ranges.clear();
        self.failure.get_or_insert(error);
    }

    /// Completes: the result is there from now on.
    pub(crate) fn finish(self) {
        self.completion.complete(self.failure.map_or(Ok(()), Err));
    }

    /// The disk is closed: the rest is not done.
    pub(crate) fn cancel(self) {
        self.completion.complete(Err(Errno::SHUTDOWN.into()));
    }
}

/// Marks a range in every bitmap.
pub(crate) fn mark<'a>(bitmaps: impl Iterator<Item = &'a mut Dirty>, range: &Range<u64>) {
    bitmaps.for_each(|bitmap| bitmap.mark(range.start, range.end - range.start));
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Change = Change::Zeroes { keep_allocated: true };

    #[test]
    fn steps_cover_the_range_and_end_at_whole_units() {
        let mut erase = Erase::new(Change::Discard, 100..3 * STEP_BYTES + 7);
        let mut at = 100;
        let mut steps = 0;
        while let Some((change, range)) = erase.next() {
            assert_eq!((change, range.start), (Change::Discard, at));
            assert!(range.end - range.start <= STEP_BYTES);
            at = range.end;
            steps += 1;
        }
        assert_eq!((at, steps, erase.is_done()), (3 * STEP_BYTES + 7, 4, true));
    }

    #[test]
    fn what_another_change_needs_is_taken_out_of_the_middle() {
        let mut erase = Erase::new(KEEP, 10..100);
        assert_eq!(erase.split_off(&(40..50)), [(KEEP, 40..50)]);
        assert_eq!(erase.split_off(&(0..20)), [(KEEP, 10..20)]);
        assert_eq!(erase.split_off(&(30..60)), [(KEEP, 30..40), (KEEP, 50..60)]);
        assert_eq!(erase.split_off(&(200..300)), []);
        assert_eq!(erase.ranges, [20..30, 60..100]);
    }
}
