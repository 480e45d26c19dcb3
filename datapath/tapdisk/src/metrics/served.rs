//! Counters of the requests of a VBD's clients.

use block::Stats;
use tapctl::metrics::{Counters, Direction};

use crate::poll::Endpoint;

/// Counters for each of a VBD's two NBD servers, as blktap counts them, and for the rings of guests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Served {
    new: Stats,
    old: Stats,
    rings: Stats,
}

impl Served {
    /// Adds the counters of a client that came through `endpoint`.
    pub(crate) fn add(&mut self, endpoint: Endpoint, stats: &Stats) {
        *if endpoint.is_old() { &mut self.old } else { &mut self.new } += *stats;
    }

    /// Adds the counters of a guest's ring.
    pub(crate) fn add_ring(&mut self, stats: &Stats) {
        self.rings += *stats;
    }

    /// The sum of both servers and the rings.
    pub(crate) fn total(&self) -> Stats {
        let mut total = self.new;
        total += self.old;
        total += self.rings;
        total
    }

    /// The counters of the image, of the server and of the second server.
    pub(crate) fn counters(&self) -> [Counters; 3] {
        [self.total(), self.new, self.old].map(|stats| counters(&stats))
    }
}

/// Counters as the files have them.
pub(super) fn counters(stats: &Stats) -> Counters {
    let direction = |it: &block::Direction| Direction {
        submitted: it.answered(),
        completed: it.answered(),
        sectors: it.sectors,
        microseconds: u64::try_from(it.time.as_micros()).unwrap_or(u64::MAX),
    };
    Counters {
        read: direction(&stats.read),
        write: direction(&stats.write),
        errors: stats.failed(),
    }
}
