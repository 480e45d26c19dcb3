//! Bytes that are to be sent: requests with their payloads, in one buffer of a fixed size.

use std::{
    io::{self, Write},
    os::unix::net::UnixStream,
};

use block::Extent;
use nbd::wire;

/// The longest payload of one request, in bytes.
pub(crate) const PAYLOAD_BYTES_MAX: u32 = 256 << 10;

/// Room for two of the largest requests, one of which is filled while the other is being sent.
const BUFFER_BYTES: usize = 2 * REQUEST_BYTES_MAX;
const REQUEST_BYTES_MAX: usize = PAYLOAD_BYTES_MAX as usize + wire::Request::BYTES;

/// The buffer.
#[derive(Debug)]
pub(crate) struct Output {
    buffer: Vec<u8>,
    sent: usize,
    filled: usize,
}

impl Output {
    pub(crate) fn new() -> Self {
        Self { buffer: Vec::new(), sent: 0, filled: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sent == self.filled
    }

    /// Whether another request fits, however long it is.
    pub(crate) fn has_room(&self) -> bool {
        self.filled + REQUEST_BYTES_MAX <= BUFFER_BYTES
    }

    /// Appends a message without a payload. There is room for it.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
    }

    /// Appends a payload of so many bytes from the front of what was read of the disk. There is room.
    pub(crate) fn push_extents(&mut self, extents: &[Extent], length: usize) {
        let mut room = self.room(length);
        for extent in extents {
            let count = extent.length().min(room.len());
            let (part, rest) = room.split_at_mut(count);
            match extent {
                Extent::Zeroes(_) => part.fill(0),
                Extent::Data(slice) => slice.read(0, part),
            }
            room = rest;
        }
        debug_assert!(room.is_empty(), "less was read than is sent");
    }

    /// Appends a payload of zeroes. There is room.
    pub(crate) fn push_zeroes(&mut self, length: usize) {
        self.room(length).fill(0);
    }

    fn room(&mut self, length: usize) -> &mut [u8] {
        let end = self.filled + length;
        if self.buffer.len() < end {
            self.buffer.resize(BUFFER_BYTES.max(end), 0);
        }
        let start = std::mem::replace(&mut self.filled, end);
        &mut self.buffer[start..end]
    }

    /// Sends what the socket takes; how many bytes that was.
    pub(crate) fn send(&mut self, mut socket: &UnixStream) -> io::Result<usize> {
        let before = self.sent;
        while !self.is_empty() {
            match socket.write(&self.buffer[self.sent..self.filled]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let count = self.sent - before;
        if self.is_empty() {
            (self.sent, self.filled) = (0, 0);
        } else if self.sent >= REQUEST_BYTES_MAX {
            self.buffer.copy_within(self.sent..self.filled, 0);
            (self.filled, self.sent) = (self.filled - self.sent, 0);
        }
        Ok(count)
    }
}
