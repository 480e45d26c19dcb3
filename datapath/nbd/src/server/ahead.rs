//! Bytes received after the message that is just being handled: the next buffer.

use std::os::unix::net::UnixStream;

use rustix::net::{RecvFlags, recv};

use super::reserve::{ReceiveLimit, Reserve};

/// Bytes that follow those in the buffer.
#[derive(Debug)]
pub(super) struct Ahead {
    bytes: Vec<u8>,
    end: usize,
    reserve: Reserve,
}

impl Ahead {
    pub(super) fn new(limit: &ReceiveLimit) -> Self {
        Self { bytes: Vec::new(), end: 0, reserve: Reserve::none(limit) }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// Bytes of memory held.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Receives into as much memory as the buffer has (`length` bytes), where that is to spare. Returns
    /// the number of bytes that came. An error of the socket comes again at the next receive.
    pub(super) fn receive(&mut self, socket: &UnixStream, length: usize) -> usize {
        if self.bytes.len() < length {
            if !self.is_empty() || !self.reserve.limit().has_plenty(length) {
                return 0;
            }
            self.bytes = vec![0; length];
            self.reserve.become_bytes(length);
        }
        let room = &mut self.bytes[self.end..];
        if room.is_empty() {
            return 0;
        }
        let count = recv(socket, room, RecvFlags::DONTWAIT).map_or(0, |(count, _)| count);
        self.end += count;
        count
    }

    /// Takes the place of a buffer of which everything is consumed. Returns the number of bytes that
    /// the buffer then holds.
    pub(super) fn become_buffer(&mut self, buffer: &mut Vec<u8>) -> usize {
        let count = std::mem::take(&mut self.end);
        if self.bytes.len() == buffer.len() {
            std::mem::swap(&mut self.bytes, buffer);
        } else {
            buffer[..count].copy_from_slice(&self.bytes[..count]);
        }
        count
    }
}
