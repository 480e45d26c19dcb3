//! Puts the heads of replies into the queue (proto.md, Simple reply message, Structured reply chunk
//! message).

use block::Stats;

use super::{
    output::Output,
    session::{Pending, Session},
};
use crate::{
    errno::Errno,
    wire::{self, chunk},
};

/// Success without data: a simple reply is enough for everything but reads and status, also where
/// structured replies were negotiated.
#[inline]
pub(super) fn done(output: &mut Output, cookie: u64) {
    simple(output, cookie, 0);
}

/// A simple reply.
#[inline]
pub(super) fn simple(output: &mut Output, cookie: u64, error: u32) {
    output.begin_reply();
    let reply = wire::SimpleReply { magic: wire::SIMPLE_REPLY_MAGIC, error, cookie };
    output.push(&reply.to_bytes());
}

/// An error; its message goes only to clients with structured replies.
pub(super) fn error(
    output: &mut Output,
    session: &Session,
    cookie: u64,
    errno: Errno,
    message: &str,
) {
    if !session.structured {
        simple(output, cookie, errno.code());
        return;
    }
    let mut cut = message.len().min(wire::STRING_BYTES_MAX);
    while !message.is_char_boundary(cut) {
        cut -= 1;
    }
    // At most STRING_BYTES_MAX, so it fits.
    let length = cut as u16;
    output.begin_reply();
    last_chunk(output, cookie, chunk::ERROR, 6 + u32::from(length));
    output.push(&errno.code().to_be_bytes());
    output.push(&length.to_be_bytes());
    output.push(&message.as_bytes()[..cut]);
}

/// The head of the last chunk of a reply.
pub(super) fn last_chunk(output: &mut Output, cookie: u64, kind: u16, length: u32) {
    let magic = wire::CHUNK_MAGIC;
    let head = wire::Chunk { magic, flags: chunk::DONE, kind, cookie, length };
    output.push(&head.to_bytes());
}

/// The head of a chunk of data.
#[inline]
pub(super) fn data_chunk(output: &mut Output, cookie: u64, flags: u16, offset: u64, length: u32) {
    let head = wire::DataChunk {
        magic: wire::CHUNK_MAGIC,
        flags,
        kind: chunk::OFFSET_DATA,
        cookie,
        length: 8 + length,
        offset,
    };
    output.push(&head.to_bytes());
}

/// A chunk that says that a range reads as zeroes.
pub(super) fn hole_chunk(output: &mut Output, cookie: u64, flags: u16, offset: u64, zeroes: u32) {
    let head = wire::HoleChunk {
        magic: wire::CHUNK_MAGIC,
        flags,
        kind: chunk::OFFSET_HOLE,
        cookie,
        length: 12,
        offset,
        zeroes,
    };
    output.push(&head.to_bytes());
}

impl Session {
    /// Answers the large changes that the drive has finished.
    #[inline]
    pub(super) fn answer_completed(&mut self, output: &mut Output, stats: &mut Stats) {
        if self.pending.is_empty() {
            return;
        }
        for pending in std::mem::take(&mut self.pending) {
            match pending.completion.take() {
                None => self.pending.push(pending),
                Some(Ok(())) => {
                    // Nothing of a disk in memory waits for a flush.
                    stats.flushes += u64::from(pending.durable);
                    done(output, pending.cookie);
                }
                Some(Err(failure)) => {
                    stats.other_failed += 1;
                    let errno = pending.errno(&failure);
                    error(output, self, pending.cookie, errno, &failure.to_string());
                }
            }
        }
    }
}

impl Pending {
    pub(super) fn errno(&self, failure: &std::io::Error) -> Errno {
        supported(Errno::of(failure), self.unsupported)
    }
}

/// The error of a request, with `ENOTSUP` replaced where its command may not fail with that.
pub(super) fn supported(errno: Errno, unsupported: Errno) -> Errno {
    if errno == Errno::ENOTSUP { unsupported } else { errno }
}
