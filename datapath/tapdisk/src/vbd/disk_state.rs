//! The states of an open disk.

use std::{os::unix::net::UnixStream, time::Instant};

use block::{Attachments, Drive};
use store::Closed;
use tapctl::{Key as ConversationKey, reply::state};

use crate::{task::Opening, volume::Volume};

/// The disk of an image.
#[derive(Debug)]
pub(crate) enum DiskState {
    /// Requests are served.
    Running(Drive<Volume>),
    /// Requests wait.
    Paused(Paused),
    /// Requests that have come are still served, no other ones are.
    Closing(Closing),
}

/// A disk that was closed so that other processes may change it; its clients wait.
#[derive(Debug)]
pub(crate) struct Paused {
    /// Its size when it was paused, in bytes.
    pub(crate) size_bytes: u64,
    /// Whether it was open read-only.
    pub(crate) read_only: bool,
    /// A loaded file, which exists nowhere else.
    pub(crate) kept: Option<Volume>,
    pub(crate) attachments: Attachments,
    /// Connections that were passed on meanwhile. They are greeted in the old style, which says the
    /// size, when that is known again.
    pub(crate) waiting: Vec<UnixStream>,
    pub(crate) resume: Resume,
}

/// Whether a paused disk is to go on.
#[derive(Debug)]
pub(crate) enum Resume {
    /// No caller has asked for it.
    NotAsked,
    /// The disk is being opened again.
    Opening {
        opening: Opening,
        /// The caller that waits for it.
        caller: ConversationKey,
    },
    /// The disk could not be opened again.
    Failed,
}

/// A disk that is about to be closed.
#[derive(Debug)]
pub(crate) struct Closing {
    pub(crate) drive: Drive<Volume>,
    /// Until when requests that have come are served.
    pub(crate) until: Instant,
    /// The caller that waits for it; a signal has none.
    pub(crate) caller: Option<ConversationKey>,
}

impl DiskState {
    /// A disk that was opened.
    pub(crate) fn running(volume: Volume) -> Self {
        Self::Running(Drive::new(volume))
    }

    /// The state as LIST tells it.
    pub(super) fn code(&self) -> u32 {
        match self {
            Self::Running(_) | Self::Closing(_) => state::RUNNING,
            Self::Paused(Paused { resume: Resume::Failed, .. }) => state::RESUME_FAILED,
            Self::Paused(_) => state::PAUSED,
        }
    }

    /// The drive, unless the disk is paused.
    pub(crate) fn drive(&mut self) -> Option<&mut Drive<Volume>> {
        match self {
            Self::Running(drive) | Self::Closing(Closing { drive, .. }) => Some(drive),
            Self::Paused(_) => None,
        }
    }

    /// The attachments of the drive, also while the disk is paused.
    pub(crate) fn attachments(&self) -> &Attachments {
        match self {
            Self::Running(drive) | Self::Closing(Closing { drive, .. }) => drive.attachments(),
            Self::Paused(paused) => &paused.attachments,
        }
    }

    /// The same, to be changed.
    pub(crate) fn attachments_mut(&mut self) -> &mut Attachments {
        match self {
            Self::Running(drive) | Self::Closing(Closing { drive, .. }) => drive.attachments_mut(),
            Self::Paused(paused) => &mut paused.attachments,
        }
    }

    /// The size in bytes; of a paused disk, the one it had.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Running(drive) | Self::Closing(Closing { drive, .. }) => drive.size(),
            Self::Paused(paused) => paused.size_bytes,
        }
    }

    /// Whether writes are refused.
    pub(crate) fn read_only(&self) -> bool {
        match self {
            Self::Running(drive) | Self::Closing(Closing { drive, .. }) => drive.read_only(),
            Self::Paused(paused) => paused.read_only,
        }
    }

    /// Whether the drive has large changes to make and may make them.
    pub(crate) fn has_work(&self) -> bool {
        !self.is_paused() && self.attachments().has_work()
    }

    /// Why writes find no room, where they do not.
    pub(super) fn no_room(&mut self) -> Option<&str> {
        self.drive()?.structure().no_room()
    }

    /// Closes the disk, and hands out what is left of it. Changes that are under way are answered with
    /// `ESHUTDOWN`.
    pub(super) fn close(self) -> Option<Closed> {
        match self {
            Self::Running(drive) | Self::Closing(Closing { drive, .. }) => {
                Some(drive.detach().0.close())
            }
            Self::Paused(paused) => paused.kept.map(Volume::close),
        }
    }

    pub(crate) fn is_paused(&self) -> bool {
        matches!(self, Self::Paused(_))
    }
}

impl Paused {
    /// No disk at all.
    pub(crate) fn nothing() -> Self {
        Self {
            size_bytes: 0,
            read_only: true,
            kept: None,
            attachments: Attachments::default(),
            waiting: Vec::new(),
            resume: Resume::NotAsked,
        }
    }

    /// A disk that another process has paused, which has died since.
    pub(crate) fn again(size_bytes: u64, read_only: bool, has_failed: bool) -> Self {
        let resume = if has_failed { Resume::Failed } else { Resume::NotAsked };
        Self { size_bytes, read_only, resume, ..Self::nothing() }
    }

    /// Whether it could not be opened again.
    pub(crate) fn has_failed(&self) -> bool {
        matches!(self.resume, Resume::Failed)
    }

    /// Closes the disk, unless it exists nowhere but in this process, and hands out what is left of it.
    pub(crate) fn of(drive: Drive<Volume>) -> (Self, Option<Closed>) {
        let (size_bytes, read_only) = (drive.size(), drive.read_only());
        let (disk, attachments) = drive.detach();
        let (kept, closed) =
            if disk.is_loaded() { (Some(disk), None) } else { (None, Some(disk.close())) };
        let (waiting, resume) = (Vec::new(), Resume::NotAsked);
        (Self { size_bytes, read_only, kept, attachments, waiting, resume }, closed)
    }
}
