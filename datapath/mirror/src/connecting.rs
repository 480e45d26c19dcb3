//! Connecting to a destination whose server may just be starting.

use std::{
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use nbd::Remote;
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};

use crate::{
    error::{Error, ErrorKind},
    limits::Limits,
};

/// The time between two tries.
const RETRY: Duration = Duration::from_millis(20);

/// A connection that is tried again and again, until it is there or the time is up. One try that
/// succeeds is the only connection: no probe is made, as xapi's proxy serves the first one alone.
#[derive(Debug)]
pub struct Connecting {
    remote: Remote,
    until: Instant,
    next: Instant,
}

impl Connecting {
    /// Tries from now on.
    #[must_use]
    pub fn start(remote: Remote, limits: &Limits, now: Instant) -> Self {
        Self { remote, until: now + limits.connect, next: now }
    }

    /// The destination.
    #[must_use]
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// The connection, once it is there, or why there will be none. Never waits.
    pub fn poll(&mut self, now: Instant) -> Option<Result<UnixStream, Error>> {
        if now < self.next {
            return None;
        }
        match self.attempt() {
            // AGAIN: connections wait already, and the server's queue is full.
            Err(Errno::NOENT | Errno::CONNREFUSED | Errno::AGAIN) if now < self.until => {
                self.next = now + RETRY;
                None
            }
            Err(Errno::INTR) => None,
            attempt => Some(attempt.map_err(|errno| {
                let path = self.remote.socket().display();
                let reason = std::io::Error::from(errno);
                let text = format!("no connection to the destination at {path}: {reason}");
                Error::new(ErrorKind::Unreachable, text)
            })),
        }
    }

    /// When to poll again.
    #[must_use]
    pub fn retry_at(&self) -> Instant {
        self.next
    }

    fn attempt(&self) -> Result<UnixStream, Errno> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(self.remote.socket())?)?;
        Ok(socket.into())
    }
}
