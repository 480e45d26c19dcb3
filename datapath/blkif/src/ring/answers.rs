//! Answers: recorded first, then written into the ring, then published together.

use std::io;

use super::Ring;
use crate::{journal::Held, layout::Status, request::Head, shared::Answer, steps::step};

impl Ring {
    /// Queues an answer.
    #[inline]
    pub(super) fn answer(&mut self, held: Held, head: Head, status: Status) {
        let Head { id, operation } = head;
        self.answers.push((held, Answer { id, operation, status }));
    }

    /// Publishes the answers that are queued, and sends an event if the guest wants one.
    pub(super) fn publish(&mut self) {
        if self.answers.is_empty() {
            return;
        }
        let begin = self.journal.recorded();
        self.journal.record(&self.answers);
        let mut end = begin;
        for &(_, answer) in &self.answers {
            step();
            self.shared.write_answer(end, answer);
            end = end.wrapping_add(1);
        }
        step();
        let wanted = self.shared.publish(begin, end);
        self.times.publish(&mut self.stats, &self.counters);
        self.journal.commit_published(end);
        let count = self.answers.len() as u64;
        self.answers.clear();
        self.counters.update(|it| it.answered += count);
        if wanted {
            step();
            self.notify();
        }
    }

    /// Publishes what a process that has died had recorded, and not published or only in part.
    pub(super) fn publish_recorded(&mut self) -> io::Result<()> {
        let (published, recorded) = (self.journal.published(), self.journal.recorded());
        let in_ring = self.shared.answers_end();
        if in_ring != recorded && in_ring != published {
            return Err(io::Error::other(format!(
                "the ring says {in_ring} answers, and the journal {published} published and \
                 {recorded} recorded"
            )));
        }
        if in_ring != recorded {
            for count in 0..recorded.wrapping_sub(published) {
                let number = published.wrapping_add(count);
                step();
                self.shared.write_answer(number, self.journal.answer(number));
            }
            step();
            self.shared.publish(published, recorded);
        }
        self.journal.commit_published(recorded);
        // The one before may have died before it sent an event.
        self.notify();
        Ok(())
    }

    fn notify(&mut self) {
        self.counters.update(|it| it.notified += 1);
        // A guest that has closed its channel is about to end, or harms itself.
        let _closed = self.domain.notify();
    }
}
