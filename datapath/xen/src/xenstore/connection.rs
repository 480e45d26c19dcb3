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
    /// Requests that are not sent yet. Each is a write of its own: of a write that holds several messages
    /// the kernel's device takes the first and forgets the others (`xenbus_file_write` of
    /// drivers/xen/xenbus/xenbus_dev_frontend.c).
    out: VecDeque<Vec<u8>>,
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
        Self { device, out: VecDeque::new(), received: Vec::new(), next: 1, expected: 1 }
    }

    /// Queues a request.
    pub(super) fn request(&mut self, kind: Kind, transaction: u32, parts: &[&[u8]]) {
        self.out.push_back(wire::message(kind, self.next, transaction, parts));
        self.next += 1;
    }

    /// The readiness to wait for.
    pub(super) fn interest(&self) -> Interest {
        Interest { readable: true, writable: !self.out.is_empty() }
    }

    /// Sends what can be sent now.
    pub(super) fn send(&mut self) -> io::Result<()> {
        while let Some(message) = self.out.front_mut() {
            match self.device.write(message) {
                Ok(count) if count < message.len() => drop(message.drain(..count)),
                Ok(_) => drop(self.out.pop_front()),
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
