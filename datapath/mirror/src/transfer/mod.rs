//! A disk on its way to a server: what the event loop drives.

mod fill;
mod receive;
mod state;
mod work;

use std::{
    ops::Range,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::Instant,
};

use block::{Attachments, Budget, Dirty, Disk, Drive, Extent, Interest};
use nbd::Remote;

use crate::{
    Limits,
    error::{Error, ErrorKind},
    handshake::{Handshake, Server},
    output::Output,
    replies::Replies,
    survey::Survey,
    window::Window,
};
use state::Phase;
pub use state::{Counters, State, Status};
use work::{Rounds, Work};

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// The rest waits for the socket, for a change of the disk, or for [`Transfer::due`].
    Waits,
    /// The budget was spent before the work was done.
    More,
    /// It has finished or failed, and the next turn does nothing.
    Over,
}

/// A copy of a disk that is being made, and, if it is a mirror, kept up to date.
#[derive(Debug)]
pub struct Transfer {
    socket: UnixStream,
    phase: Phase,
    limits: Limits,
    /// The size of the disk in bytes.
    size: u64,
    work: Work,
    /// What was taken of the work and is not sent yet.
    pending: Range<u64>,
    server: Server,
    survey: Survey,
    replies: Replies,
    window: Window,
    input: receive::Input,
    output: Output,
    /// Kept for its capacity.
    extents: Vec<Extent>,
    /// When the server last took or sent anything.
    progress_at: Instant,
    counters: Counters,
}

impl Transfer {
    /// A mirror of all of a disk on a server that was just connected to.
    ///
    /// # Errors
    /// Where the socket cannot be used without waiting.
    pub fn mirror<D: Disk>(
        socket: UnixStream,
        remote: &Remote,
        drive: &mut Drive<D>,
        limits: Limits,
        now: Instant,
    ) -> Result<Self, Error> {
        let size = drive.size();
        let mut transfer = Self::new(socket, remote, size, limits, now)?;
        transfer.work = Work::Mirror(Rounds::new(drive.track(Dirty::all(size)), now));
        Ok(transfer)
    }

    /// A copy of ranges of a disk of `size` bytes, which ends when they are copied.
    ///
    /// # Errors
    /// Where a range lies beyond the end, or the socket cannot be used without waiting.
    pub fn copy(
        socket: UnixStream,
        remote: &Remote,
        ranges: Vec<Range<u64>>,
        size: u64,
        limits: Limits,
        now: Instant,
    ) -> Result<Self, Error> {
        if let Some(range) = ranges.iter().find(|range| range.end > size) {
            let text = format!(
                "the blocks from byte {} to {} are not in a disk of {size} bytes",
                range.start, range.end
            );
            return Err(Error::new(ErrorKind::Disk, text));
        }
        let mut transfer = Self::new(socket, remote, size, limits, now)?;
        transfer.work = Work::copy(ranges);
        Ok(transfer)
    }

    fn new(
        socket: UnixStream,
        remote: &Remote,
        size: u64,
        limits: Limits,
        now: Instant,
    ) -> Result<Self, Error> {
        socket.set_nonblocking(true).map_err(|error| lost(&error))?;
        let handshake = Handshake::new(remote.export());
        Ok(Self {
            socket,
            phase: Phase::Negotiating { handshake, until: now + limits.handshake },
            limits,
            size,
            work: Work::Over,
            pending: 0..0,
            server: Server { size: 0, flags: 0, allocation: None, unit: 1, payload: 0 },
            survey: Survey::new(size, false),
            replies: Replies::default(),
            window: Window::default(),
            input: receive::Input::new(),
            output: Output::new(),
            extents: Vec::new(),
            progress_at: now,
            counters: Counters::default(),
        })
    }

    /// How far it has got.
    #[must_use]
    pub fn state(&self) -> State {
        self.phase.state()
    }

    /// Whether it has finished or failed.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.phase.is_over()
    }

    /// What Data.stat tells of it.
    #[must_use]
    pub fn status(&self) -> Status {
        let complete = match self.work {
            Work::Copy { .. } => false,
            Work::Mirror(_) | Work::Over => self.phase.is_in_sync(),
        };
        let failed = matches!(self.phase, Phase::Failed(_));
        let progress = if complete { 1.0 } else { self.work.progress(self.size).min(0.99) };
        Status { failed, complete, progress: if failed { 0.0 } else { progress } }
    }

    /// What was sent, and what was not.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The readiness of the socket to wait for.
    #[must_use]
    pub fn interest(&self) -> Interest {
        let is_over = self.is_over();
        Interest { readable: !is_over, writable: !is_over && !self.output.is_empty() }
    }

    /// When the next turn is due where no event of the socket tells of it. `attachments` are those of
    /// the drive that a mirror was begun with.
    #[must_use]
    pub fn due(&self, attachments: &Attachments) -> Option<Instant> {
        if self.is_over() {
            return None;
        }
        let stalled = self.waits_since().map(|since| since + self.limits.stall);
        let gathered = match (&self.phase, &self.work) {
            (Phase::Sending { is_in_sync: true, is_last: false }, Work::Mirror(rounds))
                if self.window.has_room() && attachments.dirty(&rounds.tracker).count() > 0 =>
            {
                rounds.gathered_at(self.limits.gather)
            }
            _ => None,
        };
        let negotiated = match self.phase {
            Phase::Negotiating { until, .. } => Some(until),
            _ => None,
        };
        [stalled, gathered, negotiated].into_iter().flatten().min()
    }

    /// Since when the server owes an answer, or room for more.
    fn waits_since(&self) -> Option<Instant> {
        let is_negotiating = matches!(self.phase, Phase::Negotiating { .. });
        let waits = !self.window.is_empty() || !self.output.is_empty();
        (waits && !is_negotiating).then_some(self.progress_at)
    }

    /// Nothing changes the disk any more: sends what is left, waits for the answers, flushes where the
    /// server can, and ends. Turns go on until it is over.
    pub fn finish(&mut self) {
        if let Phase::Sending { is_last, .. } = &mut self.phase {
            *is_last = true;
        } else if !self.is_over() {
            let text = "the disk is being closed before the destination was reached";
            self.phase = Phase::Failed(Error::new(ErrorKind::Unreachable, text));
        }
    }

    /// Other programs may have changed the disk, which was paused: all of it is sent once more.
    pub fn resumed<D: Disk>(&mut self, drive: &mut Drive<D>, now: Instant) {
        self.progress_at = now;
        if let Work::Mirror(rounds) = &self.work {
            let size = self.size;
            drive.dirty(&rounds.tracker).mark(0, size);
        }
    }

    /// Gives up, whatever was copied. Changes of the disk are not followed any more.
    pub fn cancel(&mut self, attachments: &mut Attachments) {
        if let Work::Mirror(rounds) = std::mem::replace(&mut self.work, Work::Over) {
            attachments.untrack(rounds.tracker);
        }
        if !self.is_over() {
            let error = Error::new(ErrorKind::Closed, "the transfer was cancelled");
            self.phase = Phase::Failed(error);
        }
    }

    /// Receives answers, and sends what is next, as far as the socket and the budget go.
    pub fn turn<D: Disk>(
        &mut self,
        drive: &mut Drive<D>,
        budget: &mut Budget,
        now: Instant,
    ) -> Turned {
        if !self.is_over()
            && let Err(error) = self.go_on(drive, budget, now)
        {
            self.phase = Phase::Failed(error);
        }
        if self.is_over() {
            if let Work::Mirror(rounds) = std::mem::replace(&mut self.work, Work::Over) {
                drive.untrack(rounds.tracker);
            }
            // The server sees the end at once, also where this value is kept for its status.
            let _closed_already = self.socket.shutdown(std::net::Shutdown::Both);
            return Turned::Over;
        }
        if budget.is_spent() && self.output.is_empty() { Turned::More } else { Turned::Waits }
    }

    fn go_on<D: Disk>(
        &mut self,
        drive: &mut Drive<D>,
        budget: &mut Budget,
        now: Instant,
    ) -> Result<(), Error> {
        if drive.size() != self.size {
            let (now, then) = (drive.size(), self.size);
            let text = format!(
                "the disk was resized from {then} to {now} bytes while it was being copied, which \
                 the destination cannot follow: begin anew"
            );
            return Err(Error::new(ErrorKind::Disk, text));
        }
        self.receive(now)?;
        if self.waits_since().is_none() {
            // The server owes nothing, and its time begins with the next request.
            self.progress_at = now;
        }
        loop {
            self.fill(drive, budget, now)?;
            let sent = self.output.send(&self.socket).map_err(|error| lost(&error))?;
            if sent > 0 {
                self.progress_at = now;
            }
            if matches!(self.phase, Phase::Disconnecting { .. }) && self.output.is_empty() {
                self.phase = Phase::Finished;
            }
            if sent == 0 || !self.output.is_empty() || budget.is_spent() || self.is_over() {
                break;
            }
        }
        self.require_patience(now)
    }

    fn require_patience(&self, now: Instant) -> Result<(), Error> {
        if let Phase::Negotiating { until, .. } = self.phase
            && until <= now
        {
            let text = format!(
                "the server of the destination has accepted a connection and did not negotiate \
                 within {} s",
                self.limits.handshake.as_secs()
            );
            return Err(Error::new(ErrorKind::Stalled, text));
        }
        if self.waits_since().is_some_and(|since| since + self.limits.stall <= now) {
            let text = format!(
                "the server of the destination has neither taken nor answered anything for {} s",
                self.limits.stall.as_secs()
            );
            return Err(Error::new(ErrorKind::Stalled, text));
        }
        Ok(())
    }
}

impl AsFd for Transfer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The connection has failed.
fn lost(error: &std::io::Error) -> Error {
    Error::new(ErrorKind::Closed, format!("the connection to the destination is lost: {error}"))
}
