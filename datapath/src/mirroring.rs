//! Mirrors and copies of a volume to another server: begun, asked for, cut over and ended.
//!
//! A mirror runs in the volume's tapdisk. xapi tells of its end only by deactivating: that of the machine's
//! own domain is the cut-over, that of the mirror's datapath for a machine that is halted. Invariant: before
//! a caller hears of a mirror, the record says that a cut-over is owed; a process that does not know
//! the mirror has replaced the one that did, and the mirror has failed.
//!
//! A copy is the same but for its end, which comes by itself, and which no deactivation is owed.

use std::time::Duration;

use host::Provider;
use nbd::Remote;
use smapiv3::{Error, Failure, data::Status};
use tapctl::{Client, Copy, HeldRanges, Mirror, MirrorStage, MirrorStatus};

use crate::{
    mirror_record::{End, MirrorRecord, Purpose, forget_ended},
    state::Mode,
    tapdisk::{ANSWER_TIMEOUT, Running},
    vdi::Vdi,
};

/// How long Data.stat waits for a mirror that is not complete: xapi asks again at once.
const STAT_WAIT: Duration = Duration::from_secs(1);
/// How long a cut-over may take: what the machine has written last is sent, and the server of the
/// destination has half a minute for each request.
pub(crate) const CUT_OVER_TIMEOUT: Duration = Duration::from_secs(600);

/// A mirror that broke so long ago is not of a migration any more: that one was aborted when the mirror was
/// complete, upon which xapi destroyed the destination.
const ABORTED_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Why an operation has failed whose process does not know it.
const DEAD: &str = "the tapdisk that mirrored or copied the disk has died";

/// A mirror or a copy to ask for: everything that is needed after the volume's lock was let go of.
pub(crate) struct Asking {
    client: Client,
    minor: tapctl::Minor,
    operation: u64,
}

/// The number of an operation, as records and keys have it.
pub(crate) fn name(operation: u64) -> String {
    format!("{operation:016x}")
}

pub(crate) fn number(operation: &str) -> u64 {
    u64::from_str_radix(operation, 16).unwrap_or_default()
}

/// A number that was never used.
fn new_operation() -> Result<u64, Error> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| crate::errors::io("choosing an operation", error.into()))?;
    Ok(u64::from_ne_bytes(bytes))
}

impl Asking {
    /// How far it is, for Data.stat. `None`: its process does not know it, or is dead.
    pub(crate) fn stat(&self) -> Option<MirrorStatus> {
        self.client.mirror_status(self.minor, self.operation, STAT_WAIT).ok()
    }
}

impl Vdi<'_> {
    /// Mirrors the volume to `remote` from now on, for a domain whose deactivation is the cut-over; the
    /// operation.
    pub(crate) fn mirror(&mut self, domain: String, remote: &str) -> Result<String, Error> {
        self.begin(domain, remote, None)
    }

    /// Copies parts of the volume to `remote`; the operation.
    pub(crate) fn copy(
        &mut self,
        domain: String,
        remote: &str,
        ranges: &HeldRanges,
    ) -> Result<String, Error> {
        self.begin(domain, remote, Some(ranges))
    }

    fn begin(
        &mut self,
        domain: String,
        remote: &str,
        ranges: Option<&HeldRanges>,
    ) -> Result<String, Error> {
        self.require_volume()?;
        Remote::parse(remote).map_err(|bad| Error::new(Failure::InvalidArg, bad.to_string()))?;
        if self.provider()? == Provider::Blktap {
            let message = format!(
                "volume {} is served by the host's own tapdisk (device-config:tapdisk=blktap), which \
                 cannot mirror or copy it: use an SR with device-config:tapdisk=ram",
                self.uri.key
            );
            return Err(Error::new(Failure::Unimplemented, message));
        }
        self.note_ends();
        if let Some(live) = self.state.mirrors.iter().find(|(_, it)| it.is_live()) {
            let message = format!(
                "volume {} is mirrored or copied already, by operation {}: end that first (Data.cancel)",
                self.uri.key, live.0
            );
            return Err(Error::new(Failure::VdiInUse, message));
        }
        let operation = new_operation()?;
        let holds = self.state.mode().is_none();
        if holds {
            // A machine that is halted: no domain has it active.
            self.activate_ram(Mode::ReadOnly)?;
        } else {
            self.prepare()?;
        }
        let purpose = if ranges.is_some() { Purpose::Copy } else { Purpose::Mirror };
        let begun = self
            .record(purpose, domain, operation, holds)
            .and_then(|()| self.ask(operation, remote, ranges));
        if begun.is_err() {
            self.state.mirrors.remove(&name(operation));
            self.close_unused()?;
            self.save()?;
        }
        begun.map(|()| name(operation))
    }

    /// Writes down that an operation is under way, before its process hears of it.
    fn record(
        &mut self,
        purpose: Purpose,
        domain: String,
        operation: u64,
        holds: bool,
    ) -> Result<(), Error> {
        let running = self.running().ok_or_else(|| self.dies_at_once())?;
        let record = MirrorRecord::new(purpose, domain, running.identity, running.minor, holds);
        self.state.mirrors.insert(name(operation), record);
        forget_ended(&mut self.state.mirrors);
        self.save()
    }

    /// Has the tapdisk begin.
    fn ask(&self, operation: u64, remote: &str, ranges: Option<&HeldRanges>) -> Result<(), Error> {
        let Running { client, minor, .. } = self.running().ok_or_else(|| self.dies_at_once())?;
        let remote = remote.into();
        let asked = match ranges {
            None => client.mirror(minor, Mirror { operation, remote }),
            Some(ranges) => client.copy(minor, Copy { operation, remote, ranges: ranges.list() }),
        };
        asked.map_err(|error| {
            error.with_remedy(
                Failure::TapdiskFailed,
                "the tapdisk of an earlier version knows no mirrors and copies: deactivate and \
                 activate the disk",
            )
        })
    }

    /// Closes the image where only a mirror or a copy had the volume active, and has ended. Without any
    /// domain the process ends.
    fn close_unused(&mut self) -> Result<(), Error> {
        if self.state.mode().is_some() {
            return Ok(());
        }
        if self.state.domains.is_empty() { self.stop() } else { self.close_image() }
    }

    /// How to ask for a live operation without the volume's lock; else how it has ended.
    pub(crate) fn asking(&self, operation: &str) -> Result<Asking, Status> {
        match self.state.mirrors.get(operation) {
            Some(MirrorRecord { end: Some(End::Finished), .. }) => Err(complete()),
            Some(MirrorRecord { end: Some(End::Failed(_)), .. }) | None => Err(failed()),
            Some(record) => {
                let client = Client::new(&self.control, record.tapdisk.pid)
                    .timeout(ANSWER_TIMEOUT + STAT_WAIT);
                Ok(Asking { client, minor: record.minor, operation: number(operation) })
            }
        }
    }

    /// Takes note of what the caller is told now of an operation.
    pub(crate) fn tell(&mut self, operation: &str, status: Option<MirrorStatus>) -> Status {
        let status = status.unwrap_or_else(dead);
        // It may have been cut over since the tapdisk answered.
        let Ok(_live) = self.asking(operation) else {
            return self.asking(operation).err().unwrap_or_else(failed);
        };
        let Some(record) = self.state.mirrors.get_mut(operation) else { return failed() };
        let is_copy = record.purpose == Purpose::Copy;
        let told = match status.stage {
            MirrorStage::Copying => {
                #[allow(clippy::cast_precision_loss, reason = "a number up to a million")]
                let progress = status.progress_millionths as f64 / 1e6;
                return Status { failed: false, complete: false, progress: Some(progress) };
            }
            MirrorStage::Finished if is_copy => {
                record.ended(End::Finished, true);
                complete()
            }
            MirrorStage::InSync | MirrorStage::Finished => {
                if record.is_told {
                    return complete();
                }
                record.is_told = true;
                complete()
            }
            MirrorStage::Failed { reason, .. } => {
                self.ctx.log.warning(format_args!("operation {operation}: {reason}"));
                record.ended(End::Failed(reason), true);
                failed()
            }
        };
        if let Err(error) = self.close_unused().and_then(|()| self.save()) {
            // What is not in the record must not be relied on.
            self.ctx.log.error(error.chain());
            return failed();
        }
        told
    }

    /// Takes note of operations that have ended without a caller that was told. Those whose process is dead, or
    /// does not know them, have failed.
    fn note_ends(&mut self) {
        for operation in self.live_mirrors() {
            self.note_end(&operation);
        }
    }

    pub(crate) fn live_mirrors(&self) -> Vec<String> {
        let live = self.state.mirrors.iter().filter(|(_, it)| it.is_live());
        live.map(|(operation, _)| operation.clone()).collect()
    }

    /// How far a live mirror is, without waiting.
    fn mirror_status(&self, operation: &str) -> MirrorStatus {
        let record = self.state.mirrors.get(operation);
        let same = self.running().filter(|it| record.is_some_and(|r| r.tapdisk == it.identity));
        let status = same.and_then(|running| {
            let client = &running.client;
            client.mirror_status(running.minor, number(operation), Duration::ZERO).ok()
        });
        status.unwrap_or_else(dead)
    }

    /// Takes note of a live mirror that has failed, or of a copy that has ended; whether it has.
    fn note_end(&mut self, operation: &str) -> bool {
        let stage = self.mirror_status(operation).stage;
        let Some(record) = self.state.mirrors.get_mut(operation) else { return true };
        match stage {
            MirrorStage::Failed { reason, since } => {
                self.ctx.log.warning(format_args!("operation {operation}: {reason}"));
                record.ended(End::Failed(reason), since >= ABORTED_AFTER);
            }
            // A mirror that has finished is cut over by the call that knows whether it may end.
            MirrorStage::Finished if record.purpose == Purpose::Copy => {
                record.ended(End::Finished, false);
            }
            MirrorStage::Copying | MirrorStage::InSync | MirrorStage::Finished => return false,
        }
        true
    }

    /// Deactivates the volume for a domain; where that is the cut-over of a mirror, everything is at the
    /// destination afterwards. The error that is owed to xapi, if one is: the destination misses something
    /// although xapi was told that it is complete. It has deactivated all the same.
    pub(crate) fn deactivate(&mut self, domain: &str) -> Result<Option<Error>, Error> {
        self.cut_over(domain)?;
        let owed = self.owed(domain);
        self.save()?;
        Ok(owed)
    }

    /// The same without the error, which stays owed: a detach must not fail, and must not hide it.
    pub(crate) fn cut_over(&mut self, domain: &str) -> Result<(), Error> {
        self.state.deactivate(domain);
        let cut_over: Vec<String> = self
            .live_mirrors()
            .into_iter()
            .filter(|it| self.state.mirrors[it].is_cut_over_by(domain))
            .collect();
        for operation in &cut_over {
            if let Some(record) = self.state.mirrors.get_mut(operation) {
                record.holds = false;
            }
        }
        let mode = self.state.mode();
        for operation in &cut_over {
            if mode.is_some() {
                self.finish_beside_others(operation, mode);
            }
        }
        if mode.is_none() {
            self.close_image()?;
            // With the image the copies have ended.
            self.note_ends();
        }
        for operation in cut_over {
            if !self.state.mirrors[&operation].is_live() || self.note_end(&operation) {
                continue;
            }
            let end = match self.mirror_status(&operation).stage {
                MirrorStage::Finished => End::Finished,
                _ => End::Failed("it was not finished when the disk was deactivated".into()),
            };
            if let Some(record) = self.state.mirrors.get_mut(&operation) {
                record.ended(end, false);
            }
        }
        self.save()
    }

    /// Ends a mirror while other domains have the volume active.
    fn finish_beside_others(&mut self, operation: &str, mode: Option<Mode>) {
        let Some(running) = self.running() else { return };
        let (client, minor) = (running.client, running.minor);
        let record = &self.state.mirrors[operation];
        if record.is_of_halted() && mode == Some(Mode::ReadWrite) {
            let reason = "a domain has the volume active for writing, and goes on changing it";
            // A mirror that cannot be cancelled has ended.
            let _ended = client.mirror_cancel(minor, number(operation));
            if let Some(record) = self.state.mirrors.get_mut(operation) {
                record.ended(End::Failed(reason.into()), false);
            }
            return;
        }
        let client = client.timeout(CUT_OVER_TIMEOUT);
        if let Err(error) = client.mirror_finish(minor, number(operation)) {
            self.ctx.log.warning(error);
        }
    }

    /// The error that xapi is owed when it deactivates a domain, once.
    fn owed(&mut self, domain: &str) -> Option<Error> {
        self.end_dead_mirrors_told_by(domain);
        let mut mirrors = self.state.mirrors.iter_mut();
        let (operation, record) = mirrors.find(|(_, it)| it.is_owed && it.is_told_by(domain))?;
        record.is_owed = false;
        let Some(End::Failed(reason)) = &record.end else { return None };
        let message = format!(
            "the copy of volume {} at the destination of its migration is incomplete, although it was \
             complete before: {reason} (operation {operation}). The disk here is as it was, keep it, \
             and migrate it again; it is deactivated now",
            self.uri.key
        );
        Some(Error::new(Failure::TapdiskFailed, message))
    }

    /// Finds out whether mirrors have failed whose domain's or datapath's deactivation this is.
    fn end_dead_mirrors_told_by(&mut self, domain: &str) {
        for operation in self.live_mirrors() {
            if self.state.mirrors[&operation].is_told_by(domain) {
                self.note_end(&operation);
            }
        }
    }

    /// A domain is about to write to the volume: a mirror for a machine that is halted gives way.
    pub(crate) fn give_way_to_writers(&mut self) -> Result<(), Error> {
        let holds = |it: &&mut MirrorRecord| it.is_live() && it.holds;
        let Some(record) = self.state.mirrors.values_mut().find(holds) else { return Ok(()) };
        let reason = "a domain has activated the volume for writing";
        record.ended(End::Failed(reason.into()), false);
        self.close_unused()?;
        self.save()
    }

    /// Mirrors whose destination is dead keep the volume active no longer.
    pub(crate) fn end_unused_mirrors(&mut self) -> Result<(), Error> {
        if self.is_mirrored() {
            self.note_ends();
            self.close_unused()?;
            self.save()?;
        }
        Ok(())
    }

    /// Tells an administrator about an operation that has the volume active itself.
    pub(crate) fn describe_held(&self) -> Option<String> {
        let mut mirrors = self.state.mirrors.iter();
        let (operation, _) = mirrors.find(|(_, it)| it.is_live() && it.holds)?;
        let program = self.ctx.config.datapath_plugin();
        Some(format!(
            "volume {} is active for operation {operation}, which reads it for another server; this gives \
             that up: {} Data.cancel --operation '[\"MirrorV1\",\"{}/{}/{operation}\"]'\n",
            self.uri.key,
            program.display(),
            self.uri.sr,
            self.uri.key
        ))
    }

    /// Whether a mirror has to be cut over when the image is closed, which may take long.
    pub(crate) fn is_mirrored(&self) -> bool {
        self.state.mirrors.values().any(MirrorRecord::is_live)
    }

    /// The last domain has detached, and the process ends: so have its mirrors.
    pub(crate) fn end_mirrors(&mut self) {
        for record in self.state.mirrors.values_mut().filter(|it| it.is_live()) {
            record.ended(End::Failed("the disk was detached".into()), false);
        }
    }

    /// Data.cancel.
    pub(crate) fn cancel_mirror(&mut self, operation: &str) -> Result<(), Error> {
        let Some(record) = self.state.mirrors.get_mut(operation).filter(|it| it.is_live()) else {
            return Ok(());
        };
        record.ended(End::Failed("it was cancelled".into()), true);
        if let Some(running) = self.running() {
            // One that does not know it any more has ended it.
            let _ended = running.client.mirror_cancel(running.minor, number(operation));
        }
        self.close_unused()?;
        self.save()
    }

    /// Data.destroy.
    pub(crate) fn forget_mirror(&mut self, operation: &str) -> Result<(), Error> {
        self.note_ends();
        match self.state.mirrors.get(operation) {
            Some(record) if record.is_live() => {
                let message = format!(
                    "operation {operation} is still mirroring volume {}: cancel it first (Data.cancel)",
                    self.uri.key
                );
                Err(Error::new(Failure::VdiInUse, message))
            }
            Some(_) => {
                self.state.mirrors.remove(operation);
                self.save()
            }
            None => Ok(()),
        }
    }
}

/// The status of a mirror whose process does not know it, or is dead.
fn dead() -> MirrorStatus {
    let stage = MirrorStage::Failed { reason: DEAD.into(), since: Duration::ZERO };
    MirrorStatus { stage, progress_millionths: 0 }
}

fn complete() -> Status {
    Status { failed: false, complete: true, progress: Some(1.0) }
}

fn failed() -> Status {
    Status { failed: true, complete: false, progress: None }
}
