//! Attach and detach: which minors the process has.

use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};

use rustix::io::Errno;
use tapctl::{ErrorKind, Failure, Key as ConversationKey, Minor, MinorLock, Reply};

use super::handle::Handled;
use crate::{
    kept::Group,
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
        match self.take_minor(minor) {
            Ok((lock, group)) => {
                self.vbds.insert(Vbd::new(lock, group));
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
            match self.take_minor(attaching.minor) {
                Ok((lock, group)) => {
                    self.vbds.insert(Vbd::new(lock, group));
                    self.answer(attaching.caller, &Reply::Done);
                }
                Err(error) if error.kind() == ErrorKind::Busy && now < attaching.until => {
                    self.attaching.push(attaching);
                }
                Err(error) => self.answer(attaching.caller, &Reply::Error(failure(&error))),
            }
        }
    }

    /// Locks a minor, and has the keeper hold the lock.
    pub(crate) fn take_minor(&self, minor: Minor) -> tapctl::Result<(MinorLock, Group)> {
        let lock = MinorLock::take(&self.dir, minor)?;
        let group = self.keeper.keep(&[lock.as_fd()]);
        let group = group.map_err(|cause| tapctl::Error::not_kept(minor, cause))?;
        Ok((lock, group))
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
