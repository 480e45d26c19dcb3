//! Pause and resume: closing a disk so that other processes may change it, and opening it again.

use std::time::Instant;

use block::Drive;
use rustix::io::Errno;
use tapctl::{Failure, Flags, Key as ConversationKey, Minor, Reply, Resume as ResumeRequest};

use super::{handle::Handled, supported};
use crate::{
    poll::{Endpoint, VbdKey},
    tapdisk::Tapdisk,
    vbd::{DiskState, Paused, Resume},
    volume::Volume,
};

impl Tapdisk {
    pub(super) fn pause(&mut self, minor: Minor) -> Handled {
        let key = self.find(minor).ok_or(Errno::NODEV)?;
        // Without an image there is nothing to pause; blktap answers without an error.
        let Some(image) = self.vbds[key].image_mut() else { return Ok(Some(Reply::Done)) };
        match &image.disk {
            DiskState::Running(_) => {
                let closed = image.pause();
                self.closed.extend(closed);
                if let Some(mirror) = &mut self.vbds[key].mirror {
                    mirror.pause();
                }
                self.rearm_clients(key);
                self.info(format_args!("minor {minor}: paused"));
            }
            DiskState::Paused(Paused { resume: Resume::Opening { .. }, .. }) => {
                return Err(Failure::new(Errno::AGAIN, "the disk is being resumed"));
            }
            DiskState::Paused(_) => {}
            DiskState::Closing(_) => {
                return Err(Failure::new(Errno::AGAIN, "the disk is being closed"));
            }
        }
        Ok(Some(Reply::Done))
    }

    pub(super) fn resume(
        &mut self,
        caller: ConversationKey,
        minor: Minor,
        resume: &ResumeRequest,
    ) -> Handled {
        let key = self.find(minor).ok_or(Errno::NODEV)?;
        let not_paused = || Failure::new(Errno::INVAL, "the disk is not paused");
        let image = self.vbds[key].image_mut().ok_or_else(not_paused)?;
        let DiskState::Paused(paused) = &mut image.disk else { return Err(not_paused()) };
        if matches!(paused.resume, Resume::Opening { .. }) {
            return Err(Failure::new(Errno::AGAIN, "the disk is being resumed already"));
        }
        supported(resume.flags)?;
        let params = match &resume.params {
            Some(params) => params.to_string_lossy().into_owned(),
            None => image.params.clone(),
        };
        if params == image.params
            && let Some(kept) = paused.kept.take()
        {
            self.run_again(key, kept);
            return Ok(Some(Reply::Done));
        }
        let read_only = paused.read_only || resume.flags.has(Flags::READ_ONLY);
        match self.start_opening(key, &params, read_only) {
            Ok(opening) => {
                self.set_resume(key, Resume::Opening { opening, caller });
                self.go_on_opening(key, Instant::now());
                Ok(None)
            }
            Err(failure) => {
                self.set_resume(key, Resume::Failed);
                Err(failure)
            }
        }
    }

    fn set_resume(&mut self, key: VbdKey, resume: Resume) {
        let image = self.vbds[key].image_mut();
        if let Some(DiskState::Paused(paused)) = image.map(|image| &mut image.disk) {
            paused.resume = resume;
        }
    }

    /// Goes on with the disk that was opened for a resume.
    pub(super) fn resume_with(
        &mut self,
        key: VbdKey,
        opened: Result<Volume, Failure>,
        params: &str,
    ) -> Result<(), Failure> {
        let Some(image) = self.vbds[key].image_mut() else { return Ok(()) };
        let (another, size) = (params != image.params, image.disk.size());
        let checked = opened.and_then(|volume| {
            // Clients have been told a size. The same volume may have grown since.
            let found = block::Disk::size(&volume);
            if another && found != size {
                let text = format!("{params} has {found} bytes and not {size}");
                return Err(Failure::new(Errno::MEDIUMTYPE, text));
            }
            Ok(volume)
        });
        let kept = checked.and_then(|volume| Ok((self.keep_lock(&volume)?, volume)));
        match kept {
            Ok((lock, volume)) => {
                let Some(image) = self.vbds[key].image_mut() else { return Ok(()) };
                image.lock = lock;
                params.clone_into(&mut image.params);
                self.run_again(key, volume);
                Ok(())
            }
            Err(failure) => {
                self.set_resume(key, Resume::Failed);
                Err(failure)
            }
        }
    }

    /// Serves the clients of a disk again that was paused.
    fn run_again(&mut self, key: VbdKey, volume: Volume) {
        let Some(image) = self.vbds[key].image_mut() else { return };
        let mut waiting = Vec::new();
        image.change_disk(|disk| match disk {
            DiskState::Paused(paused) => {
                waiting = paused.waiting;
                DiskState::Running(Drive::with(volume, paused.attachments))
            }
            other => other,
        });
        for socket in waiting {
            self.admit(key, Endpoint::Receiver, socket);
        }
        // Requests that came meanwhile may be in a buffer of ours: no event tells of them.
        self.run_clients(key);
        let now = Instant::now();
        self.with_mirror(key, |mirror, disk| {
            if let Some(drive) = disk.drive() {
                mirror.resume(drive, now);
            }
        });
        let minor = self.vbds[key].minor();
        self.info(format_args!("minor {minor}: resumed"));
    }
}
