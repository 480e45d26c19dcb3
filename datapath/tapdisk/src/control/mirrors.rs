//! Our own messages about the mirror or the copy of a disk, and the turns of these.

use std::{
    ffi::OsStr,
    fmt,
    time::{Duration, Instant},
};

use rustix::io::Errno;
use tapctl::{Failure, Key as ConversationKey, Minor, MirrorStage, Reply};

use super::handle::Handled;
use crate::{
    poll::VbdKey,
    tapdisk::Tapdisk,
    task::Mirror,
    vbd::{DiskState, State, Vbd},
};

impl Tapdisk {
    /// Begins to mirror the disk of a minor.
    pub(super) fn mirror(&mut self, minor: Minor, asked: &tapctl::Mirror) -> Handled {
        let key = self.require_no_mirror(minor)?;
        let mirror = Mirror::start(asked.operation, remote(&asked.remote)?, Instant::now())?;
        self.begin(key, mirror, format_args!("mirrors the disk to {}", asked.remote.display()))
    }

    /// Begins to copy parts of the disk of a minor.
    pub(super) fn copy(&mut self, minor: Minor, asked: &tapctl::Copy) -> Handled {
        let key = self.require_no_mirror(minor)?;
        let ranges = asked.ranges.read().map_err(|error| {
            Failure::new(Errno::INVAL, format!("the list of ranges cannot be read: {error}"))
        })?;
        let bytes: u64 = ranges.iter().map(|range| range.end.saturating_sub(range.start)).sum();
        let remote = remote(&asked.remote)?;
        let copy = Mirror::start_copy(asked.operation, remote, ranges, Instant::now())?;
        self.begin(key, copy, format_args!("copies {bytes} bytes to {remote}"))
    }

    /// The VBD of a minor whose disk is open, and is neither mirrored nor copied.
    fn require_no_mirror(&mut self, minor: Minor) -> Result<VbdKey, Failure> {
        let key = self.find(minor).ok_or(Errno::NODEV)?;
        let vbd = &mut self.vbds[key];
        if let Some(before) = vbd.mirror.as_ref().filter(|mirror| mirror.is_live()) {
            let text = format!("operation {:016x} is under way on the disk", before.operation());
            return Err(Failure::new(Errno::BUSY, text));
        }
        if vbd.drive().is_none() {
            return Err(Self::no_drive(vbd));
        }
        if vbd.image().is_some_and(|image| matches!(image.disk, DiskState::Closing(_))) {
            return Err(Failure::new(Errno::AGAIN, "the disk is being closed"));
        }
        Ok(key)
    }

    fn begin(&mut self, key: VbdKey, mirror: Mirror, what: fmt::Arguments<'_>) -> Handled {
        let (minor, operation) = (self.vbds[key].minor(), mirror.operation());
        self.vbds[key].mirror = Some(mirror);
        self.info(format_args!("minor {minor}: operation {operation:016x} {what}"));
        self.go_on_mirror(key, Instant::now());
        Ok(Some(Reply::Done))
    }

    pub(super) fn mirror_status(
        &mut self,
        caller: ConversationKey,
        minor: Minor,
        operation: u64,
        wait: Duration,
    ) -> Handled {
        let mirror = self.find_mirror(minor, operation)?.1;
        let status = mirror.status();
        if status.stage != MirrorStage::Copying || wait.is_zero() {
            return Ok(Some(Reply::Mirror(status)));
        }
        mirror.wait(caller, Some(wait), Instant::now());
        Ok(None)
    }

    pub(super) fn mirror_finish(
        &mut self,
        caller: ConversationKey,
        minor: Minor,
        operation: u64,
    ) -> Handled {
        let (key, mirror) = self.find_mirror(minor, operation)?;
        if !mirror.is_live() {
            return Ok(Some(Reply::Mirror(mirror.status())));
        }
        let is_copy = mirror.is_copy();
        mirror.wait(caller, None, Instant::now());
        if !is_copy {
            self.finish_mirror(key);
        }
        Ok(None)
    }

    pub(super) fn mirror_cancel(&mut self, minor: Minor, operation: u64) -> Handled {
        let key = self.find_mirror(minor, operation)?.0;
        self.with_mirror(key, |mirror, disk| {
            mirror.cancel(disk.attachments_mut(), "it was cancelled");
        });
        self.answer_mirror(key, Instant::now());
        Ok(Some(Reply::Done))
    }

    /// Gives up all mirrors: the process is about to end.
    pub(crate) fn cancel_mirrors(&mut self) {
        let keys: Vec<VbdKey> = self.vbds.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.with_mirror(key, |mirror, disk| {
                mirror.cancel(disk.attachments_mut(), "the tapdisk was told to end");
            });
            self.answer_mirror(key, Instant::now());
        }
    }

    fn find_mirror(
        &mut self,
        minor: Minor,
        operation: u64,
    ) -> Result<(VbdKey, &mut Mirror), Failure> {
        let key = self.find(minor).ok_or(Errno::NODEV)?;
        let mirror = self.vbds[key].mirror.as_mut().filter(|it| it.operation() == operation);
        let unknown =
            || Failure::new(Errno::NOENT, format!("operation {operation:016x} is not known here"));
        Ok((key, mirror.ok_or_else(unknown)?))
    }

    /// Does something with a mirror and the disk that it mirrors, where there are both.
    pub(super) fn with_mirror(
        &mut self,
        key: VbdKey,
        act: impl FnOnce(&mut Mirror, &mut DiskState),
    ) {
        let Some(Vbd { mirror: Some(mirror), state: State::Open(image), .. }) =
            self.vbds.get_mut(key)
        else {
            return;
        };
        act(mirror, &mut image.disk);
    }

    /// Has a mirror send what is left: nothing changes the disk any more.
    pub(crate) fn finish_mirror(&mut self, key: VbdKey) {
        self.with_mirror(key, |mirror, disk| mirror.finish(disk.attachments_mut()));
        self.go_on_mirror(key, Instant::now());
    }

    /// Gives a mirror a turn, unless its disk is paused, and answers callers that wait for it.
    pub(crate) fn go_on_mirror(&mut self, key: VbdKey, now: Instant) {
        let (sources, client_turns) = (self.sources.clone(), self.client_turns);
        let mut ended = None;
        self.with_mirror(key, |mirror, disk| {
            let was_live = mirror.is_live();
            if let Some(drive) = disk.drive() {
                mirror.turn(key, drive, &sources, client_turns);
            }
            if was_live && !mirror.is_live() {
                ended = Some((mirror.operation(), mirror.status().stage));
            }
        });
        match ended {
            Some((operation, MirrorStage::Failed { reason, .. })) => {
                let minor = self.vbds[key].minor();
                self.warn(format_args!("minor {minor}: operation {operation:016x}: {reason}"));
            }
            Some((operation, _)) => {
                let minor = self.vbds[key].minor();
                self.info(format_args!("minor {minor}: operation {operation:016x} is complete"));
            }
            None => {}
        }
        self.answer_mirror(key, now);
    }

    /// Answers the callers that wait for a mirror and need not wait any longer.
    pub(crate) fn answer_mirror(&mut self, key: VbdKey, now: Instant) {
        loop {
            let mirror = self.vbds.get_mut(key).and_then(|vbd| vbd.mirror.as_mut());
            let Some(mirror) = mirror.filter(|mirror| mirror.is_awaited()) else { return };
            let Some(caller) = mirror.take_answered(now) else { return };
            let reply = Reply::Mirror(mirror.status());
            self.answer(caller, &reply);
        }
    }

    /// Gives the mirrors that are due a turn, and answers callers that have waited for long enough.
    pub(crate) fn go_on_mirrors(&mut self, now: Instant) {
        // No allocation: there is no list of keys.
        let mut next = self.vbds.iter().map(|(key, _)| key).min();
        while let Some(key) = next {
            if self.vbds[key].mirror_due().is_some_and(|due| due <= now) {
                self.go_on_mirror(key, now);
            }
            next = self.vbds.iter().map(|(key, _)| key).find(|&other| other > key);
        }
    }

    /// When the next of them is due.
    pub(crate) fn next_mirror(&self) -> Option<Instant> {
        self.vbds.iter().filter_map(|(_, vbd)| vbd.mirror_due()).min()
    }

    /// Whether a mirror has work that waits for nothing.
    pub(crate) fn has_busy_mirrors(&self) -> bool {
        let mirrors = self.vbds.iter().filter_map(|(_, vbd)| vbd.mirror.as_ref());
        mirrors.into_iter().any(Mirror::has_more)
    }
}

/// The URI of a destination.
fn remote(remote: &OsStr) -> Result<&str, Failure> {
    remote.to_str().ok_or_else(|| Failure::new(Errno::INVAL, "a URI that is not UTF-8"))
}
