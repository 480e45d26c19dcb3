//! The bytes that a client has sent and that are not handled yet: one buffer, received into directly.
//!
//! Invariant: a message lies in one piece, and the kernel writes to where it is parsed. The buffer is
//! small; it grows for a request that does not fit and is given back afterwards. While a large payload
//! is copied out of the buffer, the bytes behind it are received into a second one
//! ([`Input::receive_ahead`]), so that the client never waits for a copy.

use std::{io, os::unix::net::UnixStream};

use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};

use super::{
    ahead::Ahead,
    reserve::{ReceiveLimit, Reserve},
};

/// Size of the buffer: room for a 256 KiB write, the unit of many copy tools, and what follows it.
const BUFFER_BYTES: usize = 320 << 10;
/// From this size on a message is received alone; the bytes behind it are received while it is handled.
const LARGE_BYTES: usize = 128 << 10;
/// Less than this may be moved to the front of the buffer, to receive behind it.
const MOVED_BYTES_MAX: usize = 16 << 10;
/// A grown buffer up to this size is kept while large requests keep coming: touching fresh memory
/// for each costs as much as the copy.
const KEPT_BYTES_MAX: usize = 4 << 20;
/// How many times in a row a grown buffer may turn out not to be needed before it is given back.
const UNNEEDED_MAX: u32 = 64;

/// The result of one call of [`Input::receive`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// Bytes, and whether the socket had no more of them.
    Bytes { count: usize, drained: bool },
    /// Nothing at the moment.
    Nothing,
    /// Nothing ever again.
    End,
}

/// The buffer. `start..end` of it is received and not consumed.
#[derive(Debug)]
pub(super) struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Length of the message that begins at `start`, as far as it is known.
    wanted: usize,
    /// Bytes still to be received only to be dropped.
    skip: usize,
    unneeded: u32,
    /// Bytes that came after the message that begins at `start`, which then ends at `end`.
    ahead: Ahead,
    /// The memory of the buffer beyond its usual size.
    reserve: Reserve,
}

impl Input {
    pub(super) fn new(limit: &ReceiveLimit) -> Self {
        Self {
            buffer: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
            wanted: 0,
            skip: 0,
            unneeded: 0,
            ahead: Ahead::new(limit),
            reserve: Reserve::none(limit),
        }
    }

    /// Whether the first `length` bytes are here; if not, they are waited for.
    #[inline]
    pub(super) fn has(&mut self, length: usize) -> bool {
        let here = self.skip == 0 && self.end - self.start >= length;
        if !here {
            self.wanted = length;
        }
        here
    }

    /// The first `length` bytes. Only after [`has`](Self::has) said so.
    #[inline]
    pub(super) fn bytes(&self, length: usize) -> &[u8] {
        &self.buffer[self.start..self.end][..length]
    }

    /// The first bytes as an array, if they are here.
    #[inline]
    pub(super) fn array<const LENGTH: usize>(&mut self) -> Option<[u8; LENGTH]> {
        if !self.has(LENGTH) {
            return None;
        }
        self.buffer[self.start..self.end].first_chunk().copied()
    }

    /// Lets go of the first `length` bytes.
    #[inline]
    pub(super) fn consume(&mut self, length: usize) {
        debug_assert!(length <= self.end - self.start);
        self.start += length;
        self.wanted = 0;
        if self.start == self.end && !self.ahead.is_empty() {
            self.start = 0;
            self.end = self.ahead.become_buffer(&mut self.buffer);
        }
    }

    /// Lets go of the next `length` bytes, of which some may not have arrived.
    pub(super) fn skip(&mut self, length: usize) {
        self.skip = length;
        while self.skip > 0 && self.start < self.end {
            let here = self.skip.min(self.end - self.start);
            self.skip -= here;
            self.consume(here);
        }
    }

    /// Whether a [`skip`](Self::skip) is not complete yet.
    pub(super) fn skipping(&self) -> bool {
        self.skip > 0
    }

    /// Whether something has arrived that was not consumed.
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end && self.skip == 0
    }

    /// Receives into the free tail of the buffer.
    pub(super) fn receive(&mut self, socket: &UnixStream) -> io::Result<Received> {
        let limit = self.make_room();
        let room = &mut self.buffer[self.end..limit];
        let count = loop {
            // Does not wait even where another process that shares the socket has made it blocking.
            match recv(socket, &mut *room, RecvFlags::DONTWAIT) {
                Ok((count, _)) => break count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                Err(error) => return Err(error.into()),
            }
        };
        if count == 0 {
            return Ok(Received::End);
        }
        let drained = count < room.len();
        self.end += count;
        if self.skip > 0 {
            self.skip(self.skip);
        }
        Ok(Received::Bytes { count, drained })
    }

    /// While the message of `length` bytes that begins here is handled: receives the bytes that follow
    /// it. Returns how many came.
    pub(super) fn receive_ahead(&mut self, socket: &UnixStream, length: usize) -> usize {
        if length >= LARGE_BYTES && self.end - self.start <= length {
            self.ahead.receive(socket, self.buffer.len())
        } else {
            0
        }
    }

    /// Gives back the memory that large requests have needed, unless some of it is in use.
    pub(super) fn relax(&mut self) {
        let is_more = self.buffer.len() > BUFFER_BYTES || self.ahead.capacity() > 0;
        if self.start == self.end && is_more && self.wanted <= BUFFER_BYTES {
            let limit = self.reserve.limit().clone();
            *self = Self { wanted: self.wanted, skip: self.skip, ..Self::new(&limit) };
        }
    }

    /// At the end of a turn: gives back the memory of a huge request, which may be the only one.
    #[inline]
    pub(super) fn rest(&mut self) {
        if self.buffer.len() > KEPT_BYTES_MAX {
            self.relax();
        }
    }

    /// Whether a message of that length may be waited for: it fits, or there is memory for it.
    #[inline]
    pub(super) fn may_hold(&self, length: usize) -> bool {
        length <= self.buffer.len() || self.reserve.may_become(length)
    }

    /// Frees the tail of the buffer so that the wanted message fits. Returns the end of the part of the
    /// buffer to receive into.
    fn make_room(&mut self) -> usize {
        let unread = self.end - self.start;
        self.give_back();
        if unread == 0 {
            self.start = 0;
            self.end = 0;
        }
        let length = self.buffer.len();
        if self.wanted > length {
            // A size in whole pages leaves the allocator no reason to copy or to clear.
            let larger = self.wanted.next_multiple_of(4096);
            let mut buffer = vec![0; larger];
            buffer[..unread].copy_from_slice(&self.buffer[self.start..self.end]);
            self.buffer = buffer;
            self.reserve.become_bytes(larger - BUFFER_BYTES);
            (self.start, self.end) = (0, unread);
        } else if self.start > 0
            && (self.start + self.wanted > length
                || self.end == length
                || (length - self.end < MOVED_BYTES_MAX && unread < MOVED_BYTES_MAX))
        {
            self.buffer.copy_within(self.start..self.end, 0);
            self.start = 0;
            self.end = unread;
        }
        let length = self.buffer.len();
        if self.wanted >= LARGE_BYTES { length.min(self.start + self.wanted) } else { length }
    }

    /// Returns to the small buffer when the large one was for an exception.
    fn give_back(&mut self) {
        if self.buffer.len() == BUFFER_BYTES {
            return;
        }
        if self.wanted > BUFFER_BYTES {
            self.unneeded = 0;
            return;
        }
        self.unneeded += 1;
        if self.unneeded > UNNEEDED_MAX {
            self.relax();
        }
    }

    /// Bytes of memory held.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.buffer.len() + self.ahead.capacity()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn pair() -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (ours, theirs)
    }

    fn fill(input: &mut Input, socket: &UnixStream, length: usize) {
        while !input.has(length) {
            let received = input.receive(socket).unwrap();
            assert!(matches!(received, Received::Bytes { .. } | Received::Nothing), "{received:?}");
        }
    }

    #[test]
    fn a_message_longer_than_the_buffer_arrives_in_one_piece_and_the_memory_is_given_back() {
        let (ours, mut theirs) = pair();
        let long: Vec<u8> = (0..5 << 20).map(|i: u32| (i % 251) as u8).collect();
        let writer = std::thread::spawn({
            let long = long.clone();
            move || {
                theirs.write_all(b"head").unwrap();
                theirs.write_all(&long).unwrap();
                theirs.write_all(b"tail").unwrap();
                theirs
            }
        });
        let mut input = Input::new(&ReceiveLimit::new());
        fill(&mut input, &ours, 4);
        assert_eq!(input.bytes(4), b"head");
        input.consume(4);
        fill(&mut input, &ours, long.len());
        assert!(input.bytes(long.len()) == long);
        assert!(input.capacity() >= long.len());
        input.consume(long.len());
        fill(&mut input, &ours, 4);
        assert_eq!(input.bytes(4), b"tail");
        input.rest();
        assert!(input.capacity() >= long.len(), "not while something lies in it");
        input.consume(4);
        input.rest();
        assert_eq!(input.capacity(), BUFFER_BYTES);
        let _theirs = writer.join().unwrap();
        assert_eq!(input.receive(&ours).unwrap(), Received::Nothing);
    }

    #[test]
    fn a_grown_buffer_is_kept_while_it_is_needed_and_not_for_ever() {
        let (ours, mut theirs) = pair();
        let mut input = Input::new(&ReceiveLimit::new());
        assert!(!input.has(1 << 20));
        assert_eq!(input.receive(&ours).unwrap(), Received::Nothing);
        input.rest();
        assert!(input.capacity() >= 1 << 20);
        for _ in 0..=UNNEEDED_MAX {
            input.consume(0);
            theirs.write_all(b"x").unwrap();
            fill(&mut input, &ours, 1);
            input.consume(1);
        }
        assert_eq!(input.capacity(), BUFFER_BYTES);
    }

    #[test]
    fn skipped_bytes_are_dropped_whether_they_are_here_or_not() {
        let (ours, mut theirs) = pair();
        let mut input = Input::new(&ReceiveLimit::new());
        theirs.write_all(b"abcdef").unwrap();
        fill(&mut input, &ours, 6);
        input.skip(8);
        assert!(input.skipping());
        assert!(!input.has(1));
        theirs.write_all(b"gh").unwrap();
        theirs.write_all(b"next").unwrap();
        fill(&mut input, &ours, 4);
        assert!(!input.skipping());
        assert_eq!(input.array(), Some(*b"next"));
    }

    /// The bytes that come while a message is handled are the next message, also where it is larger than that
    /// one, ends in the middle of a head, or is to be dropped.
    #[test]
    fn what_is_received_ahead_follows_in_order() {
        let (ours, mut theirs) = pair();
        let mut input = Input::new(&ReceiveLimit::new());
        let first = vec![1; LARGE_BYTES];
        theirs.write_all(&first).unwrap();
        fill(&mut input, &ours, first.len());
        assert_eq!(input.receive(&ours).unwrap(), Received::Nothing);
        theirs.write_all(b"secondth").unwrap();
        input.receive_ahead(&ours, first.len());
        theirs.write_all(b"ird").unwrap();
        input.receive_ahead(&ours, first.len());
        assert!(input.bytes(first.len()) == first);
        assert!(input.capacity() > BUFFER_BYTES);
        input.consume(first.len());
        assert_eq!(input.array(), Some(*b"second"));
        input.consume(6);
        assert!(!input.has(2 * BUFFER_BYTES));
        theirs.write_all(b"fourth").unwrap();
        assert_eq!(input.receive(&ours).unwrap(), Received::Bytes { count: 6, drained: true });
        assert_eq!(input.bytes(11), b"thirdfourth");
        input.skip(7);
        assert_eq!(input.array(), Some(*b"urth"));
        input.consume(4);
        input.relax();
        assert_eq!(input.capacity(), BUFFER_BYTES);
    }

    #[test]
    fn the_end_is_reported() {
        let (ours, theirs) = pair();
        drop(theirs);
        assert_eq!(Input::new(&ReceiveLimit::new()).receive(&ours).unwrap(), Received::End);
    }
}
