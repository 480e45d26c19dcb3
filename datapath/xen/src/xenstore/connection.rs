//! A connection to xenstored: requests go out and answers come in as far as the device lets them.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read, Write as _},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use block::Interest;
use rustix::io::Errno;

use super::wire::{self, Answer, Kind};
use crate::devices::open;

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    device: File,
    /// Requests that are not answered yet; the first may have been sent, or a part of it. Each is sent when
    /// the one before has been answered: the kernel's device takes one message of a write, and sends it
    /// later, from a buffer into which the next write goes (drivers/xen/xenbus/xenbus_dev_frontend.c of
    /// Linux 6.1: a second request made the first one answered with EINVAL).
    out: VecDeque<Vec<u8>>,
    /// Bytes of the first of them that are sent.
    sent: usize,
    received: Vec<u8>,
    /// The id of the next request.
    next: u32,
    /// The id that the next answer has: xenstored answers in order.
    expected: u32,
}

impl Connection {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        open(path).map(Self::over)
    }

    /// A connection over a stream that does not wait.
    pub(super) fn over(device: File) -> Self {
        Self { device, out: VecDeque::new(), sent: 0, received: Vec::new(), next: 1, expected: 1 }
    }

    /// Queues a request.
    pub(super) fn request(&mut self, kind: Kind, transaction: u32, parts: &[&[u8]]) {
        self.out.push_back(wire::message(kind, self.next, transaction, parts));
        self.next += 1;
    }

    /// The readiness to wait for.
    pub(super) fn interest(&self) -> Interest {
        let unsent = self.out.front().is_some_and(|message| self.sent < message.len());
        Interest { readable: true, writable: unsent }
    }

    /// Sends what can be sent now.
    pub(super) fn send(&mut self) -> io::Result<()> {
        while let Some(message) = self.out.front()
            && self.sent < message.len()
        {
            match self.device.write(&message[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The payload of the next answer, or the error that xenstored names; `None` where none has come.
    pub(super) fn answer(&mut self) -> io::Result<Option<Result<Vec<u8>, Errno>>> {
        loop {
            if let Some(Answer { id, result }) = wire::take(&mut self.received)? {
                if id != self.expected {
                    let text = format!("xenstored answers request {id}, not {}", self.expected);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                self.expected += 1;
                self.out.pop_front();
                self.sent = 0;
                return Ok(Some(result));
            }
            let mut part = [0; 1024];
            match self.device.read(&mut part) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.received.extend_from_slice(&part[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}
