//! Replies on their way out: heads in one arena, data where the export has it.
//!
//! Invariant: what is lent ([`Piece::Lent`]) shows the export as it was when it was pushed.
//! Whoever changes a range of the export has it settled first: copied into the arena.

use std::{collections::VecDeque, io, os::unix::net::UnixStream};

use memory::{PARTS_MAX, Part, Slice};

/// More unsent bytes than this, and no further request is obeyed.
const UNSENT_BYTES_MAX: usize = 1 << 20;
/// More pieces than this, and they are sent before a further request is obeyed: a request of
/// one extent adds two, and one send takes [`PARTS_MAX`].
const PIECES_MAX: usize = PARTS_MAX - 2;
/// Capacities beyond these are given back when the queue is empty.
const KEPT_ARENA_BYTES: usize = 64 << 10;
const KEPT_PIECES: usize = 2 * PARTS_MAX;

/// Where zeroes are sent from.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// A part of the byte stream.
#[derive(Debug)]
enum Piece {
    /// That many of the next bytes of the arena.
    Owned(usize),
    /// That many zero bytes.
    Zeroes(usize),
    /// Bytes of the export, from its offset `at` on.
    Lent { slice: Slice, at: u64 },
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Output {
    pieces: VecDeque<Piece>,
    arena: Vec<u8>,
    /// Bytes of the arena that are sent.
    gone: usize,
    /// Bytes that are not sent.
    unsent: usize,
    /// Pieces that are lent.
    lent: usize,
    /// Replies that were begun since the queue was last empty.
    replies: usize,
}

impl Output {
    /// Whether everything is sent.
    pub(super) fn is_empty(&self) -> bool {
        self.unsent == 0
    }

    /// Whether so much is unsent that no further request may be obeyed.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.unsent >= UNSENT_BYTES_MAX || self.pieces.len() > PIECES_MAX
    }

    /// Bytes that are not sent.
    pub(super) fn unsent(&self) -> usize {
        self.unsent
    }

    /// At most that many requests have been obeyed without their reply being sent.
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

    /// Appends bytes of the export, from its offset `at` on.
    #[inline]
    pub(super) fn push_lent(&mut self, slice: Slice, at: u64) {
        self.unsent += slice.length();
        self.lent += 1;
        self.pieces.push_back(Piece::Lent { slice, at });
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

    /// Whether bytes of that range are lent.
    #[inline]
    pub(super) fn has_lent(&self, offset: u64, length: u64) -> bool {
        self.lent > 0 && self.pieces.iter().any(|piece| piece.overlaps(offset, length))
    }

    /// Copies what is lent of that range.
    pub(super) fn settle(&mut self, offset: u64, length: u64) {
        if !self.has_lent(offset, length) {
            return;
        }
        let old = std::mem::take(self);
        self.replies = old.replies;
        let mut arena = &old.arena[old.gone..];
        for piece in old.pieces {
            match piece {
                Piece::Owned(length) => {
                    let (bytes, rest) = arena.split_at(length);
                    self.push(bytes);
                    arena = rest;
                }
                Piece::Zeroes(length) => self.push_zeroes(length),
                Piece::Lent { ref slice, .. } if piece.overlaps(offset, length) => {
                    self.push(&[]);
                    let from = self.arena.len();
                    self.arena.resize(from + slice.length(), 0);
                    slice.read(0, &mut self.arena[from..]);
                    self.unsent += slice.length();
                    if let Some(Piece::Owned(length)) = self.pieces.back_mut() {
                        *length += slice.length();
                    }
                }
                Piece::Lent { slice, at } => self.push_lent(slice, at),
            }
        }
    }

    /// Copies everything that is lent.
    pub(super) fn settle_all(&mut self) {
        self.settle(0, u64::MAX);
    }

    /// The unsent bytes, as the kernel takes them.
    fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let mut owned = &self.arena[self.gone..];
        self.pieces.iter().flat_map(move |piece| match piece {
            Piece::Owned(length) => {
                let (bytes, rest) = owned.split_at(*length);
                owned = rest;
                Run::One(Part::Bytes(bytes))
            }
            Piece::Zeroes(length) => Run::Zeroes(*length),
            Piece::Lent { slice, .. } => Run::One(Part::Shared(slice)),
        })
    }

    /// Lets go of the first `count` unsent bytes.
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
                    self.gone += taken;
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
                Piece::Lent { slice, at } => {
                    let taken = count.min(slice.length());
                    slice.advance(taken);
                    *at += taken as u64;
                    if slice.length() > 0 {
                        break;
                    }
                    self.lent -= 1;
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

impl Piece {
    #[inline]
    fn overlaps(&self, offset: u64, length: u64) -> bool {
        match self {
            Self::Lent { slice, at } => {
                *at < offset.saturating_add(length) && offset < at + slice.length() as u64
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

    /// What is lent is read when it is sent, what is settled as it was: at every point of a
    /// transfer that goes out in odd portions.
    #[test]
    fn settled_bytes_keep_their_content_wherever_the_transfer_has_stopped() {
        for gone in [0, 1, 7, 8, 9, 4103, 4104, 4105, 8000, 8196] {
            let map = map();
            map.write(0, &[1; 8192]);
            let mut output = Output::default();
            output.push(b"head one");
            output.push_lent(Slice::new(map.reader(), 0, 4096), 0);
            output.push_zeroes(100);
            output.push(b"head two");
            output.push_lent(Slice::new(map.reader(), 4096, 4096), 4096);
            let total = output.unsent();
            output.advance(gone);
            assert_eq!(output.unsent(), total - gone);
            assert_eq!(output.has_lent(0, 1), gone < 9);
            output.settle(0, 4096);
            assert!(!output.has_lent(0, 4096));
            assert_eq!(output.has_lent(4096, 1), gone < 4213);
            assert_eq!(output.unsent(), total - gone);
            map.write(0, &[2; 8192]);

            let (ours, mut theirs) = UnixStream::pair().unwrap();
            output.send(&ours).unwrap();
            assert!(output.is_empty());
            let mut expected = b"head one".to_vec();
            expected.extend([1; 4096]);
            expected.extend([0; 100]);
            expected.extend(b"head two");
            expected.extend([2; 4096]);
            let mut got = vec![0; total - gone];
            theirs.read_exact(&mut got).unwrap();
            assert!(got == expected[gone..], "after {gone}");
        }
    }

    #[test]
    fn more_parts_than_one_send_takes_all_arrive() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let map = map();
        let mut output = Output::default();
        for i in 0..3 * PARTS_MAX {
            map.write(i, &[i as u8]);
            output.push_lent(Slice::new(map.reader(), i, 1), i as u64);
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
