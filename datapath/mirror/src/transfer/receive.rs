//! What a server sends: its half of the negotiation, then answers.

use std::{
    io::{self, Read},
    os::unix::net::UnixStream,
    time::Instant,
};

use nbd::wire::transmission_flag as flag;

use super::{Transfer, lost, state::Phase, work::Work};
use crate::{
    error::{Error, ErrorKind},
    handshake::{Server, Step},
    output::PAYLOAD_BYTES_MAX,
    replies::{Part, Replies},
    survey::Survey,
    window::Purpose,
};

/// Room for received bytes; no message that is believed is longer.
const INPUT_BYTES: usize = 16 << 10;
/// How often the socket is read in one turn, so that answers without end do not keep the loop.
const READS_MAX: usize = 64;
/// The largest smallest unit that a server may have: a granule.
const UNIT_BYTES_MAX: u32 = 64 << 10;

/// Bytes that were received and not taken yet.
#[derive(Debug)]
pub(super) struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; INPUT_BYTES], start: 0, end: 0 }
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    fn take(&mut self, count: usize) {
        self.start += count;
    }

    /// Receives what there is and room for. `None`: there is nothing now; 0: the end.
    fn fill(&mut self, mut socket: &UnixStream) -> io::Result<Option<usize>> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        loop {
            match socket.read(&mut self.buffer[self.end..]) {
                Ok(count) => {
                    self.end += count;
                    return Ok(Some(count));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Transfer {
    /// Takes everything that has come.
    pub(super) fn receive(&mut self, now: Instant) -> Result<(), Error> {
        for _ in 0..READS_MAX {
            match self.input.fill(&self.socket).map_err(|error| lost(&error))? {
                None => break,
                Some(0) => {
                    let text = "the server of the destination has closed the connection";
                    return Err(Error::new(ErrorKind::Closed, text));
                }
                Some(_) => self.progress_at = now,
            }
            self.take_messages()?;
        }
        Ok(())
    }

    fn take_messages(&mut self) -> Result<(), Error> {
        let mut answer = Vec::new();
        while let Phase::Negotiating { handshake, .. } = &mut self.phase {
            match handshake.step(self.input.bytes(), &mut answer)? {
                Step::Wait => break,
                Step::Took(count) => self.input.take(count),
                Step::Done(count, server) => {
                    self.input.take(count);
                    self.negotiated(server)?;
                }
            }
        }
        self.output.push(&answer);
        while !matches!(self.phase, Phase::Negotiating { .. }) {
            let Some((count, part)) = self.replies.next(self.input.bytes())? else { break };
            self.input.take(count);
            if let Some(part) = part {
                self.take_part(part)?;
            }
        }
        Ok(())
    }

    /// Checks that the server's disk fits, and begins.
    fn negotiated(&mut self, server: Server) -> Result<(), Error> {
        let unfit = |text: String| Err(Error::new(ErrorKind::Unfit, text));
        if server.size < self.size {
            return unfit(format!(
                "the disk of the destination has {} bytes, and the one to copy {}",
                server.size, self.size
            ));
        }
        // Without this one the others mean nothing.
        let flags = if server.flags & flag::HAS_FLAGS == 0 { 0 } else { server.flags };
        if flags & flag::READ_ONLY != 0 {
            return unfit("the disk of the destination is read-only".into());
        }
        let is_sound = server.unit.is_power_of_two() && server.payload >= server.unit;
        if !is_sound || server.unit > UNIT_BYTES_MAX {
            return unfit(format!(
                "the server of the destination takes requests in units of {} bytes and of {} at \
                 most, and units up to {UNIT_BYTES_MAX} are sent",
                server.unit, server.payload
            ));
        }
        let payload = server.payload.min(PAYLOAD_BYTES_MAX) / server.unit * server.unit;
        self.server = Server { flags, payload, ..server };
        self.replies = Replies::new(server.allocation);
        self.survey = Survey::new(self.size, server.allocation.is_some());
        let is_last = matches!(self.work, Work::Copy { .. });
        self.phase = Phase::Sending { is_in_sync: false, is_last };
        Ok(())
    }

    fn take_part(&mut self, part: Part) -> Result<(), Error> {
        match part {
            Part::Status { cookie, extent } => {
                self.require_status(cookie)?;
                self.survey.answer(extent);
            }
            Part::Done(cookie) => {
                match self.window.purpose(cookie)? {
                    Purpose::Status => self.survey.answered(false),
                    Purpose::Flush => self.disconnect(),
                    Purpose::Change => {}
                }
                self.window.retire(cookie);
            }
            Part::Failed { cookie, errno, message, is_last } => {
                if self.window.purpose(cookie)? != Purpose::Status {
                    let told = if message.is_empty() { message } else { format!(" ({message})") };
                    let text = format!("the destination cannot be written: {errno}{told}");
                    return Err(Error::new(ErrorKind::Refused, text));
                }
                // Without its help all holes are sent.
                self.survey.answered(true);
                if is_last {
                    self.window.retire(cookie);
                }
            }
        }
        Ok(())
    }

    fn require_status(&self, cookie: u64) -> Result<(), Error> {
        match self.window.purpose(cookie)? {
            Purpose::Status => Ok(()),
            _ => Err(Error::protocol("answers a write with a block status")),
        }
    }
}
