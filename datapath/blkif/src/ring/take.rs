//! Taking requests: those that are queued first, then those in the ring.

use super::{Ring, Taken};
use crate::{
    deferred::Turn,
    layout::{at, operation},
    request::{Head, Limits, parse},
    shared::RawSlot,
};

/// Which part of the waiting requests a round takes. Answers are published at the end of a round: while the others
/// are carried out the guest wakes, and sends new requests. With half of them in a round both sides wait for each
/// other in turns.
const ROUND_PART: u32 = 4;
/// A round takes at least so many, if they are there: each costs a call that copies, and perhaps an event.
const ROUND_MIN: u32 = 8;
/// A round takes so many at most.
const ROUND_MAX: u32 = 16;

/// The guest's half of the ring says what cannot be. Nothing in it is believed any more.
#[derive(Debug)]
pub(super) struct Lie(pub(super) String);

/// How many of the waiting requests a round takes.
fn round_of(waiting: u32) -> u32 {
    (waiting / ROUND_PART).clamp(ROUND_MIN, ROUND_MAX).min(waiting)
}

impl Ring {
    /// Takes requests into the round: from the queue while there are any, then from the ring, up to and
    /// with the first barrier.
    pub(super) fn take(&mut self, limits: Limits) -> Result<(), Lie> {
        self.round.clear();
        self.grants.clear();
        // Looked at in any case, so that a ring that lies is noticed.
        let waiting = self.waiting()?;
        if self.queue.is_empty() {
            if self.barrier.is_none() {
                self.take_new(round_of(waiting).min(self.journal.room()), limits);
            }
            return Ok(());
        }
        while self.round.len() < ROUND_MAX as usize {
            let Some(turn) = self.queue.pop_front() else { break };
            let raw = self.journal.request(turn.held);
            if self.add(turn, &raw, limits) {
                break;
            }
        }
        Ok(())
    }

    fn take_new(&mut self, count: u32, limits: Limits) {
        if count == 0 {
            return;
        }
        let begin = self.journal.taken();
        let mut number = begin;
        self.times.begin();
        while number != begin.wrapping_add(count) {
            let raw = self.shared.copy_request(number);
            let held = self.journal.take(number, &raw);
            number = number.wrapping_add(1);
            self.times.take(held);
            let turn = self.next_turn(held);
            if self.add(turn, &raw, limits) {
                break;
            }
        }
        self.journal.commit_taken(number);
        self.counters.update(|it| it.taken += u64::from(number.wrapping_sub(begin)));
    }

    /// Parses a request into the round; whether it is a barrier.
    #[inline]
    fn add(&mut self, turn: Turn, raw: &RawSlot, limits: Limits) -> bool {
        let what = parse(raw, self.abi, limits, &mut self.grants);
        self.round.push(Taken { turn, head: Head::of(raw, self.abi), what });
        raw[at::OPERATION] == operation::WRITE_BARRIER
    }

    /// How many requests the ring has that are not taken.
    fn waiting(&self) -> Result<u32, Lie> {
        let end = self.shared.requests_end();
        let answered = self.journal.recorded();
        let ahead = end.wrapping_sub(answered);
        let taken = self.journal.taken().wrapping_sub(answered);
        if ahead > self.shared.entries() || ahead < taken {
            return Err(Lie(format!(
                "its ring of {} slots says that it has {end} requests, after {answered} answers and \
                 with {taken} requests under way",
                self.shared.entries()
            )));
        }
        Ok(ahead - taken)
    }

    /// Whether the ring has a request that may be taken.
    #[inline]
    pub(super) fn has_more(&self) -> bool {
        self.barrier.is_none() && self.shared.requests_end() != self.journal.taken()
    }

    /// Asks for an event with the next request; whether that has come already.
    pub(super) fn has_more_after_asking(&mut self) -> bool {
        self.is_event_due = true;
        let next = self.journal.taken().wrapping_add(1);
        self.shared.ask_for_event(next);
        self.counters.update(|it| it.indices.request_event = next);
        self.has_more()
    }

    /// Queues a request again, at its place in the order.
    pub(super) fn enqueue(&mut self, turn: Turn) {
        let at = self.queue.partition_point(|it| it.order < turn.order);
        self.queue.insert(at, turn);
    }
}
