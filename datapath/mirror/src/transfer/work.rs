//! Which parts of the disk are still to be sent.

use std::{
    collections::VecDeque,
    ops::Range,
    time::{Duration, Instant},
};

use block::{Dirty, GRANULE_BYTES, Tracker};

use crate::window::Window;

/// The longest range that is taken at a time, in bytes.
const RUN_BYTES_MAX: u64 = 32 << 20;
/// A mirror is in sync when no more granules than this have changed since they were sent: 16 MiB, which
/// a cut-over sends in some milliseconds.
const IN_SYNC_GRANULES: u64 = 256;
/// It also is after so many rounds over what has changed: a guest that writes faster than the
/// destination does would otherwise keep a migration from ever ending. The cut-over takes longer then.
const ROUNDS_MAX: u32 = 8;

/// The parts that are still to be sent.
#[derive(Debug)]
pub(super) enum Work {
    /// All of the disk, and what changes meanwhile.
    Mirror(Rounds),
    /// These ranges: ascending, apart, none empty.
    Copy { ranges: VecDeque<Range<u64>>, total: u64 },
    /// Nothing any more.
    Over,
}

/// First all of the disk from front to back, then again and again what has changed.
#[derive(Debug)]
pub(super) struct Rounds {
    pub(super) tracker: Tracker,
    /// Where to go on.
    cursor: u64,
    /// How many passes are done; the first one is all of the disk.
    done: u32,
    /// When the last one ended.
    ended_at: Instant,
    /// Whether this one has sent anything.
    has_sent: bool,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// To send this range.
    Range(Range<u64>),
    /// To wait: for answers, for the next change, or until changes are gathered.
    Nothing,
    /// Nothing at all, until the disk changes.
    Everything,
}

/// Whether and how soon changes are sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) size: u64,
    pub(super) now: Instant,
    /// How long changes are gathered before the next pass begins; `None`: not at all.
    pub(super) gather: Option<Duration>,
}

impl Rounds {
    pub(super) fn new(tracker: Tracker, now: Instant) -> Self {
        Self { tracker, cursor: 0, done: 0, ended_at: now, has_sent: false }
    }

    /// Whether the first pass is under way, so that nothing behind the cursor was ever sent.
    pub(super) fn is_first(&self) -> bool {
        self.done == 0
    }

    /// The part of the disk that the first pass has dealt with.
    pub(super) fn progress(&self, size: u64) -> f64 {
        if self.is_first() { fraction(self.cursor, size) } else { 1.0 }
    }

    /// Whether the destination is as good as up to date.
    pub(super) fn is_in_sync(&self, dirty: &Dirty) -> bool {
        !self.is_first() && (dirty.count() <= IN_SYNC_GRANULES || self.done >= ROUNDS_MAX)
    }

    /// When the next pass may begin, where changes are gathered for so long.
    pub(super) fn gathered_at(&self, gather: Duration) -> Option<Instant> {
        (self.cursor == 0 && !self.is_first()).then(|| self.ended_at + gather)
    }

    /// Takes the next range. None of it is in flight.
    pub(super) fn take(&mut self, dirty: &mut Dirty, window: &Window, pace: Pace) -> Next {
        let mut wraps_left = 1;
        loop {
            if self.is_first() {
                if self.cursor < pace.size {
                    return Next::Range(self.run(self.cursor, dirty, window, pace.size));
                }
                if !window.is_empty() {
                    return Next::Nothing;
                }
                self.end_pass(pace.now);
            }
            let Some(at) = dirty.find(self.cursor).filter(|&at| at < pace.size) else {
                if self.cursor == 0 {
                    return if window.is_empty() { Next::Everything } else { Next::Nothing };
                }
                self.end_pass(pace.now);
                if wraps_left == 0 || pace.gather.is_some() {
                    return Next::Nothing;
                }
                wraps_left -= 1;
                continue;
            };
            if let Some(due) = pace.gather.and_then(|gather| self.gathered_at(gather))
                && pace.now < due
            {
                return Next::Nothing;
            }
            if window.touches(&(at..at + GRANULE_BYTES)) {
                self.cursor = at + GRANULE_BYTES;
                continue;
            }
            return Next::Range(self.run(at, dirty, window, pace.size));
        }
    }

    fn end_pass(&mut self, now: Instant) {
        // A pass that only found granules in flight is none.
        if self.is_first() || self.has_sent {
            self.done = self.done.saturating_add(1);
        }
        (self.cursor, self.ended_at, self.has_sent) = (0, now, false);
    }

    /// The marked granules from `at` on that are not in flight, without their marks from now on.
    fn run(&mut self, at: u64, dirty: &mut Dirty, window: &Window, size: u64) -> Range<u64> {
        let most = size.min(at + RUN_BYTES_MAX);
        let mut end = at;
        let is_free = |end| !window.touches(&(end..end + GRANULE_BYTES));
        // The first pass sends all of the disk, marked or not.
        while end < most && is_free(end) && (dirty.unmark(end) || self.is_first()) {
            end += GRANULE_BYTES;
        }
        (self.cursor, self.has_sent) = (end, true);
        at..end.min(size)
    }
}

impl Work {
    /// A copy of ranges, which may overlap and come in any order.
    pub(super) fn copy(mut ranges: Vec<Range<u64>>) -> Self {
        ranges.retain(|range| !range.is_empty());
        ranges.sort_unstable_by_key(|range| range.start);
        let mut apart: VecDeque<Range<u64>> = VecDeque::with_capacity(ranges.len());
        for range in ranges {
            match apart.back_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => apart.push_back(range),
            }
        }
        let total = apart.iter().map(|range| range.end - range.start).sum();
        Self::Copy { ranges: apart, total }
    }

    /// The part of the work that is done.
    pub(super) fn progress(&self, size: u64) -> f64 {
        match self {
            Self::Mirror(rounds) => rounds.progress(size),
            Self::Copy { ranges, total } => {
                let left: u64 = ranges.iter().map(|range| range.end - range.start).sum();
                fraction(total - left, *total)
            }
            Self::Over => 1.0,
        }
    }
}

/// Takes the front of the ranges of a copy.
pub(super) fn take_range(ranges: &mut VecDeque<Range<u64>>, window: &Window) -> Next {
    let Some(range) = ranges.front_mut() else {
        return if window.is_empty() { Next::Everything } else { Next::Nothing };
    };
    let end = range.end.min(range.start + RUN_BYTES_MAX);
    let taken = range.start..end;
    range.start = end;
    if range.is_empty() {
        ranges.pop_front();
    }
    Next::Range(taken)
}

#[allow(clippy::cast_precision_loss, reason = "a fraction for people")]
fn fraction(part: u64, of: u64) -> f64 {
    if of == 0 { 1.0 } else { part as f64 / of as f64 }
}
