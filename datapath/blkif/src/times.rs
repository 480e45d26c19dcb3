//! How long reads and writes take: from the moment in which a request is taken off the ring until its answer is in
//! it, waiting in the queue and for other requests included. blktap counts the same.
//!
//! The clock is read when requests are taken and when answers are published, not for each request.

use std::time::{Duration, Instant};

use block::Stats;

use crate::{counters::SharedCounters, journal::Held, request::Direction};

/// The moments in which requests were taken, and the sums of those that are answered and not published yet.
#[derive(Debug)]
pub(crate) struct Times {
    /// Moments are nanoseconds from here.
    epoch: Instant,
    /// When the requests that are being taken were.
    now: u64,
    /// When each request was taken that is held.
    taken: Box<[u64]>,
    /// Reads and writes.
    answered: [Answered; 2],
}

/// Reads or writes whose answers are to be published.
#[derive(Clone, Copy, Debug, Default)]
struct Answered {
    count: u32,
    /// The sum of the moments in which they were taken.
    taken_sum: u64,
    /// The first of them.
    taken_first: u64,
}

/// What is counted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    Read,
    Write,
}

impl From<Direction> for Way {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Read => Self::Read,
            Direction::Write(_) => Self::Write,
        }
    }
}

impl Times {
    /// Of a ring with so many slots.
    pub(crate) fn new(entries: u32) -> Self {
        let taken = vec![0; entries as usize].into();
        Self { epoch: Instant::now(), now: 0, taken, answered: Default::default() }
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Reads the clock for the requests that are taken next.
    #[inline]
    pub(crate) fn begin(&mut self) {
        self.now = self.elapsed();
    }

    /// A request is taken.
    #[inline]
    pub(crate) fn take(&mut self, held: Held) {
        self.taken[held.index()] = self.now;
    }

    /// A request has an answer, which is to be published.
    #[inline]
    pub(crate) fn answer(&mut self, way: Way, held: Held) {
        let taken = self.taken[held.index()];
        let answered = &mut self.answered[way as usize];
        let is_first = answered.count == 0;
        answered.taken_first = if is_first { taken } else { answered.taken_first.min(taken) };
        answered.count += 1;
        answered.taken_sum += taken;
    }

    /// Charges the requests whose answers have been published their time.
    #[inline]
    pub(crate) fn publish(&mut self, stats: &mut Stats, counters: &SharedCounters) {
        let [read, write] = std::mem::take(&mut self.answered);
        if read.count + write.count == 0 {
            return;
        }
        let now = self.elapsed();
        let (read_sum, read_max) = read.until(now);
        let (write_sum, write_max) = write.until(now);
        stats.read.time += read_sum;
        stats.write.time += write_sum;
        counters.update(|it| {
            it.read_max = it.read_max.max(read_max);
            it.write_max = it.write_max.max(write_max);
        });
    }
}

impl Answered {
    /// The sum of their times and the longest of them, if they end now.
    fn until(self, now: u64) -> (Duration, Duration) {
        let Self { count, taken_sum, taken_first } = self;
        if count == 0 {
            return Default::default();
        }
        let sum = now * u64::from(count) - taken_sum;
        (Duration::from_nanos(sum), Duration::from_nanos(now - taken_first))
    }
}
