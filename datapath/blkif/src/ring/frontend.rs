//! A ring as the event loop drives it.

use std::os::fd::{AsFd, BorrowedFd};

use block::{Budget, Disk, Drive, Frontend, Interest, Progress, Stats};

use super::{Ring, take::Lie};
use crate::{
    batch::Batch,
    copies::Copies,
    counters::Indices,
    layout::Status,
    request::{Head, Limits},
};

impl Ring {
    /// Serves the ring until it has no requests or the budget is spent.
    fn serve<D: Disk>(
        &mut self,
        drive: &mut Drive<D>,
        budget: &mut Budget,
    ) -> Result<Progress, Lie> {
        if self.is_event_due {
            self.take_event()?;
        }
        let mut worked = false;
        loop {
            self.go_on();
            let limits = Limits { size: drive.size(), read_only: drive.read_only() };
            self.take(limits)?;
            if !self.round.is_empty() {
                self.execute(drive, limits, budget);
            } else if self.answers.is_empty() {
                if !worked {
                    // An event that was not asked for must not be found again and again.
                    self.take_event()?;
                }
                if if self.is_polled { self.has_more() } else { self.has_more_after_asking() } {
                    continue;
                }
                return Ok(match (self.stopping && self.deferred.is_empty(), worked) {
                    (true, _) => Progress::Closed { fault: None },
                    (false, true) => Progress::Worked,
                    (false, false) => Progress::Idle,
                });
            }
            worked = true;
            self.publish();
            if budget.is_spent() {
                return Ok(Progress::More);
            }
        }
    }

    fn take_event(&mut self) -> Result<(), Lie> {
        match self.domain.take_event() {
            Ok(true) => {
                self.is_event_due = false;
                self.counters.update(|it| it.events += 1);
            }
            Ok(false) => {}
            Err(error) => return Err(Lie(format!("its event channel failed: {error}"))),
        }
        Ok(())
    }

    fn note_indices(&self) {
        let indices = Indices {
            entries: self.shared.entries(),
            requests_end: self.shared.requests_end(),
            requests_taken: self.journal.taken(),
            request_event: self.shared.requested_event(),
            answers_end: self.shared.answers_end(),
            answers_recorded: self.journal.recorded(),
            answer_event: self.shared.answer_event(),
        };
        self.counters.update(|it| it.indices = indices);
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.domain.as_fd()
    }
}

impl<D: Disk> Frontend<D> for Ring {
    fn interest(&self) -> Interest {
        Interest { readable: true, writable: false }
    }

    fn turn(&mut self, drive: &mut Drive<D>, budget: &mut Budget) -> Progress {
        let progress = match self.serve(drive, budget) {
            Ok(progress) => progress,
            Err(Lie(text)) => Progress::Closed { fault: Some(text) },
        };
        self.note_indices();
        progress
    }

    fn has_unannounced(&self) -> bool {
        self.is_polled && self.has_more()
    }

    fn prepare_to_wait(&mut self) -> bool {
        self.is_polled && self.has_more_after_asking()
    }

    /// Answers discards that are finished. Where the disk was closed before they were, what waits for
    /// them cannot be done any more either.
    fn drain(&mut self) -> Progress {
        let before = self.answers.len();
        self.finish_discards();
        let closed = self.answers[before..].iter().any(|(_, it)| it.status == Status::Error);
        if closed {
            let mut waiting = Vec::from_iter(self.barrier.take());
            self.deferred.take_waiting(|turn| waiting.push(turn));
            for turn in waiting {
                let head = Head::of(&self.journal.request(turn.held), self.abi);
                self.answer(turn.held, head, Status::Error);
            }
        }
        if self.answers.is_empty() {
            return Progress::Idle;
        }
        self.publish();
        Progress::Worked
    }

    fn stop(&mut self) {
        self.stopping = true;
    }

    fn is_drained(&self) -> bool {
        self.journal.held() == 0
    }

    fn is_caught_up(&self) -> bool {
        self.queue.is_empty() && self.barrier.is_none() && !self.deferred.any_waits()
    }

    fn is_established(&self) -> bool {
        true
    }

    fn outstanding(&self) -> usize {
        self.journal.held()
    }

    fn stats(&self) -> &Stats {
        &self.stats
    }

    fn relax(&mut self) {
        self.batch = Batch::default();
        self.indirect = Copies::new();
        self.round = Vec::new();
        self.grants = Vec::new();
        self.answers.shrink_to_fit();
    }
}
