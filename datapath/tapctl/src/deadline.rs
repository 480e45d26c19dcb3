//! A moment by which something must have happened, and waiting for a descriptor until then.

use std::{
    io,
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

/// The longest pause between two attempts at a lock.
const PAUSE_MAX: Duration = Duration::from_millis(2);

/// A timeout longer than this is taken as this one, so that no sum of times overflows.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How long an exchange with a tapdisk may take, unless the caller says otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub(crate) fn after(timeout: Duration) -> Self {
        Self(Instant::now() + timeout.min(TIMEOUT_MAX))
    }

    /// The time that is left; `None` when the deadline has passed.
    pub(crate) fn remaining(self) -> Option<Duration> {
        self.0.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    /// Waits until the descriptor is ready (or its peer is gone); false when the deadline passed.
    pub(crate) fn wait(self, descriptor: impl AsFd, events: PollFlags) -> io::Result<bool> {
        loop {
            let Some(remaining) = self.remaining() else { return Ok(false) };
            let timeout = Timespec::try_from(remaining).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&descriptor, events)], Some(&timeout)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(true),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Waits until the descriptor is ready (or its peer is gone), for two milliseconds at most and not
    /// beyond the deadline; false when the deadline has passed.
    pub(crate) fn wait_briefly(self, descriptor: impl AsFd, events: PollFlags) -> io::Result<bool> {
        let Some(remaining) = self.remaining() else { return Ok(false) };
        let timeout = Timespec::try_from(remaining.min(PAUSE_MAX)).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&descriptor, events)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Sleeps for `pause`, not beyond the deadline, and makes it longer for the next time;
    /// false when the deadline has passed.
    pub(crate) fn pause(self, pause: &mut Duration) -> bool {
        let Some(remaining) = self.remaining() else { return false };
        thread::sleep(remaining.min(*pause));
        *pause = (*pause * 2).min(PAUSE_MAX);
        true
    }
}
