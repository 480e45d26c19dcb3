//! Totals that only grow, although the counters that they are made of end with their processes.

use std::collections::BTreeMap;

use tapctl::metrics::{Counters, Direction};

/// What one disk, or all of an SR, did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Totals {
    pub(crate) read: Way,
    pub(crate) write: Way,
}

/// Reads, or writes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Way {
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
    pub(crate) microseconds: u64,
}

const SECTOR_BYTES: u64 = 512;

impl Way {
    fn of(counted: &Direction) -> Self {
        Self {
            requests: counted.completed,
            bytes: counted.sectors.saturating_mul(SECTOR_BYTES),
            microseconds: counted.microseconds,
        }
    }

    /// The growth since `before`. Counters that are smaller are those of another process.
    pub(crate) fn since(self, before: Self) -> Self {
        let grown = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
        Self {
            requests: grown(self.requests, before.requests),
            bytes: grown(self.bytes, before.bytes),
            microseconds: grown(self.microseconds, before.microseconds),
        }
    }

    fn add(&mut self, more: Self) {
        self.requests += more.requests;
        self.bytes += more.bytes;
        self.microseconds += more.microseconds;
    }
}

impl Totals {
    /// The counters of a file.
    pub(crate) fn of(counters: &Counters) -> Self {
        Self { read: Way::of(&counters.read), write: Way::of(&counters.write) }
    }

    /// The growth since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self { read: self.read.since(before.read), write: self.write.since(before.write) }
    }

    pub(crate) fn add(&mut self, more: Self) {
        self.read.add(more.read);
        self.write.add(more.write);
    }
}

/// Totals for which sources come and go.
#[derive(Clone, Debug, Default)]
pub(crate) struct Running {
    /// What each source had counted when it was seen last, by what is only its own.
    seen: BTreeMap<String, Totals>,
    pub(crate) total: Totals,
    /// The growth from the last time to this one.
    pub(crate) growth: Totals,
}

impl Running {
    /// Goes on from a total in which what the sources have counted so far is contained.
    pub(crate) fn from(total: Totals, sources: &BTreeMap<String, Totals>) -> Self {
        Self { seen: sources.clone(), total, growth: Totals::default() }
    }

    /// Adds what the sources have counted since the last time. A new one counts from its beginning.
    pub(crate) fn update(&mut self, sources: &BTreeMap<String, Totals>) {
        self.growth = Totals::default();
        for (source, now) in sources {
            let before = self.seen.get(source).copied().unwrap_or_default();
            self.growth.add(now.since(before));
        }
        self.total.add(self.growth);
        self.seen.clone_from(sources);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(list: &[(&str, u64)]) -> BTreeMap<String, Totals> {
        let of =
            |requests| Totals { read: Way { requests, ..Way::default() }, ..Totals::default() };
        list.iter().map(|&(name, requests)| (name.to_owned(), of(requests))).collect()
    }

    #[test]
    fn a_total_does_not_fall_when_a_process_ends_or_begins() {
        let mut running = Running::default();
        let mut requests = |list: &[(&str, u64)]| {
            running.update(&sources(list));
            [running.total.read.requests, running.growth.read.requests]
        };
        assert_eq!(requests(&[("a", 5)]), [5, 5]);
        assert_eq!(requests(&[("a", 7), ("b", 1)]), [8, 3]);
        assert_eq!(requests(&[("b", 2)]), [9, 1]);
        // The same number in the hands of another process.
        assert_eq!(requests(&[("b", 1)]), [10, 1]);
        let mut running = Running::from(running.total, &sources(&[("b", 1)]));
        running.update(&sources(&[("b", 4), ("c", 1)]));
        assert_eq!(running.total.read.requests, 14);
    }
}
