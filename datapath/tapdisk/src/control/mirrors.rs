//! Our own messages about the mirror of a disk, and the turns of mirrors.

use std::time::{Duration, Instant};

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
        let key = self.find(minor).ok_or(Errno::NODEV)?;
        let vbd = &mut self.vbds[key];
        if let Some(before) = vbd.mirror.as_ref().filter(|mirror| mirror.is_live()) {
            let text = format!("operation {:016x} mirrors the disk already", before.operation());
            return Err(Failure::new(Errno::BUSY, text));
        }
        if vbd.drive().is_none() {
            return Err(Self::no_drive(vbd));
        }
        if vbd.image().is_some_and(|image| matches!(image.disk, DiskState::Closing(_))) {
            return Err(Failure::new(Errno::AGAIN, "the disk is being closed"));
        }
        let remote = asked.remote.to_str();
        let remote = remote.ok_or_else(|| Failure::new(Errno::INVAL, "a URI that is not UTF-8"))?;
        let now = Instant::now();
        vbd.mirror = Some(Mirror::start(asked.operation, remote, now)?);
        self.info(format_args!(
            "minor {minor}: operation {:016x} mirrors the disk to {remote}",
            asked.operation
        ));
        self.go_on_mirror(key, now);
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
        mirror.wait(caller, None, Instant::now());
        self.finish_mirror(key);
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
        let sources = self.sources.clone();
        let mut ended = None;
        self.with_mirror(key, |mirror, disk| {
            let was_live = mirror.is_live();
            if let Some(drive) = disk.drive() {
                mirror.turn(key, drive, &sources, now);
            }
            if was_live && !mirror.is_live() {
                ended = Some((mirror.operation(), mirror.status().stage));
            }
        });
        match ended {
            Some((operation, MirrorStage::Failed { reason, .. })) => {
                let minor = self.vbds[key].minor();
                self.warn(format_args!("minor {minor}: mirror {operation:016x}: {reason}"));
            }
            Some((operation, _)) => {
                let minor = self.vbds[key].minor();
                self.info(format_args!("minor {minor}: mirror {operation:016x} is complete"));
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
