//! Attach and detach: which minors the process has.

use std::time::{Duration, Instant};

use rustix::io::Errno;
use tapctl::{ErrorKind, Failure, Key as ConversationKey, Minor, MinorLock, Reply};

use super::handle::Handled;
use crate::{
    tapdisk::{Attaching, Tapdisk},
    vbd::{State, Vbd},
};

/// How long a minor is tried for that another process has locked: one that frees it, or looks whether
/// it is free, does so for a moment only. blktap's tapdisk waits without end.
const ATTACH_TIMEOUT: Duration = Duration::from_millis(100);
/// The time between two tries.
pub(crate) const ATTACH_RETRY: Duration = Duration::from_millis(2);

impl Tapdisk {
    pub(super) fn attach(&mut self, caller: ConversationKey, minor: Minor) -> Handled {
        if self.is_stopping() {
            return Err(Failure::new(Errno::SHUTDOWN, "this tapdisk is about to end"));
        }
        if self.find(minor).is_some() || self.attaching.iter().any(|it| it.minor == minor) {
            return Err(Errno::EXIST.into());
        }
        match MinorLock::take(&self.dir, minor) {
            Ok(lock) => {
                self.vbds.insert(Vbd::new(lock));
                Ok(Some(Reply::Done))
            }
            Err(error) if error.kind() == ErrorKind::Busy => {
                let until = Instant::now() + ATTACH_TIMEOUT;
                self.attaching.push(Attaching { minor, caller, until });
                Ok(None)
            }
            Err(error) => Err(failure(&error)),
        }
    }

    /// Tries again to attach minors that other processes had locked.
    pub(crate) fn retry_attaching(&mut self, now: Instant) {
        for attaching in std::mem::take(&mut self.attaching) {
            match MinorLock::take(&self.dir, attaching.minor) {
                Ok(lock) => {
                    self.vbds.insert(Vbd::new(lock));
                    self.answer(attaching.caller, &Reply::Done);
                }
                Err(error) if error.kind() == ErrorKind::Busy && now < attaching.until => {
                    self.attaching.push(attaching);
                }
                Err(error) => self.answer(attaching.caller, &Reply::Error(failure(&error))),
            }
        }
    }

    pub(super) fn detach(&mut self, minor: Minor) -> Handled {
        let key = self.find(minor).ok_or(Errno::NODEV)?;
        if !matches!(self.vbds[key].state, State::Idle(_)) {
            return Err(Errno::BUSY.into());
        }
        self.vbds.remove(key);
        if self.vbds.is_empty() && self.attaching.is_empty() {
            self.stop();
        }
        Ok(Some(Reply::Done))
    }
}

fn failure(error: &tapctl::Error) -> Failure {
    let errno = match error.kind() {
        // As blktap.
        ErrorKind::NotFound => Errno::PERM,
        _ => Errno::from_raw_os_error(error.errno()),
    };
    Failure::new(errno, error.to_string())
}
