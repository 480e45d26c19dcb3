//! What was received after the message that is just being carried out of the buffer: the next buffer.

use std::os::unix::net::UnixStream;

use rustix::net::{RecvFlags, recv};

use super::reserve::Reserve;

/// Bytes that follow those in the buffer.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    bytes: Vec<u8>,
    end: usize,
    reserve: Reserve,
}

impl Ahead {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// Bytes of memory held.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Receives what is there into as much memory as the buffer has, where that is to spare. What
    /// goes wrong is found out again by whoever receives when there is nothing else to do. How many
    /// bytes came.
    pub(super) fn receive(&mut self, socket: &UnixStream, length: usize) -> usize {
        if self.bytes.len() < length {
            if !self.is_empty() || !Reserve::has_plenty(length) {
                return 0;
            }
            self.bytes = vec![0; length];
            self.reserve = Reserve::take(length);
        }
        let room = &mut self.bytes[self.end..];
        if room.is_empty() {
            return 0;
        }
        let count = recv(socket, room, RecvFlags::DONTWAIT).map_or(0, |(count, _)| count);
        self.end += count;
        count
    }

    /// Takes the place of a buffer of which everything is consumed; how many bytes it then holds.
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
