//! The mirror of a VBD's disk, or a copy of parts of it: a connection that is tried, then a transfer, then how
//! it has ended.

use std::{
    ops::Range,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use block::{Attachments, Budget, Drive, Interest};
use mirror::{Connecting, Limits, State, Transfer, Turned};
use nbd::Remote;
use rustix::io::Errno;
use tapctl::{Failure, Key as ConversationKey, MirrorStage, MirrorStatus};

use crate::{
    poll::{Source, Sources, VbdKey, Watched},
    volume::Volume,
};

/// The work of one turn, in bytes: a quarter of that of a client, so that a mirror is no louder than one.
const TURN_BYTES: usize = 1 << 20;
/// How many times as long as its turn took a mirror rests, where clients have had turns meanwhile. It takes an
/// eighth of the process's time then; each byte takes processors in the proxies and at the destination as
/// well, which the guest may need.
const REST: u32 = 7;
/// The longest time that a caller may wait for a status.
const WAIT_MAX: Duration = Duration::from_secs(10);
const MILLION: f64 = 1e6;

/// A mirror or a copy. It is kept until the minor is detached or another one begins, for callers that ask how it
/// has ended.
#[derive(Debug)]
pub(crate) struct Mirror {
    /// The number that the caller has given it.
    operation: u64,
    purpose: Purpose,
    stage: Stage,
    /// Callers that wait for a status.
    waiting: Vec<Waiting>,
    /// The next turn need not wait for anything.
    has_more: bool,
    /// No turn before that, as clients are busy.
    rests_until: Option<Instant>,
    /// How many turns clients have had when it had its last one.
    client_turns: u64,
}

/// What is sent.
#[derive(Debug)]
enum Purpose {
    /// All of the disk, and what changes meanwhile.
    Mirror,
    /// These parts, once. The transfer has them as soon as there is one.
    Copy(Vec<Range<u64>>),
}

#[derive(Debug)]
enum Stage {
    Connecting(Connecting),
    Running(Box<Watched<Transfer>>),
    Over(MirrorStage, Instant),
}

/// A caller that waits.
#[derive(Debug)]
struct Waiting {
    caller: ConversationKey,
    /// `None`: until the mirror is over.
    until: Option<Instant>,
}

impl Mirror {
    /// Begins to connect, for a mirror.
    pub(crate) fn start(operation: u64, remote: &str, now: Instant) -> Result<Self, Failure> {
        Self::connect(operation, Purpose::Mirror, remote, now)
    }

    /// Begins to connect, for a copy of these parts of the disk.
    pub(crate) fn start_copy(
        operation: u64,
        remote: &str,
        ranges: Vec<Range<u64>>,
        now: Instant,
    ) -> Result<Self, Failure> {
        Self::connect(operation, Purpose::Copy(ranges), remote, now)
    }

    fn connect(
        operation: u64,
        purpose: Purpose,
        remote: &str,
        now: Instant,
    ) -> Result<Self, Failure> {
        let remote =
            Remote::parse(remote).map_err(|it| Failure::new(Errno::INVAL, it.to_string()))?;
        let connecting = Connecting::start(remote, &Limits::default(), now);
        let stage = Stage::Connecting(connecting);
        Ok(Self {
            operation,
            purpose,
            stage,
            waiting: Vec::new(),
            has_more: false,
            rests_until: None,
            client_turns: 0,
        })
    }

    /// Whether it is a copy, which ends by itself.
    pub(crate) fn is_copy(&self) -> bool {
        matches!(self.purpose, Purpose::Copy(_))
    }

    pub(crate) fn operation(&self) -> u64 {
        self.operation
    }

    /// Whether it goes on.
    pub(crate) fn is_live(&self) -> bool {
        !matches!(self.stage, Stage::Over(..))
    }

    /// Whether what is left of a mirror is being sent.
    pub(crate) fn is_finishing(&self) -> bool {
        let Stage::Running(transfer) = &self.stage else { return false };
        !self.is_copy() && transfer.state() == State::Finishing
    }

    /// Whether its next turn need not wait for anything.
    pub(crate) fn has_more(&self) -> bool {
        self.has_more
    }

    /// How far it is.
    pub(crate) fn status(&self) -> MirrorStatus {
        match &self.stage {
            Stage::Connecting(_) => {
                MirrorStatus { stage: MirrorStage::Copying, progress_millionths: 0 }
            }
            Stage::Running(transfer) => status(transfer),
            Stage::Over(MirrorStage::Failed { reason, .. }, at) => {
                let stage = MirrorStage::Failed { reason: reason.clone(), since: at.elapsed() };
                MirrorStatus { stage, progress_millionths: 0 }
            }
            Stage::Over(stage, _) => {
                MirrorStatus { stage: stage.clone(), progress_millionths: MILLION as u64 }
            }
        }
    }

    /// When the next turn is due where no event tells of it. `attachments` are those of the disk that is
    /// mirrored.
    pub(crate) fn due(&self, attachments: &Attachments) -> Option<Instant> {
        match &self.stage {
            Stage::Connecting(connecting) => Some(connecting.retry_at()),
            Stage::Running(transfer) => self.rests_until.or_else(|| transfer.due(attachments)),
            Stage::Over(..) => None,
        }
    }

    /// Goes on, as far as that is possible without waiting. `client_turns`: how many turns the clients of this
    /// process have had so far.
    pub(crate) fn turn(
        &mut self,
        vbd: VbdKey,
        drive: &mut Drive<Volume>,
        sources: &Sources,
        client_turns: u64,
    ) {
        let now = Instant::now();
        if self.rests_until.is_some_and(|until| now < until) {
            return;
        }
        self.rests_until = None;
        if let Stage::Connecting(connecting) = &mut self.stage
            && let Some(connected) = connecting.poll(now)
        {
            let remote = connecting.remote();
            let transfer = connected
                .and_then(|socket| self.purpose.transfer(socket, remote, drive, now))
                .map_err(|error| error.to_string());
            let nothing = Interest { readable: false, writable: false };
            let watched = transfer.and_then(|transfer| {
                let watched = sources.watch(transfer, Source::Mirror(vbd), nothing);
                watched.map_err(|error| format!("waiting for the destination: {error}"))
            });
            self.stage = match watched {
                Ok(watched) => Stage::Running(Box::new(watched)),
                Err(reason) => Stage::Over(failed(reason), now),
            };
        }
        let is_copy = self.is_copy();
        let Stage::Running(transfer) = &mut self.stage else { return };
        let turned = transfer.turn(drive, &mut Budget::bytes(TURN_BYTES), now);
        let mut interest = transfer.interest();
        // One that waits for nothing but an answer is done for now.
        let goes_on = turned == Turned::More || interest.writable;
        let has_others = std::mem::replace(&mut self.client_turns, client_turns) != client_turns;
        self.has_more = turned == Turned::More;
        let is_cut_over = !is_copy && transfer.state() == State::Finishing;
        if goes_on && has_others && !is_cut_over {
            self.has_more = false;
            self.rests_until = Some(now + now.elapsed() * (1 + REST));
            interest = Interest { readable: false, writable: false };
        }
        if turned == Turned::Over {
            self.stage = Stage::Over(status(transfer).stage, now);
        } else if let Err(error) = transfer.wait_for(interest) {
            transfer.cancel(drive.attachments_mut());
            let reason = format!("waiting for the destination: {error}");
            self.stage = Stage::Over(failed(reason), now);
        }
    }

    /// Nothing changes the disk any more: what is left is sent in the next turns. A destination that
    /// was never in sync is given up, and so is a copy.
    pub(crate) fn finish(&mut self, attachments: &mut Attachments) {
        self.rests_until = None;
        match &mut self.stage {
            Stage::Running(transfer) if transfer.status().complete => transfer.finish(),
            Stage::Over(..) => {}
            Stage::Connecting(_) | Stage::Running(_) => self.cancel(
                attachments,
                "the disk was deactivated before the destination was up to date",
            ),
        }
    }

    /// Gives it up; the destination is of no use.
    pub(crate) fn cancel(&mut self, attachments: &mut Attachments, reason: &str) {
        if let Stage::Running(transfer) = &mut self.stage {
            transfer.cancel(attachments);
        }
        self.abandon(reason);
    }

    /// The same where the disk is closed, and with it what followed its changes.
    pub(crate) fn abandon(&mut self, reason: &str) {
        if self.is_live() {
            self.stage = Stage::Over(failed(reason.to_owned()), Instant::now());
            self.has_more = false;
            self.rests_until = None;
        }
    }

    /// The disk is paused: there are no turns until it is resumed.
    pub(crate) fn pause(&mut self) {
        self.has_more = false;
        self.rests_until = None;
        if let Stage::Running(transfer) = &mut self.stage {
            // An event that comes all the same finds that there is no disk.
            let _no_events = transfer.wait_for(Interest { readable: false, writable: false });
        }
    }

    /// The disk is there again, and may have been changed by other programs meanwhile.
    pub(crate) fn resume(&mut self, drive: &mut Drive<Volume>, now: Instant) {
        if let Stage::Running(transfer) = &mut self.stage {
            transfer.resumed(drive, now);
            self.has_more = true;
            self.rests_until = None;
        }
    }

    /// Has a caller wait for a status: until the mirror is in sync or over, or for that long. `None`:
    /// until it is over.
    pub(crate) fn wait(&mut self, caller: ConversationKey, time: Option<Duration>, now: Instant) {
        let until = time.map(|time| now + time.min(WAIT_MAX));
        self.waiting.push(Waiting { caller, until });
    }

    /// When the next caller has waited for long enough.
    pub(crate) fn next_answer(&self) -> Option<Instant> {
        self.waiting.iter().filter_map(|it| it.until).min()
    }

    /// A caller that is to be answered now.
    pub(crate) fn take_answered(&mut self, now: Instant) -> Option<ConversationKey> {
        let is_over = !self.is_live();
        let is_known = is_over || self.status().stage == MirrorStage::InSync;
        let is_due = |it: &Waiting| match it.until {
            Some(until) => is_known || until <= now,
            None => is_over,
        };
        let index = self.waiting.iter().position(is_due)?;
        Some(self.waiting.swap_remove(index).caller)
    }

    /// Whether a caller waits.
    pub(crate) fn is_awaited(&self) -> bool {
        !self.waiting.is_empty()
    }
}

impl Purpose {
    /// The transfer over a connection.
    fn transfer(
        &mut self,
        socket: UnixStream,
        remote: &Remote,
        drive: &mut Drive<Volume>,
        now: Instant,
    ) -> Result<Transfer, mirror::Error> {
        let limits = Limits::default();
        match self {
            Self::Mirror => Transfer::mirror(socket, remote, drive, limits, now),
            Self::Copy(ranges) => {
                let ranges = std::mem::take(ranges);
                Transfer::copy(socket, remote, ranges, drive.size(), limits, now)
            }
        }
    }
}

fn failed(reason: String) -> MirrorStage {
    MirrorStage::Failed { reason, since: Duration::ZERO }
}

fn status(transfer: &Transfer) -> MirrorStatus {
    let status = transfer.status();
    let stage = match transfer.state() {
        State::Failed(error) => failed(error.to_string()),
        State::Finished => MirrorStage::Finished,
        _ if status.complete => MirrorStage::InSync,
        _ => MirrorStage::Copying,
    };
    let progress = (status.progress * MILLION).clamp(0.0, MILLION);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was clamped")]
    MirrorStatus { stage, progress_millionths: progress as u64 }
}
