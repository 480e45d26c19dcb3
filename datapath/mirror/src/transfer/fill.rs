//! What is sent next.

use std::time::Instant;

use block::{Budget, Disk, Drive, Extent};
use nbd::wire::{self, command, transmission_flag as flag};

use super::{
    Transfer,
    state::Phase,
    work::{Next, Pace, Work, take_range},
};
use crate::{
    error::{Error, ErrorKind},
    pieces::{Piece, first},
    survey::Known,
    window::Purpose,
};

/// The unit in which holes are told from data, in bytes, unless the server wants a larger one.
const UNIT_BYTES: u64 = 4096;
/// The longest range of one request to write zeroes, in bytes: a server may do it slowly.
const ZEROES_BYTES_MAX: u64 = 32 << 20;
/// How much of the disk is looked at at a time to see how long a hole is, in bytes.
const LOOK_BYTES: u64 = 4 << 20;
/// Looking at so many bytes of a hole takes as long as moving one.
const LOOK_COST: u64 = 256;
/// Sending a request without a payload takes as long as moving so many bytes.
const REQUEST_COST: usize = 1024;

impl Transfer {
    /// Makes requests until there is no more room for them, or nothing to send.
    pub(super) fn fill<D: Disk>(
        &mut self,
        drive: &mut Drive<D>,
        budget: &mut Budget,
        now: Instant,
    ) -> Result<(), Error> {
        while matches!(self.phase, Phase::Sending { .. }) {
            self.ask_status();
            if budget.is_spent() || !self.window.has_room() || !self.output.has_room() {
                return Ok(());
            }
            if self.pending.is_empty() {
                match self.next(drive, now) {
                    Next::Range(range) => self.pending = range,
                    Next::Nothing => return Ok(()),
                    Next::Everything => {
                        self.everything_is_sent();
                        return Ok(());
                    }
                }
            }
            if !self.send_piece(drive, budget)? {
                self.ask_status();
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes the next range, and finds out whether the mirror is in sync.
    fn next<D: Disk>(&mut self, drive: &mut Drive<D>, now: Instant) -> Next {
        let Phase::Sending { is_in_sync, is_last } = &mut self.phase else { return Next::Nothing };
        match &mut self.work {
            Work::Mirror(rounds) => {
                let gathers = *is_in_sync && !*is_last;
                let gather = gathers.then_some(self.limits.gather);
                let pace = Pace { size: self.size, now, gather };
                let dirty = drive.dirty(&rounds.tracker);
                let next = rounds.take(dirty, &self.window, pace);
                *is_in_sync |= rounds.is_in_sync(drive.dirty(&rounds.tracker));
                next
            }
            Work::Copy { ranges, .. } => take_range(ranges, &self.window),
            Work::Over => Next::Nothing,
        }
    }

    /// Everything is sent and answered. That is the end, unless the disk may still change.
    fn everything_is_sent(&mut self) {
        let Phase::Sending { is_in_sync, is_last: true } = self.phase else { return };
        if self.server.flags & flag::SEND_FLUSH == 0 {
            return self.disconnect();
        }
        self.phase = Phase::Flushing { is_in_sync };
        self.request(command::FLUSH, Purpose::Flush, 0, 0);
    }

    /// Ends the session. The server does not answer that.
    pub(super) fn disconnect(&mut self) {
        let is_in_sync = self.phase.is_in_sync();
        let request = head(command::DISC, 0, 0, 0);
        self.output.push(&request);
        self.phase = Phase::Disconnecting { is_in_sync };
    }

    fn request(&mut self, code: u16, purpose: Purpose, offset: u64, length: u64) {
        let end = if purpose == Purpose::Change { offset + length } else { offset };
        let cookie = self.window.issue(purpose, offset..end);
        self.output.push(&head(code, cookie, offset, length));
    }

    /// Asks where the destination reads as zeroes, ahead of the copy.
    fn ask_status(&mut self) {
        if self.is_first_pass()
            && self.output.has_room()
            && let Some((offset, length)) = self.survey.question()
        {
            self.survey.asked();
            self.request(command::BLOCK_STATUS, Purpose::Status, offset, length.into());
        }
    }

    /// Whether nothing was sent yet to what is sent next.
    fn is_first_pass(&self) -> bool {
        match &self.work {
            Work::Mirror(rounds) => rounds.is_first(),
            Work::Copy { .. } => true,
            Work::Over => false,
        }
    }

    /// Sends or skips the front of what is pending. `false`: it first has to be known what the
    /// destination has there.
    fn send_piece<D: Disk>(
        &mut self,
        drive: &mut Drive<D>,
        budget: &mut Budget,
    ) -> Result<bool, Error> {
        let most = (self.pending.end - self.pending.start).min(self.server.payload.into());
        let mut extents = std::mem::take(&mut self.extents);
        let piece = self.read(drive, most, &mut extents);
        let sent = piece.and_then(|piece| match piece {
            Piece::Data(length) => {
                self.send_data(&extents, length, budget);
                Ok(true)
            }
            Piece::Zeroes(length) => {
                let length = self.zeroes(drive, length, &mut extents, budget)?;
                Ok(self.send_zeroes(length, budget))
            }
        });
        extents.clear();
        self.extents = extents;
        sent
    }

    /// The front of what is pending, `most` bytes of it at most, as it is now.
    fn read<D: Disk>(
        &self,
        drive: &mut Drive<D>,
        most: u64,
        extents: &mut Vec<Extent>,
    ) -> Result<Piece, Error> {
        let at = self.pending.start;
        read(drive, at, most, extents)?;
        let tells_holes = self.can_zero() || self.may_skip();
        Ok(if tells_holes { first(extents, at, self.unit()) } else { Piece::Data(most) })
    }

    /// How far zeroes reach, of which the first `length` bytes are known.
    fn zeroes<D: Disk>(
        &self,
        drive: &mut Drive<D>,
        mut length: u64,
        extents: &mut Vec<Extent>,
        budget: &mut Budget,
    ) -> Result<u64, Error> {
        let (start, end) = (self.pending.start, self.pending.end);
        while start + length < end {
            let most = (end - start - length).min(LOOK_BYTES);
            read(drive, start + length, most, extents)?;
            budget.spend(usize::try_from(most / LOOK_COST).unwrap_or(usize::MAX));
            match first(extents, start + length, self.unit()) {
                Piece::Zeroes(more) => {
                    length += more;
                    if more < most {
                        break;
                    }
                }
                Piece::Data(_) => break,
            }
        }
        Ok(length)
    }

    fn send_data(&mut self, extents: &[Extent], length: u64, budget: &mut Budget) {
        // It is not longer than a payload.
        let bytes = length as usize;
        self.request(command::WRITE, Purpose::Change, self.pending.start, length);
        self.output.push_extents(extents, bytes);
        budget.spend(bytes);
        self.counters.data_bytes += length;
        self.pending.start += length;
    }

    /// `false`: it first has to be known what the destination has there.
    fn send_zeroes(&mut self, mut length: u64, budget: &mut Budget) -> bool {
        let unit = self.unit();
        if self.may_skip() {
            match self.survey.at(self.pending.start) {
                Known::NotYet => return false,
                Known::Zeroes(same) if same >= length || same >= unit => {
                    let skipped = if same >= length { length } else { same - same % unit };
                    budget.spend(REQUEST_COST / 16);
                    self.counters.skipped_bytes += skipped;
                    self.pending.start += skipped;
                    return true;
                }
                Known::Zeroes(_) => length = length.min(unit),
                Known::Anything(same) => length = length.min(same.next_multiple_of(unit)),
            }
        }
        if self.can_zero() {
            let length = length.min(ZEROES_BYTES_MAX);
            self.request(command::WRITE_ZEROES, Purpose::Change, self.pending.start, length);
            budget.spend(REQUEST_COST);
            self.counters.zeroed_bytes += length;
            self.pending.start += length;
        } else {
            let length = length.min(self.server.payload.into());
            self.request(command::WRITE, Purpose::Change, self.pending.start, length);
            self.output.push_zeroes(length as usize);
            budget.spend(length as usize);
            self.counters.data_bytes += length;
            self.pending.start += length;
        }
        true
    }

    fn unit(&self) -> u64 {
        UNIT_BYTES.max(self.server.unit.into())
    }

    fn can_zero(&self) -> bool {
        self.server.flags & flag::SEND_WRITE_ZEROES != 0
    }

    /// Whether a hole need not be sent where the destination reads as zeroes.
    fn may_skip(&self) -> bool {
        self.survey.is_offered() && self.is_first_pass()
    }
}

fn read<D: Disk>(
    drive: &mut Drive<D>,
    at: u64,
    length: u64,
    extents: &mut Vec<Extent>,
) -> Result<(), Error> {
    extents.clear();
    let length = u32::try_from(length).expect("no more than is looked at at a time");
    drive.read(at, length, extents).map_err(|error| {
        let text = format!("the disk cannot be read at byte {at}: {error}");
        Error::new(ErrorKind::Disk, text)
    })
}

/// The head of a request.
fn head(command: u16, cookie: u64, offset: u64, length: u64) -> [u8; wire::Request::BYTES] {
    // No request asks for more than a gibibyte.
    let length = length as u32;
    wire::Request { magic: wire::REQUEST_MAGIC, flags: 0, command, cookie, offset, length }
        .to_bytes()
}
