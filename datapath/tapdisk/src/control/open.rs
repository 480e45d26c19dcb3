//! Open and close: which disk a minor has.

use std::{io, os::fd::AsFd, time::Instant};

use rustix::io::Errno;
use store::Serving;
use tapctl::{Failure, Flags, Key as ConversationKey, Minor, Open, Reply};

use super::{handle::Handled, supported};
use crate::{
    clients::Shutdown,
    kept::Group,
    metrics::Files,
    poll::VbdKey,
    tapdisk::Tapdisk,
    task::{Opening, Wanted},
    vbd::{DiskState, Idle, Image, Listeners, Paused, Place, Resume, Start, State, Vbd},
    volume::Volume,
};

impl Tapdisk {
    pub(super) fn open(&mut self, caller: ConversationKey, minor: Minor, open: &Open) -> Handled {
        // As blktap, where every other request says ENODEV.
        let key = self.find(minor).ok_or(Errno::INVAL)?;
        let State::Idle(before) = self.vbds[key].state else { return Err(Errno::ALREADY.into()) };
        supported(open.flags)?;
        let params = open.params.to_string_lossy();
        let read_only = open.flags.has(Flags::READ_ONLY);
        let opening = self.start_opening(key, &params, read_only)?;
        self.vbds[key].state = State::Opening(Start { opening, caller, before });
        self.go_on_opening(key, Instant::now());
        Ok(None)
    }

    /// Begins to open a disk for a VBD.
    pub(super) fn start_opening(
        &self,
        vbd: VbdKey,
        params: &str,
        read_only: bool,
    ) -> Result<Opening, Failure> {
        let serving = self.serving_of(self.vbds[vbd].minor(), read_only);
        Opening::start(Wanted { params, serving, vbd }, &self.sources)
    }

    /// What the lock file of a volume says that is served under a minor.
    pub(crate) fn serving_of(&self, minor: Minor, read_only: bool) -> Serving {
        let control_dir = self.dir.path().to_string_lossy().into_owned();
        Serving { pid: self.pid, control_dir, minor: minor.into(), read_only }
    }

    /// Where the sockets of a VBD are, and who waits for them.
    pub(crate) fn place(&self, vbd: VbdKey, minor: Minor) -> Place<'_> {
        let Self { sources, keeper, dir, pid, .. } = self;
        Place { sources, keeper, dir, pid: *pid, vbd, minor }
    }

    /// Has the keeper hold the lock of a volume.
    pub(crate) fn keep_lock(&self, volume: &Volume) -> Result<Option<Group>, Failure> {
        let kept = volume.lock().map(|lock| self.keeper.keep(&[lock.as_fd()])).transpose();
        kept.map_err(|error| not_kept(&error))
    }

    /// Goes on with the disk that is being opened for a VBD, and answers the caller when that is done.
    pub(crate) fn go_on_opening(&mut self, key: VbdKey, now: Instant) {
        let Some(vbd) = self.vbds.get_mut(key) else { return };
        match &mut vbd.state {
            State::Opening(start) => {
                let Some(opened) = start.opening.poll(now) else { return };
                let (params, caller) = (start.opening.params().to_owned(), start.caller);
                vbd.state = State::Idle(start.before);
                let served = opened.and_then(|volume| self.serve_disk(key, volume, &params));
                let reply = match served {
                    Ok(()) => self.image_reply(key),
                    Err(failure) => self.opening_failed(key, &params, failure),
                };
                self.answer(caller, &reply);
            }
            State::Open(image) => {
                let DiskState::Paused(paused) = &mut image.disk else { return };
                let Resume::Opening { opening, caller } = &mut paused.resume else { return };
                let Some(opened) = opening.poll(now) else { return };
                let (params, caller) = (opening.params().to_owned(), *caller);
                let reply = match self.resume_with(key, opened, &params) {
                    Ok(()) => Reply::Done,
                    Err(failure) => self.opening_failed(key, &params, failure),
                };
                self.answer(caller, &reply);
            }
            State::Idle(_) => {}
        }
    }

    /// Goes on with all disks that are being opened.
    pub(crate) fn go_on_openings(&mut self, now: Instant) {
        let is_opening = |vbd: &Vbd| vbd.opening().is_some();
        let due: Vec<VbdKey> =
            self.vbds.iter().filter(|(_, vbd)| is_opening(vbd)).map(|(key, _)| key).collect();
        due.into_iter().for_each(|key| self.go_on_opening(key, now));
    }

    /// When to go on with a disk that is being opened where no event tells of it.
    pub(crate) fn next_opening(&self) -> Option<Instant> {
        let openings = self.vbds.iter().filter_map(|(_, vbd)| vbd.opening());
        openings.filter_map(Opening::retry_at).min()
    }

    /// Gives up a disk that is being opened, and answers its caller.
    pub(crate) fn cancel_opening(&mut self, key: VbdKey) {
        let Some(vbd) = self.vbds.get_mut(key) else { return };
        let caller = match &mut vbd.state {
            State::Opening(start) => {
                let caller = start.caller;
                vbd.state = State::Idle(Idle::Closed);
                caller
            }
            State::Open(image) => {
                let DiskState::Paused(paused) = &mut image.disk else { return };
                let Resume::Opening { caller, .. } = paused.resume else { return };
                paused.resume = Resume::NotAsked;
                caller
            }
            State::Idle(_) => return,
        };
        let failure =
            Failure::new(Errno::CANCELED, "the disk was closed while it was being opened");
        self.answer(caller, &Reply::Error(failure));
    }

    fn opening_failed(&self, key: VbdKey, params: &str, failure: Failure) -> Reply {
        let minor = self.vbds[key].minor();
        self.warn(format_args!("minor {minor}: opening {params}: {}", failure.text));
        Reply::Error(failure)
    }

    /// Serves a disk under a VBD from now on.
    fn serve_disk(&mut self, key: VbdKey, volume: Volume, params: &str) -> Result<(), Failure> {
        let minor = self.vbds[key].minor();
        let lock = self.keep_lock(&volume)?;
        let listeners = Listeners::open(self.place(key, minor)).map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            Failure::new(errno, error.to_string())
        })?;
        let disk = DiskState::running(volume);
        let mut image = Image::new(disk, params, listeners, &self.receive_limit)?;
        image.lock = lock;
        self.serve_image(key, image);
        self.serve_waiting_rings(key);
        Ok(())
    }

    /// Serves an image under a VBD from now on.
    pub(crate) fn serve_image(&mut self, key: VbdKey, mut image: Image) {
        let minor = self.vbds[key].minor();
        match Files::create(self.dir.metrics(), self.pid, minor, &image.params) {
            Ok(files) => image.files = Some(files),
            Err(error) => self.warn(format_args!("minor {minor}: without statistics: {error}")),
        }
        let read_only = if image.disk.read_only() { " read-only" } else { "" };
        self.info(format_args!("minor {minor}: serving {}{read_only}", image.params));
        self.vbds[key].state = State::Open(Box::new(image));
        if self.accept_resumes.is_some() {
            self.set_accepting(false);
        }
    }

    pub(super) fn close(
        &mut self,
        caller: ConversationKey,
        minor: Minor,
        shutdown: Shutdown,
    ) -> Handled {
        let key = self.find(minor).ok_or(Errno::NODEV)?;
        if self.vbds[key].image().is_some_and(|it| matches!(it.disk, DiskState::Closing(_))) {
            return Err(Failure::new(Errno::ALREADY, "the disk is being closed"));
        }
        Ok(self.close_disk(key, shutdown, Some(caller)).then_some(Reply::Done))
    }
}

/// What the keeper does not hold would be lost with this process.
pub(super) fn not_kept(error: &io::Error) -> Failure {
    let errno = Errno::from_io_error(error).unwrap_or(Errno::IO);
    Failure::new(errno, format!("handing descriptors to the keeper: {error}"))
}

impl Vbd {
    /// The disk that is being opened, if one is.
    fn opening(&self) -> Option<&Opening> {
        match &self.state {
            State::Opening(start) => Some(&start.opening),
            State::Open(image) => match &image.disk {
                DiskState::Paused(Paused { resume: Resume::Opening { opening, .. }, .. }) => {
                    Some(opening)
                }
                _ => None,
            },
            State::Idle(_) => None,
        }
    }
}
