//! Counters of the requests of one frontend.

use std::{
    ops::AddAssign,
    time::{Duration, Instant},
};

/// Unit of [`Direction::sectors`], in bytes.
const SECTOR_BYTES: u64 = 512;

/// Reads, or writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Direction {
    /// Requests that were carried out.
    pub requests: u64,
    /// Requests that were answered with an error.
    pub failed: u64,
    /// Sectors of 512 bytes that the requests touched, those touched in part included.
    pub sectors: u64,
    /// The sum of the times from taking a request to answering it.
    pub time: Duration,
}

/// Counters of a frontend since it exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Reads.
    pub read: Direction,
    /// Writes.
    pub write: Direction,
    /// Flushes carried out, those asked for by a flag of another request included.
    pub flushes: u64,
    /// Discards and writes of zeroes carried out.
    pub discards: u64,
    /// All other requests answered with an error.
    pub other_failed: u64,
}

impl Direction {
    /// Counts a request for a range that the disk has carried out, or has failed to.
    #[inline]
    pub fn count(&mut self, offset: u64, length: u32, done: bool) {
        *if done { &mut self.requests } else { &mut self.failed } += 1;
        self.sectors += (offset + u64::from(length)).div_ceil(SECTOR_BYTES) - offset / SECTOR_BYTES;
    }

    /// Counts a request that did not reach the disk.
    pub fn count_refused(&mut self) {
        self.failed += 1;
    }

    /// All requests that were answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.requests + self.failed
    }
}

impl Stats {
    /// All requests that were answered with an error.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.read.failed + self.write.failed + self.other_failed
    }
}

impl AddAssign for Direction {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.sectors += other.sectors;
        self.time += other.time;
    }
}

impl AddAssign for Stats {
    fn add_assign(&mut self, other: Self) {
        self.read += other.read;
        self.write += other.write;
        self.flushes += other.flushes;
        self.discards += other.discards;
        self.other_failed += other.other_failed;
    }
}

/// Charges each request of a turn its own time with one reading of the clock: a request begins where
/// the one before it was answered.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    last: Instant,
}

impl Clock {
    /// Begins now.
    #[must_use]
    pub fn start() -> Self {
        Self { last: Instant::now() }
    }

    /// Time since the request before was answered.
    #[inline]
    pub fn lap(&mut self) -> Duration {
        let now = Instant::now();
        let lap = now - self.last;
        self.last = now;
        lap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_touched_in_part_count() {
        let mut reads = Direction::default();
        reads.count(511, 2, true);
        assert_eq!(reads.sectors, 2);
        reads.count(512, 512, false);
        reads.count_refused();
        assert_eq!((reads.sectors, reads.requests, reads.failed, reads.answered()), (3, 1, 2, 3));
    }

    #[test]
    fn laps_add_up_to_the_time_that_has_passed() {
        let start = Instant::now();
        let mut clock = Clock::start();
        let laps = clock.lap() + clock.lap() + clock.lap();
        assert!(laps <= start.elapsed());
    }
}
