//! Handles requests (proto.md, Transmission): one call, one request, its reply queued.

use std::io;

use block::{Disk, Extent, Started};

use super::{
    end::End,
    greeting::ALLOCATION_ID,
    output::Output,
    reply,
    request::{Limits, Refusal, Request, check},
    session::{Charged, Pending},
    turn::Turn,
};
use crate::{
    errno::Errno,
    wire::{self, PAYLOAD_BYTES_MAX, chunk, command, state},
};

/// A refused payload longer than this is not worth receiving only to be dropped.
const DROPPED_BYTES_MAX: u32 = 2 * PAYLOAD_BYTES_MAX;
/// The most descriptors in one answer to `BLOCK_STATUS`; the protocol's bound is 2^20.
const DESCRIPTORS_MAX: usize = 4096;
/// The longest descriptor: the largest multiple of 4 KiB that the field holds.
const DESCRIPTOR_BYTES_MAX: u64 = 0xffff_f000;
/// A payload that is longer than this may take several turns. It is more than one turn receives.
const WHOLE_BYTES_MAX: usize = 4 << 20;
/// Payloads are written in parts of so many bytes.
const PART_BYTES: usize = 128 << 10;
/// Head of a request.
const HEAD: usize = wire::Request::BYTES;

impl<D: Disk> Turn<'_, D> {
    /// Handles the next request, if all of it is here. `false`: it is not, or it is a large write of which
    /// the rest is left to the next turn.
    #[inline]
    pub(super) fn request(&mut self) -> Result<bool, End> {
        let Some(head) = self.input.array::<HEAD>() else { return Ok(false) };
        let raw = wire::Request::from_bytes(&head);
        if raw.magic != wire::REQUEST_MAGIC {
            return Err(End::Violation("a request without its magic"));
        }
        let charged = match self.execute(&raw)? {
            Some(charged) => charged,
            // Of all requests a write alone may be here in part.
            None => {
                self.charge(Charged::Write);
                return Ok(false);
            }
        };
        self.charge(charged);
        self.session.replying = self.session.replying.max(charged);
        Ok(true)
    }

    /// Charges a request the time since the clock was asked last: that of receiving it, if it is the first
    /// that was received, and of executing it; or that of sending replies.
    #[inline]
    pub(super) fn charge(&mut self, charged: Charged) {
        let lap = self.clock.lap();
        match charged {
            Charged::Read => self.stats.read.time += lap,
            Charged::Write => self.stats.write.time += lap,
            Charged::Neither => {}
        }
    }

    /// Handles one request; `None` where its payload is not complete, or not all of it is written yet.
    #[inline]
    fn execute(&mut self, raw: &wire::Request) -> Result<Option<Charged>, End> {
        if self.session.written > 0 {
            // It was checked when it was begun.
            let durable = raw.flags & wire::command_flag::FUA != 0;
            let written = self.write(raw.cookie, raw.offset, raw.length, durable);
            return Ok(written.then_some(Charged::Write));
        }
        let limits = Limits {
            size: self.drive.size(),
            read_only: self.drive.read_only(),
            structured: self.session.structured,
            allocation: self.session.allocation,
        };
        let refusal = match check(raw, &limits) {
            Ok(Request::Disconnect) => {
                self.input.consume(HEAD);
                return Err(End::Disconnected);
            }
            Ok(_) if self.session.stopping => {
                Refusal { errno: Errno::ESHUTDOWN, message: "the disk is being closed" }
            }
            // A write that was allowed once stays allowed: its buffer has grown by then.
            Ok(Request::Write { length, .. }) if !self.input.may_hold(HEAD + length as usize) => {
                Refusal { errno: Errno::ENOMEM, message: "too many large writes at a time" }
            }
            Ok(Request::Write { offset, length, durable }) => {
                let written = self.write(raw.cookie, offset, length, durable);
                return Ok(written.then_some(Charged::Write));
            }
            Ok(Request::Read { offset, length, whole }) => {
                self.input.consume(HEAD);
                self.read(raw.cookie, offset, length, whole);
                return Ok(Some(Charged::Read));
            }
            Ok(request) => {
                self.input.consume(HEAD);
                self.execute_other(raw, request);
                return Ok(Some(Charged::Neither));
            }
            Err(refusal) => refusal,
        };
        self.refuse(raw, refusal)?;
        Ok(Some(Charged::Neither))
    }

    /// Everything but reads and writes.
    fn execute_other(&mut self, raw: &wire::Request, request: Request) {
        let cookie = raw.cookie;
        match request {
            Request::Status { offset, length, one } => self.status(cookie, offset, length, one),
            Request::Nothing if raw.command == command::READ && self.session.structured => {
                // Reads have no simple replies any more (proto.md, Structured reply chunk message).
                reply::last_chunk(&mut self.output(), cookie, chunk::NONE, 0);
            }
            // A disk in memory needs no preparation to be read.
            Request::Cache { .. }
            | Request::Nothing
            | Request::Disconnect
            | Request::Read { .. }
            | Request::Write { .. } => reply::done(&mut self.output(), cookie),
            Request::Flush => {
                let flushed = self.flush(true);
                self.answer_result(cookie, flushed, Errno::ENOTSUP);
            }
            Request::Trim { offset, length, durable } => {
                let started = self.drive.discard(offset, length.into());
                self.erased(raw, started, durable, Errno::ENOTSUP);
            }
            Request::WriteZeroes { offset, length, keep, durable, fast } => {
                let started = self.drive.write_zeroes(offset, length.into(), keep);
                // Only a fast zero may fail with ENOTSUP (proto.md, NBD_CMD_WRITE_ZEROES).
                let unsupported = if fast { Errno::ENOTSUP } else { Errno::EINVAL };
                self.erased(raw, started, durable, unsupported);
            }
        }
    }

    /// Answers a discard or a write of zeroes, or leaves that to the end of its last step.
    fn erased(&mut self, raw: &wire::Request, started: Started, durable: bool, unsupported: Errno) {
        let cookie = raw.cookie;
        self.stats.discards += 1;
        match started {
            Started::Done(done) => {
                // Freeing memory takes about as long as moving it.
                self.budget.spend(raw.length as usize);
                let flushed = done.and_then(|()| self.flush(durable));
                self.answer_result(cookie, flushed, unsupported);
            }
            // The drive does it on a budget of its own.
            Started::Later(completion) => {
                self.session.pending.push(Pending { cookie, completion, durable, unsupported });
            }
        }
    }

    fn answer_result(&mut self, cookie: u64, result: io::Result<()>, unsupported: Errno) {
        match result {
            Ok(()) => reply::done(&mut self.output(), cookie),
            Err(error) => {
                self.stats.other_failed += 1;
                let errno = reply::supported(Errno::of(&error), unsupported);
                self.fail(cookie, errno, &error.to_string());
            }
        }
    }

    /// Applies a write, if all of its payload is here. `false`: it is not, or the rest is left to the next
    /// turn.
    #[inline]
    fn write(&mut self, cookie: u64, offset: u64, length: u32, durable: bool) -> bool {
        let total = HEAD + length as usize;
        if !self.input.has(total) {
            return false;
        }
        if self.session.written == 0 {
            self.send_pinned(offset, length);
        }
        let written = match self.write_parts(offset, total) {
            Ok(true) => self.flush(durable),
            Ok(false) => return false,
            Err(error) => Err(error),
        };
        self.session.written = 0;
        self.input.consume(total);
        self.stats.write.count(offset, length, written.is_ok());
        match written {
            Ok(()) => reply::done(&mut self.output(), cookie),
            Err(error) => self.fail(cookie, Errno::of(&error), &error.to_string()),
        }
        true
    }

    /// Writes the payload of a message of `total` bytes. A large one is written in parts, between which
    /// the socket is emptied, so that the client can go on sending; the largest ones as far as the budget
    /// goes. `false`: the rest is left to the next turn.
    #[inline]
    fn write_parts(&mut self, offset: u64, total: usize) -> io::Result<bool> {
        let mut from = HEAD + self.session.written;
        while from < total {
            let at = offset + (from - HEAD) as u64;
            let to = total.min(from + PART_BYTES - (at % PART_BYTES as u64) as usize);
            self.drive.write(at, &self.input.bytes(total)[from..to])?;
            from = to;
            if from < total {
                // Counts like everything else that is received.
                let received = self.input.receive_ahead(self.socket, total);
                self.budget.spend(received);
                if total > WHOLE_BYTES_MAX {
                    self.budget.spend(PART_BYTES);
                    if self.budget.is_spent() {
                        self.session.written = from - HEAD;
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    #[inline]
    fn flush(&mut self, wanted: bool) -> io::Result<()> {
        if wanted {
            self.stats.flushes += 1;
            self.drive.flush()?;
        }
        Ok(())
    }

    /// Before a range changes: sends replies that point into it. The drive copies those that the socket
    /// does not take.
    #[inline]
    fn send_pinned(&mut self, offset: u64, length: u32) {
        let end = (offset + u64::from(length)).next_multiple_of(D::BLOCK_BYTES);
        let start = offset - offset % D::BLOCK_BYTES;
        let mut output = self.output.borrow_mut();
        if output.has_pinned(&(start..end)) {
            // An error of the socket comes again when the turn sends.
            let _sent = output.send(self.socket);
        }
    }

    #[inline]
    fn read(&mut self, cookie: u64, offset: u64, length: u32, whole: bool) {
        let mut extents = std::mem::take(&mut self.scratch.extents);
        extents.clear();
        let read = self.drive.read(offset, length, &mut extents);
        self.stats.read.count(offset, length, read.is_ok());
        match read {
            Ok(()) => self.reply_data(cookie, offset, length, whole, &mut extents),
            Err(error) => self.fail(cookie, Errno::of(&error), &error.to_string()),
        }
        extents.clear();
        self.scratch.extents = extents;
    }

    #[inline]
    fn reply_data(
        &mut self,
        cookie: u64,
        offset: u64,
        length: u32,
        whole: bool,
        extents: &mut Vec<Extent>,
    ) {
        let mut total = 0;
        let mut zeroes = 0;
        for extent in extents.iter() {
            total += extent.length();
            if extent.is_zeroes() {
                zeroes += extent.length();
            }
        }
        if total != length as usize {
            debug_assert_eq!(total, length as usize, "extents that do not cover the range");
            self.fail(cookie, Errno::EIO, "the store returned a range of another length");
            return;
        }
        let output = &mut self.output.borrow_mut();
        if !self.session.structured {
            reply::simple(output, cookie, 0);
            push_data(output, offset, extents);
        } else if zeroes == 0 || (whole && zeroes < total) {
            output.begin_reply();
            reply::data_chunk(output, cookie, chunk::DONE, offset, length);
            push_data(output, offset, extents);
        } else {
            output.begin_reply();
            push_runs(output, cookie, offset, length, extents);
        }
    }

    fn status(&mut self, cookie: u64, offset: u64, length: u32, one: bool) {
        self.scratch.statuses.clear();
        let told = self.drive.status(offset, length.into(), &mut self.scratch.statuses);
        if let Err(error) = told {
            self.stats.other_failed += 1;
            self.fail(cookie, Errno::of(&error), &error.to_string());
            return;
        }
        let descriptors = &mut self.scratch.descriptors;
        descriptors.clear();
        let wanted = u64::from(length);
        let mut told = 0;
        for extent in self.scratch.statuses.iter().filter(|extent| extent.length > 0) {
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
        let mut output = self.output.borrow_mut();
        output.begin_reply();
        // Bounded by DESCRIPTORS_MAX, so it fits.
        let length = 4 + self.scratch.descriptors.len() as u32;
        reply::last_chunk(&mut output, cookie, chunk::BLOCK_STATUS, length);
        output.push(&ALLOCATION_ID.to_be_bytes());
        output.push(&self.scratch.descriptors);
    }

    /// Answers a request with an error, and drops its payload.
    fn refuse(&mut self, raw: &wire::Request, refusal: Refusal) -> Result<(), End> {
        self.input.consume(HEAD);
        match raw.command {
            command::WRITE => {
                self.stats.write.count_refused();
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
            command::READ => self.stats.read.count_refused(),
            _ => self.stats.other_failed += 1,
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

    fn fail(&mut self, cookie: u64, errno: Errno, message: &str) {
        reply::error(&mut self.output.borrow_mut(), self.session, cookie, errno, message);
    }
}

/// The extents as bytes.
#[inline]
fn push_data(output: &mut Output, mut offset: u64, extents: &mut Vec<Extent>) {
    for extent in extents.drain(..) {
        let length = extent.length();
        match extent {
            Extent::Data(slice) => output.push_pinned(slice, offset),
            Extent::Zeroes(_) => output.push_zeroes(length),
        }
        offset += length as u64;
    }
}

/// The extents as one chunk for each run of data or of zeroes.
fn push_runs(output: &mut Output, cookie: u64, offset: u64, length: u32, extents: &[Extent]) {
    let end = offset + u64::from(length);
    let mut at = offset;
    for run in extents.chunk_by(|left, right| left.is_zeroes() == right.is_zeroes()) {
        // The sum of all runs is `length`.
        let bytes = run.iter().map(Extent::length).sum::<usize>() as u32;
        let next = at + u64::from(bytes);
        let flags = if next == end { chunk::DONE } else { 0 };
        if bytes == 0 {
            continue;
        }
        if run[0].is_zeroes() {
            reply::hole_chunk(output, cookie, flags, at, bytes);
        } else {
            reply::data_chunk(output, cookie, flags, at, bytes);
        }
        for extent in run {
            if let Extent::Data(slice) = extent {
                output.push_pinned(slice.clone(), at);
                at += slice.length() as u64;
            }
        }
        at = next;
    }
}
