//! A virtual block device: a minor, and the disk that is open under it.

mod disk_state;
mod image;
mod listeners;
mod room;
mod state;

pub(crate) use disk_state::{Closing, DiskState, Paused, Resume};
pub(crate) use image::Image;
pub(crate) use listeners::{Listeners, Place};
pub(crate) use state::{Idle, Start, State};

use std::{
    mem,
    os::fd::{AsFd, BorrowedFd},
    time::Instant,
};

use blkif::Ring;
use block::Drive;
use store::Closed;
use tapctl::{ControlDir, Minor, MinorLock};

use crate::{frontend::RingInfo, kept::Group, task::Mirror, volume::Volume};

/// A minor that this process has attached.
#[derive(Debug)]
pub(crate) struct Vbd {
    lock: MinorLock,
    /// The lock, as the keeper holds it.
    pub(crate) group: Group,
    pub(crate) state: State,
    /// Sectors read and written of images that were open before.
    sectors_before: [u64; 2],
    /// When an image was closed last, or the minor attached.
    closed_at: Instant,
    /// Rings that were connected while nothing is open. They are served as soon as something is.
    pub(crate) waiting_rings: Vec<(Ring, RingInfo)>,
    /// The mirror of the disk. One that is over is kept for callers that ask how.
    pub(crate) mirror: Option<Mirror>,
}

impl Vbd {
    pub(crate) fn new(lock: MinorLock, group: Group) -> Self {
        let state = State::Idle(Idle::New);
        Self {
            lock,
            group,
            state,
            sectors_before: [0; 2],
            closed_at: Instant::now(),
            waiting_rings: Vec::new(),
            mirror: None,
        }
    }

    pub(crate) fn minor(&self) -> Minor {
        self.lock.minor()
    }

    /// The descriptor of its lock.
    pub(crate) fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// Reserves the minor again where something has removed its file; whether that was so.
    pub(crate) fn restore_minor(&mut self, dir: &ControlDir) -> tapctl::Result<bool> {
        self.lock.restore(dir)
    }

    /// The open image.
    pub(crate) fn image(&self) -> Option<&Image> {
        match &self.state {
            State::Open(image) => Some(image),
            State::Idle(_) | State::Opening(_) => None,
        }
    }

    /// The open image.
    pub(crate) fn image_mut(&mut self) -> Option<&mut Image> {
        match &mut self.state {
            State::Open(image) => Some(image),
            State::Idle(_) | State::Opening(_) => None,
        }
    }

    /// The drive of the open image, unless it is paused.
    pub(crate) fn drive(&mut self) -> Option<&mut Drive<Volume>> {
        self.image_mut()?.disk.drive()
    }

    /// Sectors read and written since the minor was attached.
    pub(crate) fn sectors(&self) -> [u64; 2] {
        let now = self.image().map_or([0; 2], Image::sectors);
        [self.sectors_before[0] + now[0], self.sectors_before[1] + now[1]]
    }

    /// Since when there has been no client, where there is none.
    pub(crate) fn unused_since(&self) -> Instant {
        self.image().map_or(self.closed_at, Image::unused_since)
    }

    /// The rings of guests that are connected.
    pub(crate) fn rings(&self) -> impl Iterator<Item = &RingInfo> {
        let served = self.image().into_iter().flat_map(|image| image.rings().map(|(_, ring)| ring));
        served.chain(self.waiting_rings.iter().map(|(_, ring)| ring))
    }

    /// The rings of guests that are connected.
    pub(crate) fn rings_mut(&mut self) -> impl Iterator<Item = &mut RingInfo> {
        let image = match &mut self.state {
            State::Open(image) => Some(image),
            State::Idle(_) | State::Opening(_) => None,
        };
        let served = image.into_iter().flat_map(|image| image.rings_mut());
        served.chain(self.waiting_rings.iter_mut().map(|(_, ring)| ring))
    }

    /// Whether the disk is being mirrored.
    pub(crate) fn is_mirrored(&self) -> bool {
        self.mirror.as_ref().is_some_and(Mirror::is_live)
    }

    /// When the mirror is due to go on, or to answer a caller, where no event tells of it.
    pub(crate) fn mirror_due(&self) -> Option<Instant> {
        let (mirror, image) = (self.mirror.as_ref()?, self.image()?);
        let disk = &image.disk;
        let due = if disk.is_paused() { None } else { mirror.due(disk.attachments()) };
        due.into_iter().chain(mirror.next_answer()).min()
    }

    /// Closes the image and its disk, and hands out what is left of that.
    pub(crate) fn close(&mut self) -> Option<Closed> {
        if let Some(mirror) = &mut self.mirror {
            mirror.abandon("the disk was closed");
        }
        self.sectors_before = self.sectors();
        self.closed_at = Instant::now();
        match mem::replace(&mut self.state, State::Idle(Idle::Closed)) {
            State::Open(image) => image.close(),
            State::Idle(_) | State::Opening(_) => None,
        }
    }
}
