//! Going on where a server has died: its control socket, its minors, their disks and rings.

use std::{
    fs::File,
    io, thread,
    time::{Duration, Instant},
};

use blkif::Ring;
use tapctl::{Minor, MinorLock};

use crate::{
    clients::Shutdown,
    control::location,
    frontend::{Device, RingInfo},
    kept::{Group, Groups, SavedImage, SavedPause, SavedRing, SavedVbd, State},
    poll::VbdKey,
    tapdisk::Tapdisk,
    vbd::{DiskState, Idle, Image, Listeners, Paused, State as VbdState, Vbd},
    volume::{Volume, is_volume, path_of},
};

/// How long the kernel and Xen may take to close what a dead server had open of a guest. Other disks wait.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);
/// The time between two tries.
const CONNECT_RETRY: Duration = Duration::from_millis(2);

impl Tapdisk {
    /// Writes the state for a successor, if it has changed. Called before a caller is answered, so that a
    /// successor knows of everything that was answered.
    pub(crate) fn save_state(&mut self) {
        let bytes = self.state().encode();
        if bytes == self.saved_state || !self.keeper.is_there() {
            return;
        }
        if let Err(error) = self.state_file.write(&bytes) {
            self.warn(format_args!("a successor would not know of the last change: {error}"));
            return;
        }
        self.saved_state = bytes;
    }

    fn state(&self) -> State {
        let mut state = State::new(self.control_group.number());
        state.is_ending = self.is_stopping();
        state.given_up_rings = self.given_up_rings.iter().map(|it| (it.domid, it.devid)).collect();
        state.vbds = self.vbds.iter().map(|(_, vbd)| saved_vbd(vbd)).collect();
        state
    }

    /// Goes on with what a server has left that has died.
    pub(crate) fn take_over(&mut self, state: State, mut groups: Groups) {
        let started = Instant::now();
        let device = |(domid, devid)| Device { domid, devid };
        self.given_up_rings = state.given_up_rings.into_iter().map(device).collect();
        for vbd in state.vbds {
            let minor = vbd.minor;
            if let Err(error) = self.take_over_vbd(vbd, &mut groups) {
                self.warn(format_args!("minor {minor} is lost with the server before: {error}"));
            }
        }
        // What was not taken is closed.
        drop(groups);
        if state.is_ending {
            self.end();
        }
        self.save_state();
        let took = started.elapsed();
        self.info(format_args!("goes on as tapdisk {}, took over in {took:?}", self.pid));
    }

    /// Closes every disk and ends.
    pub(crate) fn end(&mut self) {
        self.cancel_mirrors();
        for vbd in self.vbds.iter().map(|(key, _)| key).collect::<Vec<_>>() {
            self.close_disk(vbd, Shutdown::Graceful, None);
        }
        self.stop();
        self.save_state();
    }

    fn take_over_vbd(&mut self, saved: SavedVbd, groups: &mut Groups) -> anyhow::Result<()> {
        let minor = saved.minor;
        let (lock, group) = match groups.take_one(saved.lock) {
            Some((group, file)) => (MinorLock::inherited(minor, File::from(file))?, group),
            // It was about to be detached.
            None => self.take_minor(minor)?,
        };
        let mut vbd = Vbd::new(lock, group);
        if saved.was_open {
            vbd.state = VbdState::Idle(Idle::Closed);
        }
        let key = self.vbds.insert(vbd);
        match saved.image {
            Some(image) => self.take_over_image((key, minor), image, groups)?,
            // One may have been about to be opened.
            None => Listeners::remove_names(&self.dir, self.pid, minor),
        }
        for ring in saved.rings {
            self.take_over_ring((key, minor), ring, groups);
        }
        self.serve_waiting_rings(key);
        Ok(())
    }

    fn take_over_image(
        &mut self,
        (key, minor): (VbdKey, Minor),
        saved: SavedImage,
        groups: &mut Groups,
    ) -> anyhow::Result<()> {
        let params = &saved.params;
        let sockets = saved.sockets.and_then(|group| groups.take(group));
        if !path_of(params).is_ok_and(is_volume) {
            self.vbds[key].close();
            Listeners::remove_names(&self.dir, self.pid, minor);
            self.warn(format_args!(
                "minor {minor}: what was in {params} has existed in the process that died alone, and is \
                 lost; it is closed"
            ));
            return Ok(());
        }
        let listeners = match sockets {
            Some((group, descriptors)) => {
                Listeners::inherited(self.place(key, minor), group, descriptors)?
            }
            None => Listeners::open(self.place(key, minor))?,
        };
        let (disk, lock) = match saved.pause {
            Some(pause) => (saved.paused(pause), None),
            None => match self.open_again(minor, &saved, groups) {
                Ok((volume, lock)) => (DiskState::running(volume), lock),
                Err(error) => {
                    self.warn(format_args!("minor {minor}: opening {params} again: {error}"));
                    (saved.paused(SavedPause::ResumeFailed), None)
                }
            },
        };
        let mut image = Image::new(disk, params, listeners, &self.receive_limit)?;
        image.lock = lock;
        self.serve_image(key, image);
        Ok(())
    }

    /// Opens a volume with the lock that the server before has had on it.
    fn open_again(
        &mut self,
        minor: Minor,
        saved: &SavedImage,
        groups: &mut Groups,
    ) -> anyhow::Result<(Volume, Option<Group>)> {
        let path = path_of(&saved.params)?;
        let serving = self.serving_of(minor, saved.read_only);
        let open = store::Open { serving };
        match saved.lock.and_then(|group| groups.take_one(group)) {
            Some((group, file)) => {
                let disk = store::Disk::take_over(path, &open, File::from(file))?;
                Ok((Volume::of_sr(disk), Some(group)))
            }
            // It was about to be closed.
            None => {
                let volume = Volume::of_sr(store::Disk::try_open(path, &open)?);
                let lock = self.keep_lock(&volume)?;
                Ok((volume, lock))
            }
        }
    }

    /// Goes on with a guest's ring; where that cannot be, its device is not served until it is connected anew.
    fn take_over_ring(
        &mut self,
        (key, minor): (VbdKey, Minor),
        saved: SavedRing,
        groups: &mut Groups,
    ) {
        // Without its journal it was about to be disconnected.
        let Some((group, journal)) = groups.take_one(saved.journal) else { return };
        let device = Device { domid: saved.asked.domid, devid: saved.asked.devid };
        match self.resume_ring(&saved.asked, &File::from(journal)) {
            Ok(ring) => {
                let is_told = saved.is_told;
                let info = RingInfo { is_told, ..self.ring_info(saved.asked, &ring, group) };
                self.vbds[key].waiting_rings.push((ring, info));
                if !is_told {
                    self.tell_features(key, device, None);
                }
            }
            Err(error) => {
                self.given_up_rings.push(device);
                self.warn(format_args!(
                    "minor {minor}: the ring of {device} is given up, until the guest connects a new \
                     one: {error}"
                ));
            }
        }
    }

    /// Maps a ring and binds its event channel again, which the dead process may not have closed yet.
    fn resume_ring(&self, asked: &tapctl::Ring, journal: &File) -> io::Result<Ring> {
        let until = Instant::now() + CONNECT_TIMEOUT;
        let resume = || -> io::Result<Ring> {
            let location = location(asked).map_err(|(_, error)| error)?;
            let domain = self.xen.domain(asked.domid)?;
            Ring::resume(domain, &location, journal.try_clone()?)
        };
        loop {
            match resume() {
                Err(_) if Instant::now() < until => thread::sleep(CONNECT_RETRY),
                resumed => return resumed,
            }
        }
    }
}

impl SavedImage {
    /// Its disk as a paused one.
    fn paused(&self, pause: SavedPause) -> DiskState {
        let failed = pause == SavedPause::ResumeFailed;
        DiskState::Paused(Paused::again(self.size, self.read_only, failed))
    }
}

fn saved_vbd(vbd: &Vbd) -> SavedVbd {
    let saved_ring = |ring: &RingInfo| SavedRing {
        asked: ring.asked.clone(),
        journal: ring.journal.number(),
        is_told: ring.is_told,
    };
    SavedVbd {
        minor: vbd.minor(),
        lock: vbd.group.number(),
        was_open: matches!(vbd.state, VbdState::Idle(Idle::Closed)),
        image: vbd.image().map(saved_image),
        rings: vbd.rings().map(saved_ring).collect(),
    }
}

fn saved_image(image: &Image) -> SavedImage {
    let pause = match &image.disk {
        DiskState::Paused(paused) if paused.has_failed() => Some(SavedPause::ResumeFailed),
        DiskState::Paused(_) => Some(SavedPause::Asked),
        DiskState::Running(_) | DiskState::Closing(_) => None,
    };
    SavedImage {
        params: image.params.clone(),
        read_only: image.disk.read_only(),
        size: image.disk.size(),
        sockets: image.listeners.as_ref().map(Listeners::group),
        lock: image.lock.as_ref().map(Group::number),
        pause,
    }
}
