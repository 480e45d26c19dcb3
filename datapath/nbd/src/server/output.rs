//! Replies on their way out: heads in one arena, data where the disk has it.
//!
//! Invariant: pinned data ([`Piece::Pinned`]) is sent as it was when it was pushed. Before a range of the
//! disk changes, its drive has what is pinned there copied into the arena.

use std::{collections::VecDeque, io, ops::Range, os::unix::net::UnixStream};

use block::Pinned;

use memory::{PARTS_MAX, Part, Slice};

/// With more unsent bytes than this, no further request is taken.
const UNSENT_BYTES_MAX: usize = 1 << 20;
/// With more pieces than this, they are sent before a further request is taken: a request of one
/// extent adds two, and one send takes [`PARTS_MAX`].
const PIECES_MAX: usize = PARTS_MAX - 2;
/// Capacities beyond these are given back when the queue is empty.
const KEPT_ARENA_BYTES: usize = 64 << 10;
const KEPT_PIECES: usize = 2 * PARTS_MAX;

/// Zeroes are sent from here.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// A part of the byte stream.
#[derive(Debug)]
enum Piece {
    /// That many of the next bytes of the arena.
    Owned(usize),
    /// That many zero bytes.
    Zeroes(usize),
    /// Bytes of the disk, from its offset `at` on.
    Pinned { slice: Slice, at: u64 },
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Output {
    pieces: VecDeque<Piece>,
    arena: Vec<u8>,
    /// Bytes of the arena that are sent.
    sent: usize,
    /// Bytes that are not sent.
    unsent: usize,
    /// Pieces that are pinned.
    pinned: usize,
    /// Replies that were begun since the queue was last empty.
    replies: usize,
}

impl Output {
    /// Whether everything is sent.
    pub(super) fn is_empty(&self) -> bool {
        self.unsent == 0
    }

    /// Whether so much is unsent that no further request may be taken.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.unsent >= UNSENT_BYTES_MAX || self.pieces.len() > PIECES_MAX
    }

    /// Bytes that are not sent.
    pub(super) fn unsent(&self) -> usize {
        self.unsent
    }

    /// An upper bound of the requests that were handled and whose replies are not sent.
    pub(super) fn replies(&self) -> usize {
        self.replies
    }

    /// Counts a reply.
    #[inline]
    pub(super) fn begin_reply(&mut self) {
        self.replies += 1;
    }

    /// Appends a copy of `bytes`.
    #[inline]
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.arena.extend_from_slice(bytes);
        self.unsent += bytes.len();
        if let Some(Piece::Owned(length)) = self.pieces.back_mut() {
            *length += bytes.len();
        } else {
            self.pieces.push_back(Piece::Owned(bytes.len()));
        }
    }

    /// Appends zeroes.
    pub(super) fn push_zeroes(&mut self, length: usize) {
        self.unsent += length;
        if let Some(Piece::Zeroes(before)) = self.pieces.back_mut() {
            *before += length;
        } else {
            self.pieces.push_back(Piece::Zeroes(length));
        }
    }

    /// Appends bytes of the disk, from its offset `at` on.
    #[inline]
    pub(super) fn push_pinned(&mut self, slice: Slice, at: u64) {
        self.unsent += slice.length();
        self.pinned += 1;
        self.pieces.push_back(Piece::Pinned { slice, at });
    }

    /// Sends as much as the socket takes.
    pub(super) fn send(&mut self, socket: &UnixStream) -> io::Result<()> {
        while !self.is_empty() {
            let mut offered = 0;
            let parts = self.parts().inspect(|part| {
                offered += match part {
                    Part::Bytes(bytes) => bytes.len(),
                    Part::Shared(slice) => slice.length(),
                }
            });
            match memory::send(socket, parts.take(PARTS_MAX)) {
                Ok(sent) => {
                    self.advance(sent);
                    // A full socket: trying again would only be told so.
                    if sent < offered {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether unsent replies point into that range of the disk.
    #[inline]
    pub(super) fn has_pinned(&self, range: &Range<u64>) -> bool {
        self.pinned > 0 && self.pieces.iter().any(|piece| piece.overlaps(range))
    }

    /// Copies the data that is pinned in that range.
    #[cold]
    fn unpin(&mut self, range: &Range<u64>) {
        let old = std::mem::take(self);
        self.replies = old.replies;
        let mut arena = &old.arena[old.sent..];
        for piece in old.pieces {
            match piece {
                Piece::Owned(length) => {
                    let (bytes, rest) = arena.split_at(length);
                    self.push(bytes);
                    arena = rest;
                }
                Piece::Zeroes(length) => self.push_zeroes(length),
                Piece::Pinned { ref slice, .. } if piece.overlaps(range) => {
                    self.push(&[]);
                    let from = self.arena.len();
                    self.arena.resize(from + slice.length(), 0);
                    slice.read(0, &mut self.arena[from..]);
                    self.unsent += slice.length();
                    if let Some(Piece::Owned(length)) = self.pieces.back_mut() {
                        *length += slice.length();
                    }
                }
                Piece::Pinned { slice, at } => self.push_pinned(slice, at),
            }
        }
    }

    /// The unsent bytes, as the kernel takes them.
    fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let mut owned = &self.arena[self.sent..];
        self.pieces.iter().flat_map(move |piece| match piece {
            Piece::Owned(length) => {
                let (bytes, rest) = owned.split_at(*length);
                owned = rest;
                Run::One(Part::Bytes(bytes))
            }
            Piece::Zeroes(length) => Run::Zeroes(*length),
            Piece::Pinned { slice, .. } => Run::One(Part::Shared(slice)),
        })
    }

    /// Drops the first `count` unsent bytes.
    fn advance(&mut self, mut count: usize) {
        self.unsent -= count;
        if self.unsent == 0 {
            self.clear();
            return;
        }
        while count > 0 {
            let Some(piece) = self.pieces.front_mut() else { break };
            let taken = match piece {
                Piece::Owned(length) => {
                    let taken = count.min(*length);
                    *length -= taken;
                    self.sent += taken;
                    if *length > 0 {
                        break;
                    }
                    taken
                }
                Piece::Zeroes(length) => {
                    let taken = count.min(*length);
                    *length -= taken;
                    if *length > 0 {
                        break;
                    }
                    taken
                }
                Piece::Pinned { slice, at } => {
                    let taken = count.min(slice.length());
                    slice.advance(taken);
                    *at += taken as u64;
                    if slice.length() > 0 {
                        break;
                    }
                    self.pinned -= 1;
                    taken
                }
            };
            count -= taken;
            self.pieces.pop_front();
        }
    }

    /// Forgets everything and keeps a bounded amount of memory for what comes.
    fn clear(&mut self) {
        self.pieces.clear();
        self.pieces.shrink_to(KEPT_PIECES);
        self.arena.clear();
        self.arena.shrink_to(KEPT_ARENA_BYTES);
        *self = Self {
            pieces: std::mem::take(&mut self.pieces),
            arena: std::mem::take(&mut self.arena),
            ..Self::default()
        };
    }
}

impl Pinned for Output {
    #[inline]
    fn copy_out(&mut self, range: Range<u64>) {
        if self.has_pinned(&range) {
            self.unpin(&range);
        }
    }
}

impl Piece {
    #[inline]
    fn overlaps(&self, range: &Range<u64>) -> bool {
        match self {
            Self::Pinned { slice, at } => {
                *at < range.end && range.start < at + slice.length() as u64
            }
            _ => false,
        }
    }
}

/// The parts of one piece.
enum Run<'a> {
    One(Part<'a>),
    Zeroes(usize),
    Done,
}

impl<'a> Iterator for Run<'a> {
    type Item = Part<'a>;

    #[inline]
    fn next(&mut self) -> Option<Part<'a>> {
        match std::mem::replace(self, Self::Done) {
            Self::One(part) => Some(part),
            Self::Zeroes(length) if length > 0 => {
                let count = length.min(ZEROES.len());
                *self = Self::Zeroes(length - count);
                Some(Part::Bytes(&ZEROES[..count]))
            }
            Self::Zeroes(_) | Self::Done => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use memory::WriteMap;

    use super::*;

    fn map() -> WriteMap {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        WriteMap::new(&file, 0, 1 << 20).unwrap()
    }

    /// Pinned data is read when it is sent, copied data is sent as it was: at every point of a
    /// transfer that goes out in odd portions.
    #[test]
    fn copied_bytes_keep_their_content_wherever_the_transfer_has_stopped() {
        for sent in [0, 1, 7, 8, 9, 4103, 4104, 4105, 8000, 8196] {
            let map = map();
            map.write(0, &[1; 8192]);
            let mut output = Output::default();
            output.push(b"head one");
            output.push_pinned(Slice::new(map.reader(), 0, 4096), 0);
            output.push_zeroes(100);
            output.push(b"head two");
            output.push_pinned(Slice::new(map.reader(), 4096, 4096), 4096);
            let total = output.unsent();
            output.advance(sent);
            assert_eq!(output.unsent(), total - sent);
            assert_eq!(output.has_pinned(&(0..1)), sent < 9);
            output.copy_out(0..4096);
            assert!(!output.has_pinned(&(0..4096)));
            assert_eq!(output.has_pinned(&(4096..4097)), sent < 4213);
            assert_eq!(output.unsent(), total - sent);
            map.write(0, &[2; 8192]);

            let (ours, mut theirs) = UnixStream::pair().unwrap();
            output.send(&ours).unwrap();
            assert!(output.is_empty());
            let mut expected = b"head one".to_vec();
            expected.extend([1; 4096]);
            expected.extend([0; 100]);
            expected.extend(b"head two");
            expected.extend([2; 4096]);
            let mut got = vec![0; total - sent];
            theirs.read_exact(&mut got).unwrap();
            assert!(got == expected[sent..], "after {sent}");
        }
    }

    #[test]
    fn more_parts_than_one_send_takes_all_arrive() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let map = map();
        let mut output = Output::default();
        for i in 0..3 * PARTS_MAX {
            map.write(i, &[i as u8]);
            output.push_pinned(Slice::new(map.reader(), i, 1), i as u64);
        }
        assert!(output.is_full());
        output.send(&ours).unwrap();
        assert!(output.is_empty());
        let mut got = vec![0; 3 * PARTS_MAX];
        theirs.read_exact(&mut got).unwrap();
        assert!(got.iter().enumerate().all(|(i, &byte)| byte == i as u8));
    }

    #[test]
    fn a_full_socket_keeps_the_rest_and_memory_is_given_back() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut output = Output::default();
        output.push(&vec![7; 3 << 20]);
        assert!(output.is_full());
        let mut total = 0;
        let mut buffer = vec![0; 1 << 20];
        while !output.is_empty() {
            output.send(&ours).unwrap();
            total += theirs.read(&mut buffer).unwrap();
        }
        while total < 3 << 20 {
            total += theirs.read(&mut buffer).unwrap();
        }
        assert!(output.arena.capacity() <= KEPT_ARENA_BYTES);
    }
}
