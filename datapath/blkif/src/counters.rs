//! Counters of a ring, beside those that every frontend has. The process that serves the ring reads them
//! while the ring belongs to its event loop.

use std::{cell::RefCell, time::Duration};

/// What a ring has done since it was connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests taken.
    pub taken: u64,
    /// Answers published.
    pub answered: u64,
    /// Wake-ups by events of the guest.
    pub events: u64,
    /// Events sent to the guest.
    pub notified: u64,
    /// Requests that were refused: malformed, not supported, or with pages that cannot be reached.
    pub refused: u64,
    /// Requests that the disk failed to carry out.
    pub failed: u64,
    /// Calls that copied between the guest's pages and ours: with Xen one hypercall for 16 pages.
    pub copies: u64,
    /// The longest time from taking a read to its answer, of which [`block::Direction::time`] is the sum.
    pub read_max: Duration,
    /// The same of a write.
    pub write_max: Duration,
    /// The indices of the ring at the end of the last turn.
    pub indices: Indices,
}

/// The indices of a ring (`xen/io/ring.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Indices {
    /// How many slots the ring has.
    pub entries: u32,
    /// `req_prod`.
    pub requests_end: u32,
    /// `req_cons`.
    pub requests_taken: u32,
    /// `req_event`.
    pub request_event: u32,
    /// `rsp_prod`.
    pub answers_end: u32,
    /// `rsp_prod_pvt`.
    pub answers_recorded: u32,
    /// `rsp_event`.
    pub answer_event: u32,
}

/// Counters that are read at one place and changed at another, by one thread.
#[derive(Debug, Default)]
pub struct SharedCounters(RefCell<Counters>);

impl SharedCounters {
    /// The counters as they are.
    #[must_use]
    pub fn get(&self) -> Counters {
        *self.0.borrow()
    }

    #[inline]
    pub(crate) fn update(&self, change: impl FnOnce(&mut Counters)) {
        change(&mut self.0.borrow_mut());
    }
}
