//! Carrying requests out.

use std::ops::Range;

use block::{Budget, Disk, Drive, Started, Stats};

use super::{Ring, Taken};
use crate::{
    batch::{Outcome, Pending, blocks},
    copies::Local,
    deferred::Turn,
    layout::{Status, operation},
    request::{Direction, Head, Limits, Order, Parsed, Refusal, Request, Transfer},
    shared::Answer,
    times::Way,
};

/// The cost of a request beside its bytes, in the unit of [`Budget`].
const REQUEST_COST_BYTES: usize = 1 << 10;

impl Ring {
    /// Takes note of discards that are finished, and lets what has waited for them go on.
    pub(super) fn go_on(&mut self) {
        if !self.deferred.is_empty() {
            self.finish_discards();
            let mut unblocked = Vec::new();
            self.deferred.take_unblocked(|turn| unblocked.push(turn));
            unblocked.into_iter().for_each(|turn| self.enqueue(turn));
        }
        if self.deferred.is_empty() && self.queue.is_empty() {
            self.queue.extend(self.barrier.take());
        }
    }

    /// Answers the discards that the drive has finished.
    pub(super) fn finish_discards(&mut self) {
        let (answers, stats) = (&mut self.answers, &mut self.stats);
        self.deferred.take_finished(|turn, Head { id, operation }, result| {
            let status = count_discard(stats, result.is_ok());
            answers.push((turn.held, Answer { id, operation, status }));
        });
    }

    /// Carries out the requests of the round, as far as the budget goes; the others are queued.
    pub(super) fn execute<D: Disk>(
        &mut self,
        drive: &mut Drive<D>,
        limits: Limits,
        budget: &mut Budget,
    ) {
        let mut round = std::mem::take(&mut self.round);
        self.resolve(&mut round, limits);
        for taken in &round {
            if let Ok(Parsed::Request(Request::Transfer(transfer))) = &taken.what {
                drive.prefetch(transfer.range.start);
            }
        }
        for Taken { turn, head, what } in round.drain(..) {
            if budget.is_spent() {
                self.enqueue(turn);
                continue;
            }
            budget.spend(REQUEST_COST_BYTES);
            match what {
                Ok(_) if self.stopping => self.answer(turn.held, head, Status::Error),
                Ok(Parsed::Request(request)) => self.request(turn, head, request, drive, budget),
                Ok(Parsed::Indirect(_)) => self.refuse(turn, head, Refusal::Malformed),
                Err(refusal) => self.refuse(turn, head, refusal),
            }
            if self.batch.is_full() {
                self.run_batch(drive);
            }
        }
        self.run_batch(drive);
        self.round = round;
    }

    /// Copies the pages of segments of all indirect requests of the round, and parses them.
    fn resolve(&mut self, round: &mut [Taken], limits: Limits) {
        let copies = &mut self.indirect;
        for taken in &*round {
            if let Ok(Parsed::Indirect(indirect)) = &taken.what {
                let mut to = copies.reserve(indirect.segments_bytes());
                for grant in indirect.pages() {
                    copies.push(grant, Local::ToBuffer(to));
                    to += usize::from(grant.length());
                }
            }
        }
        if copies.is_empty() {
            return;
        }
        let copied = self.domain.copy(copies).is_ok();
        self.counters.update(|it| it.copies += 1);
        let (mut at, mut segment) = (0, 0);
        for taken in round {
            if let Ok(Parsed::Indirect(indirect)) = &taken.what {
                let segments = segment..segment + indirect.pages().count();
                segment = segments.end;
                let resolved = if copied && copies.all_done(segments) {
                    let bytes = copies.bytes(at, indirect.segments_bytes());
                    indirect.resolve(bytes, limits, &mut self.grants)
                } else {
                    Err(Refusal::Malformed)
                };
                at += indirect.segments_bytes();
                taken.what = resolved.map(Parsed::Request);
            }
        }
        copies.clear();
    }

    fn request<D: Disk>(
        &mut self,
        turn: Turn,
        head: Head,
        request: Request,
        drive: &mut Drive<D>,
        budget: &mut Budget,
    ) {
        match request {
            Request::Transfer(transfer) => {
                let length = transfer.range.end - transfer.range.start;
                budget.spend(usize::try_from(length).unwrap_or(usize::MAX));
                self.transfer(turn, head, transfer, drive);
            }
            Request::Nothing => self.answer(turn.held, head, Status::Okay),
            Request::Barrier if !self.deferred.is_empty() => self.barrier = Some(turn),
            Request::Flush | Request::Barrier => {
                self.run_batch(drive);
                let status = self.flush(drive);
                self.answer(turn.held, head, status);
            }
            Request::Discard(range) => self.discard(turn, head, range, drive),
        }
    }

    fn flush<D: Disk>(&mut self, drive: &mut Drive<D>) -> Status {
        match drive.flush() {
            Ok(()) => {
                self.stats.flushes += 1;
                Status::Okay
            }
            Err(_) => {
                self.stats.other_failed += 1;
                Status::Error
            }
        }
    }

    fn discard<D: Disk>(
        &mut self,
        turn: Turn,
        head: Head,
        range: Range<u64>,
        drive: &mut Drive<D>,
    ) {
        self.run_batch(drive);
        let blocks = blocks::<D>(&range);
        if self.deferred.blocks_change(turn.order, &blocks) {
            return self.deferred.add_waiting(turn, blocks);
        }
        match drive.discard(range.start, range.end - range.start) {
            Started::Done(result) => {
                let status = count_discard(&mut self.stats, result.is_ok());
                self.answer(turn.held, head, status);
            }
            Started::Later(completion) => {
                self.deferred.add_discard(turn, head, blocks, completion);
            }
        }
    }

    fn transfer<D: Disk>(
        &mut self,
        turn: Turn,
        head: Head,
        transfer: Transfer,
        drive: &mut Drive<D>,
    ) {
        let barrier = transfer.direction == Direction::Write(Order::Barrier);
        if barrier && !self.deferred.is_empty() {
            self.barrier = Some(turn);
            return;
        }
        if transfer.direction != Direction::Read && !self.deferred.is_empty() {
            let blocks = blocks::<D>(&transfer.range);
            if self.deferred.blocks_change(turn.order, &blocks) {
                return self.deferred.add_waiting(turn, blocks);
            }
        }
        let ordered = barrier || transfer.direction == Direction::Write(Order::AfterFlush);
        if ordered || self.batch.conflicts::<D>(&transfer) {
            self.run_batch(drive);
        }
        if ordered && self.flush(drive) != Status::Okay {
            return self.answer(turn.held, head, Status::Error);
        }
        let who = (turn.held, head);
        let (direction, range) = (transfer.direction, transfer.range.clone());
        let grants = &self.grants[transfer.grants.clone()];
        let added = match direction {
            Direction::Read => self.batch.read(who, transfer, grants, drive),
            Direction::Write(_) => self.batch.write(who, transfer, grants, drive),
        };
        if added.is_err() {
            count(&mut self.stats, direction, &range, false);
            self.times.answer(direction.into(), turn.held);
            self.counters.update(|it| it.failed += 1);
            self.answer(turn.held, head, Status::Error);
        }
    }

    /// Carries out the copies that are under way, and answers their requests.
    #[inline]
    fn run_batch<D: Disk>(&mut self, drive: &mut Drive<D>) {
        if self.batch.is_empty() {
            return;
        }
        let (answers, stats, times) = (&mut self.answers, &mut self.stats, &mut self.times);
        let (mut refused, mut failed) = (0, 0);
        let done = |pending: &Pending, outcome: Outcome| {
            refused += u64::from(outcome == Outcome::NotCopied);
            failed += u64::from(outcome == Outcome::Failed);
            count(stats, pending.direction, &pending.range, outcome == Outcome::Done);
            times.answer(pending.direction.into(), pending.held);
            let Head { id, operation } = pending.head;
            answers.push((pending.held, Answer { id, operation, status: outcome.status() }));
        };
        self.batch.run(&mut *self.domain, drive, done);
        self.counters.update(|it| {
            it.copies += 1;
            it.refused += refused;
            it.failed += failed;
        });
    }

    fn refuse(&mut self, turn: Turn, head: Head, refusal: Refusal) {
        match head.operation {
            operation::READ => {
                self.stats.read.count_refused();
                self.times.answer(Way::Read, turn.held);
            }
            operation::WRITE | operation::WRITE_BARRIER => {
                self.stats.write.count_refused();
                self.times.answer(Way::Write, turn.held);
            }
            _ => self.stats.other_failed += 1,
        }
        self.counters.update(|it| it.refused += 1);
        self.answer(turn.held, head, refusal.status());
    }
}

fn count(stats: &mut Stats, direction: Direction, range: &Range<u64>, done: bool) {
    let length = u32::try_from(range.end - range.start).unwrap_or(u32::MAX);
    match direction {
        Direction::Read => stats.read.count(range.start, length, done),
        Direction::Write(_) => stats.write.count(range.start, length, done),
    }
}

fn count_discard(stats: &mut Stats, done: bool) -> Status {
    if done {
        stats.discards += 1;
        Status::Okay
    } else {
        stats.other_failed += 1;
        Status::Error
    }
}
