//! Requests that are not done in the pass in which they came: large discards, which the drive does in
//! steps, and changes behind them in the same blocks, which wait.
//!
//! Such a change must not be answered before the discard is: a successor does everything again that was
//! not answered, in the order in which it came.

use std::{io, ops::Range};

use block::Completion;

use crate::{journal::Held, request::Head};

/// A request with its place in the order in which requests came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) held: Held,
    pub(crate) order: u64,
}

/// A request that is deferred.
#[derive(Debug)]
struct Deferred {
    turn: Turn,
    /// Whole blocks, in bytes.
    blocks: Range<u64>,
    wait: Wait,
}

#[derive(Debug)]
enum Wait {
    /// For the drive, which does it in steps.
    Drive(Head, Completion),
    /// For what came before it.
    Order,
}

/// All deferred requests of a ring, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct DeferredRequests(Vec<Deferred>);

impl DeferredRequests {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any of them waits for another one.
    pub(crate) fn any_waits(&self) -> bool {
        self.0.iter().any(|it| matches!(it.wait, Wait::Order))
    }

    /// Whether a change of those blocks has to wait for one that came before it.
    #[inline]
    pub(crate) fn blocks_change(&self, order: u64, blocks: &Range<u64>) -> bool {
        self.0.iter().any(|before| {
            before.turn.order < order
                && before.blocks.start < blocks.end
                && blocks.start < before.blocks.end
        })
    }

    /// A discard that the drive does in steps.
    pub(crate) fn add_discard(
        &mut self,
        turn: Turn,
        head: Head,
        blocks: Range<u64>,
        completion: Completion,
    ) {
        self.insert(Deferred { turn, blocks, wait: Wait::Drive(head, completion) });
    }

    /// A change that waits for one before it.
    pub(crate) fn add_waiting(&mut self, turn: Turn, blocks: Range<u64>) {
        self.insert(Deferred { turn, blocks, wait: Wait::Order });
    }

    fn insert(&mut self, deferred: Deferred) {
        let at = self.0.partition_point(|it| it.turn.order < deferred.turn.order);
        self.0.insert(at, deferred);
    }

    /// Takes out the discards that are finished, with their results.
    pub(crate) fn take_finished(&mut self, mut each: impl FnMut(Turn, Head, io::Result<()>)) {
        self.0.retain(|it| match &it.wait {
            Wait::Drive(head, completion) => match completion.take() {
                Some(result) => {
                    each(it.turn, *head, result);
                    false
                }
                None => true,
            },
            Wait::Order => true,
        });
    }

    /// Takes out the changes that have nothing to wait for any more.
    pub(crate) fn take_unblocked(&mut self, mut each: impl FnMut(Turn)) {
        let mut index = 0;
        while index < self.0.len() {
            let it = &self.0[index];
            if matches!(it.wait, Wait::Order) && !self.blocks_change(it.turn.order, &it.blocks) {
                each(self.0.remove(index).turn);
            } else {
                index += 1;
            }
        }
    }

    /// Takes out the changes that wait for others.
    pub(crate) fn take_waiting(&mut self, mut each: impl FnMut(Turn)) {
        self.0.retain(|it| match it.wait {
            Wait::Order => {
                each(it.turn);
                false
            }
            Wait::Drive(..) => true,
        });
    }
}
