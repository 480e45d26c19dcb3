//! Obeys requests (proto.md, Transmission): one call, one request, its reply queued.

use std::io;

use super::{
    connection::{End, Turn},
    request::{Limits, Refusal, Request, check},
};
use crate::{
    errno::Errno,
    export::{Export, Extent, Stats},
    wire::{self, PAYLOAD_BYTES_MAX, chunk, command, state},
};

/// A refused payload longer than this is not worth receiving only to be dropped.
const DROPPED_BYTES_MAX: u32 = 2 * PAYLOAD_BYTES_MAX;
/// The most descriptors in one answer to `BLOCK_STATUS`; the protocol's bound is 2^20.
const DESCRIPTORS_MAX: usize = 4096;
/// The longest descriptor: the largest multiple of 4 KiB that the field holds.
const DESCRIPTOR_BYTES_MAX: u64 = 0xffff_f000;
/// Discarding that many bytes is as much work as moving one.
const DISCARD_BYTES_PER_BYTE: usize = 64;
/// Payloads are written in parts of so many bytes.
const PART_BYTES: usize = 128 << 10;
/// Head of a request.
const HEAD: usize = wire::Request::BYTES;

impl<E: Export> Turn<'_, E> {
    /// Obeys the next request, if all of it is here. `false`: it is not.
    #[inline]
    pub(super) fn request(&mut self) -> Result<bool, End> {
        let Some(head) = self.input.array::<HEAD>() else { return Ok(false) };
        let raw = wire::Request::from_bytes(&head);
        if raw.magic != wire::REQUEST_MAGIC {
            return Err(End::Violation("a request without its magic"));
        }
        let limits = Limits {
            size: self.export.size(),
            read_only: self.export.read_only(),
            structured: self.session.structured,
            allocation: self.session.allocation,
        };
        let refusal = match check(&raw, &limits) {
            Ok(Request::Disconnect) => {
                self.input.consume(HEAD);
                return Err(End::Disconnected);
            }
            Ok(_) if self.session.stopping => {
                Refusal { errno: Errno::ESHUTDOWN, message: "the disk is being closed" }
            }
            // One that was let in stays in: its buffer has grown by then.
            Ok(Request::Write { length, .. }) if !self.input.may_hold(HEAD + length as usize) => {
                Refusal { errno: Errno::ENOMEM, message: "too many large writes at a time" }
            }
            Ok(Request::Write { offset, length, durable }) => {
                return self.write(raw.cookie, offset, length, durable);
            }
            Ok(request) => {
                self.input.consume(HEAD);
                self.carry_out(&raw, request)?;
                return Ok(true);
            }
            Err(refusal) => refusal,
        };
        self.refuse(&raw, refusal)?;
        Ok(true)
    }

    /// Everything that has no payload.
    #[inline]
    fn carry_out(&mut self, raw: &wire::Request, request: Request) -> Result<(), End> {
        let cookie = raw.cookie;
        let mut allowed = Errno::ENOTSUP;
        let result = match request {
            Request::Read { offset, length, whole } => {
                self.read(cookie, offset, length, whole);
                return Ok(());
            }
            Request::Status { offset, length, one } => {
                self.status(cookie, offset, length, one);
                return Ok(());
            }
            Request::Nothing if raw.command == command::READ && self.session.structured => {
                // Reads have no simple replies any more (proto.md, Structured reply chunk message).
                self.chunk(cookie, chunk::NONE, 0);
                return Ok(());
            }
            Request::Nothing | Request::Disconnect | Request::Write { .. } => Ok(()),
            Request::Flush => self.flush(true),
            Request::Cache { offset, length } => self.export.cache(offset, length.into()),
            Request::Trim { offset, length, durable } => {
                self.discard(offset, length)?;
                self.export.trim(offset, length.into()).and_then(|()| self.flush(durable))
            }
            Request::WriteZeroes { offset, length, keep, durable, fast } => {
                if !fast {
                    // Only a fast zero may fail this way (proto.md, NBD_CMD_WRITE_ZEROES).
                    allowed = Errno::EINVAL;
                }
                self.discard(offset, length)?;
                self.export
                    .write_zeroes(offset, length.into(), keep)
                    .and_then(|()| self.flush(durable))
            }
        };
        match result {
            Ok(()) => self.done(cookie),
            Err(error) => {
                self.stats.other_fails += 1;
                let errno = Errno::of(&error);
                let errno = if errno == Errno::ENOTSUP { allowed } else { errno };
                self.fail(cookie, errno, &error.to_string());
            }
        }
        Ok(())
    }

    /// Applies a write, if all of its payload is here. `false`: it is not.
    #[inline]
    fn write(&mut self, cookie: u64, offset: u64, length: u32, durable: bool) -> Result<bool, End> {
        let total = HEAD + length as usize;
        if !self.input.has(total) {
            return Ok(false);
        }
        self.recall(offset, length)?;
        self.stats.writes += 1;
        self.stats.write_sectors += Stats::sectors(offset, length);
        let written = self.write_parts(offset, total);
        self.input.consume(total);
        match written.and_then(|()| self.flush(durable)) {
            Ok(()) => self.done(cookie),
            Err(error) => {
                self.stats.write_fails += 1;
                self.fail(cookie, Errno::of(&error), &error.to_string());
            }
        }
        Ok(true)
    }

    /// Writes the payload of a message of `total` bytes. A large one goes in parts, between which the
    /// socket is emptied, so that the client can go on sending.
    #[inline]
    fn write_parts(&mut self, offset: u64, total: usize) -> io::Result<()> {
        let mut from = HEAD;
        while from < total {
            let at = offset + (from - HEAD) as u64;
            let to = total.min(from + PART_BYTES - (at % PART_BYTES as u64) as usize);
            self.export.write(at, &self.input.bytes(total)[from..to])?;
            from = to;
            if from < total {
                // Counts like what is received otherwise.
                self.spent += self.input.look_ahead(self.socket, total);
            }
        }
        Ok(())
    }

    #[inline]
    fn flush(&mut self, wanted: bool) -> io::Result<()> {
        if wanted {
            self.stats.flushes += 1;
            self.export.flush()?;
        }
        Ok(())
    }

    /// Before that range is discarded.
    fn discard(&mut self, offset: u64, length: u32) -> Result<(), End> {
        self.spent += length as usize / DISCARD_BYTES_PER_BYTE;
        self.stats.discards += 1;
        self.recall(offset, length)
    }

    /// Before that range changes: replies that point into its blocks are sent or copied.
    #[inline]
    fn recall(&mut self, offset: u64, length: u32) -> Result<(), End> {
        let end = (offset + u64::from(length)).next_multiple_of(E::BLOCK_BYTES);
        let offset = offset - offset % E::BLOCK_BYTES;
        let length = end - offset;
        if self.output.has_lent(offset, length) {
            self.output.send(self.socket).map_err(End::of)?;
            self.output.settle(offset, length);
        }
        if let Some(loans) = self.loans {
            loans.recall(offset, length);
        }
        Ok(())
    }

    #[inline]
    fn read(&mut self, cookie: u64, offset: u64, length: u32, whole: bool) {
        self.stats.reads += 1;
        self.stats.read_sectors += Stats::sectors(offset, length);
        self.extents.clear();
        if let Err(error) = self.export.read(offset, length, self.extents) {
            self.stats.read_fails += 1;
            self.fail(cookie, Errno::of(&error), &error.to_string());
            return;
        }
        let mut total = 0;
        let mut zeroes = 0;
        for extent in self.extents.iter() {
            total += extent.length();
            if extent.is_zeroes() {
                zeroes += extent.length();
            }
        }
        if total != length as usize {
            debug_assert_eq!(total, length as usize, "extents that do not cover what was read");
            self.stats.read_fails += 1;
            self.fail(cookie, Errno::EIO, "the store has lost track");
            return;
        }
        if !self.session.structured {
            self.simple(cookie, 0);
            self.data(offset);
        } else if zeroes == 0 || (whole && zeroes < total) {
            self.output.begin_reply();
            self.data_head(cookie, chunk::DONE, offset, length);
            self.data(offset);
        } else {
            self.output.begin_reply();
            self.runs(cookie, offset, length);
        }
    }

    /// The extents as bytes.
    #[inline]
    fn data(&mut self, mut offset: u64) {
        for extent in self.extents.drain(..) {
            let length = extent.length();
            match extent {
                Extent::Data(slice) => self.output.push_lent(slice, offset),
                Extent::Zeroes(_) => self.output.push_zeroes(length),
            }
            offset += length as u64;
        }
    }

    /// The extents as one chunk for each run of data or of zeroes.
    fn runs(&mut self, cookie: u64, offset: u64, length: u32) {
        let end = offset + u64::from(length);
        let mut at = offset;
        let mut first = 0;
        while let Some(extent) = self.extents.get(first) {
            let zeroes = extent.is_zeroes();
            let alike = self.extents[first..].iter().take_while(|e| e.is_zeroes() == zeroes);
            let (count, run) = alike.fold((0, 0), |(n, sum), e| (n + 1, sum + e.length()));
            // The sum of all runs is `length`.
            let run = run as u32;
            let next = at + u64::from(run);
            let flags = if next == end { chunk::DONE } else { 0 };
            if zeroes && run > 0 {
                let head = wire::HoleChunk {
                    magic: wire::CHUNK_MAGIC,
                    flags,
                    kind: chunk::OFFSET_HOLE,
                    cookie,
                    length: 12,
                    offset: at,
                    zeroes: run,
                };
                self.output.push(&head.to_bytes());
            } else if run > 0 {
                self.data_head(cookie, flags, at, run);
                for extent in &self.extents[first..first + count] {
                    if let Extent::Data(slice) = extent {
                        self.output.push_lent(slice.clone(), at);
                        at += slice.length() as u64;
                    }
                }
            }
            at = next;
            first += count;
        }
        self.extents.clear();
    }

    fn status(&mut self, cookie: u64, offset: u64, length: u32, one: bool) {
        self.statuses.clear();
        if let Err(error) = self.export.status(offset, length.into(), self.statuses) {
            self.stats.other_fails += 1;
            self.fail(cookie, Errno::of(&error), &error.to_string());
            return;
        }
        self.output.begin_reply();
        let mut descriptors = std::mem::take(self.descriptors);
        descriptors.clear();
        let wanted = u64::from(length);
        let mut told = 0;
        for extent in self.statuses.iter().filter(|extent| extent.length > 0) {
            let limit = if one { wanted } else { DESCRIPTOR_BYTES_MAX };
            // At most `limit`, which fits.
            let length = extent.length.min(limit) as u32;
            let mut flags = if extent.zero { state::ZERO } else { 0 };
            if extent.hole && extent.zero {
                flags |= state::HOLE;
            }
            descriptors.extend_from_slice(&wire::Descriptor { length, flags }.to_bytes());
            told += u64::from(length);
            let full = descriptors.len() == DESCRIPTORS_MAX * wire::Descriptor::BYTES;
            if one || told >= wanted || full || u64::from(length) < extent.length {
                break;
            }
        }
        if descriptors.is_empty() {
            // "Nothing special" is always a true answer (proto.md, NBD_CMD_BLOCK_STATUS).
            descriptors.extend_from_slice(&wire::Descriptor { length, flags: 0 }.to_bytes());
        }
        // Bounded by DESCRIPTORS_MAX, so it fits.
        self.chunk(cookie, chunk::BLOCK_STATUS, 4 + descriptors.len() as u32);
        self.output.push(&super::handshake::ALLOCATION_ID.to_be_bytes());
        self.output.push(&descriptors);
        *self.descriptors = descriptors;
    }

    /// Answers a request that is not obeyed, and drops its payload.
    fn refuse(&mut self, raw: &wire::Request, refusal: Refusal) -> Result<(), End> {
        self.input.consume(HEAD);
        match raw.command {
            command::WRITE => {
                self.stats.write_fails += 1;
                if raw.length > DROPPED_BYTES_MAX {
                    return Err(End::Violation("a payload far beyond the limit"));
                }
                if raw.length > 0 {
                    // Answered when the payload is through: a client may read only then.
                    self.input.skip(raw.length as usize);
                    self.session.refused = Some((raw.cookie, refusal));
                    return Ok(());
                }
            }
            command::READ => self.stats.read_fails += 1,
            _ => self.stats.other_fails += 1,
        }
        self.fail(raw.cookie, refusal.errno, refusal.message);
        Ok(())
    }

    /// The answer that [`refuse`](Self::refuse) has put off.
    #[inline]
    pub(super) fn answer_refused(&mut self) {
        if let Some((cookie, refusal)) = self.session.refused.take() {
            self.fail(cookie, refusal.errno, refusal.message);
        }
    }

    /// Success without data: a simple reply is enough for everything but reads and status
    /// (proto.md, Simple reply message).
    #[inline]
    fn done(&mut self, cookie: u64) {
        self.simple(cookie, 0);
    }

    fn fail(&mut self, cookie: u64, errno: Errno, message: &str) {
        if !self.session.structured {
            self.simple(cookie, errno.code());
            return;
        }
        let mut cut = message.len().min(wire::STRING_BYTES_MAX);
        while !message.is_char_boundary(cut) {
            cut -= 1;
        }
        // At most STRING_BYTES_MAX, so it fits.
        let length = cut as u16;
        self.output.begin_reply();
        self.chunk(cookie, chunk::ERROR, 6 + u32::from(length));
        self.output.push(&errno.code().to_be_bytes());
        self.output.push(&length.to_be_bytes());
        self.output.push(&message.as_bytes()[..cut]);
    }

    #[inline]
    fn simple(&mut self, cookie: u64, error: u32) {
        self.output.begin_reply();
        let reply = wire::SimpleReply { magic: wire::SIMPLE_REPLY_MAGIC, error, cookie };
        self.output.push(&reply.to_bytes());
    }

    /// The head of the last chunk of a reply.
    fn chunk(&mut self, cookie: u64, kind: u16, length: u32) {
        let magic = wire::CHUNK_MAGIC;
        let head = wire::Chunk { magic, flags: chunk::DONE, kind, cookie, length };
        self.output.push(&head.to_bytes());
    }

    #[inline]
    fn data_head(&mut self, cookie: u64, flags: u16, offset: u64, length: u32) {
        let head = wire::DataChunk {
            magic: wire::CHUNK_MAGIC,
            flags,
            kind: chunk::OFFSET_DATA,
            cookie,
            length: 8 + length,
            offset,
        };
        self.output.push(&head.to_bytes());
    }
}
