//! The connections of callers: accepting them, taking their requests, answering now or later.

use std::time::{Duration, Instant};

use block::Interest;
use tapctl::{Interest as CallerInterest, Key as ConversationKey, Progress, Reply};

use crate::{
    poll::Source,
    tapdisk::{ACCEPTS_MAX, Tapdisk},
};

/// How long no caller is accepted where there is no room, or no descriptor; they wait in the queue of
/// the kernel.
pub(crate) const CALLERS_PAUSE: Duration = Duration::from_millis(50);

impl Tapdisk {
    /// Accepts callers from now on, or leaves them in the queue of the kernel.
    pub(crate) fn set_accepting_callers(&mut self, accepting: bool) {
        let interest = Interest { readable: accepting, writable: false };
        if let Err(error) = self.listener.wait_for(interest) {
            self.warn(format_args!("the control socket: {error}"));
        }
    }

    pub(crate) fn accept_callers(&mut self) {
        for _ in 0..ACCEPTS_MAX {
            let now = Instant::now();
            let sources = &self.sources;
            let readable = Interest { readable: true, writable: false };
            let accepted = self.conversations.accept(&self.listener, now, |conversation, key| {
                sources.watch(conversation, Source::Conversation(key), readable)
            });
            match accepted {
                Ok(Some(key)) => self.converse(key),
                Ok(None) if self.conversations.can_accept(now) => return,
                Ok(None) => return self.pause_callers(now),
                Err(error) => {
                    self.warn(format_args!("a caller was not accepted: {error}"));
                    return self.pause_callers(now);
                }
            }
        }
    }

    fn pause_callers(&mut self, now: Instant) {
        self.callers_resume = Some(now + CALLERS_PAUSE);
        self.set_accepting_callers(false);
    }

    /// Goes on with a caller whose connection is ready.
    pub(crate) fn converse(&mut self, key: ConversationKey) {
        let Some(conversation) = self.conversations.get_mut(key) else { return };
        match conversation.ready() {
            Progress::Asked(request) => match self.handle(key, &request) {
                Some(reply) => self.answer(key, &reply),
                None => self.wait_for_caller(key),
            },
            Progress::Waiting => self.wait_for_caller(key),
            Progress::Finished => _ = self.conversations.remove(key),
        }
    }

    /// Answers a request. A caller that has gone away meanwhile gets no answer.
    pub(crate) fn answer(&mut self, key: ConversationKey, reply: &Reply) {
        // Before any caller knows of a change, a successor does.
        self.save_state();
        let Some(conversation) = self.conversations.get_mut(key) else { return };
        match conversation.answer(reply) {
            Progress::Finished => _ = self.conversations.remove(key),
            Progress::Asked(_) | Progress::Waiting => self.wait_for_caller(key),
        }
    }

    fn wait_for_caller(&mut self, key: ConversationKey) {
        let Some(conversation) = self.conversations.get_mut(key) else { return };
        let interest = match conversation.interest() {
            CallerInterest::Read => Interest { readable: true, writable: false },
            CallerInterest::Write => Interest { readable: false, writable: true },
            CallerInterest::None => Interest { readable: false, writable: false },
        };
        if let Err(error) = conversation.wait_for(interest) {
            self.conversations.remove(key);
            self.warn(format_args!("a caller was dropped: {error}"));
        }
    }
}
