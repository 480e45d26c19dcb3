//! Requests that are sent and not answered.

use std::ops::Range;

use crate::error::Error;

/// How many there are at most: blktap's server takes so many at a time (`NBD_SERVER_NUM_REQS`).
pub(crate) const REQUESTS_MAX: usize = 8;

/// The purpose of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Data or zeroes.
    Change,
    /// A question of the survey.
    Status,
    /// A flush.
    Flush,
}

#[derive(Clone, Debug)]
struct Request {
    cookie: u64,
    purpose: Purpose,
    /// What it changes, in bytes; empty where it changes nothing.
    range: Range<u64>,
}

/// All of them. Their cookies say their slot, and are never used twice.
#[derive(Debug, Default)]
pub(crate) struct Window {
    slots: [Option<Request>; REQUESTS_MAX],
    issued: u64,
}

impl Window {
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }

    /// Whether another change may be sent. One slot is left for a question of the survey.
    pub(crate) fn has_room(&self) -> bool {
        self.slots.iter().filter(|slot| slot.is_none()).count() > 1
    }

    /// Whether a request changes a part of the range.
    pub(crate) fn touches(&self, range: &Range<u64>) -> bool {
        let requests = self.slots.iter().flatten();
        requests.map(|it| &it.range).any(|it| it.start < range.end && range.start < it.end)
    }

    /// Takes a slot for a request, and gives its cookie. The caller has made sure that there is one.
    pub(crate) fn issue(&mut self, purpose: Purpose, range: Range<u64>) -> u64 {
        let slot = self.slots.iter().position(Option::is_none).expect("a free slot");
        self.issued += 1;
        let cookie = self.issued * REQUESTS_MAX as u64 + slot as u64;
        self.slots[slot] = Some(Request { cookie, purpose, range });
        cookie
    }

    /// The purpose of a request that is in flight.
    pub(crate) fn purpose(&self, cookie: u64) -> Result<Purpose, Error> {
        let slot = &self.slots[(cookie % REQUESTS_MAX as u64) as usize];
        let request = slot.as_ref().filter(|request| request.cookie == cookie);
        let unknown = || Error::protocol("answers a request that is not outstanding");
        request.map(|request| request.purpose).ok_or_else(unknown)
    }

    /// A request was answered.
    pub(crate) fn retire(&mut self, cookie: u64) {
        self.slots[(cookie % REQUESTS_MAX as u64) as usize] = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_is_answered_once() {
        let mut window = Window::default();
        let first = window.issue(Purpose::Change, 0..10);
        assert!(window.touches(&(9..20)) && !window.touches(&(10..20)));
        assert_eq!(window.purpose(first).unwrap(), Purpose::Change);
        window.retire(first);
        window.purpose(first).unwrap_err();
        let second = window.issue(Purpose::Flush, 0..0);
        assert_ne!(first, second);
        window.purpose(first).unwrap_err();
        assert!(!window.touches(&(0..10)));
    }

    #[test]
    fn changes_leave_a_slot_for_a_question() {
        let mut window = Window::default();
        let mut issued = 0;
        while window.has_room() {
            window.issue(Purpose::Change, 0..0);
            issued += 1;
        }
        assert_eq!(issued, REQUESTS_MAX - 1);
        window.issue(Purpose::Status, 0..0);
    }
}
