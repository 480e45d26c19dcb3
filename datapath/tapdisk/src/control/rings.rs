//! Rings of guests: connecting and disconnecting them, and what guests are told through xenstore.
//!
//! The errors, and the order of the checks, are those of `tapdisk_control_xenblkif_connect` and
//! `tapdisk_xenblkif_connect` (`drivers/tapdisk-control.c`, `drivers/td-blkif.c` of blktap).

use std::{io, os::fd::AsFd, task::Poll, time::Instant};

use blkif::{Features, INDIRECT_SEGMENTS_MAX, Journal, Location, Ring, Update};
use block::{Disk, Interest};
use rustix::io::Errno;
use tapctl::{Failure, Key as ConversationKey, Minor, Reply, ring::RING_ORDER_MAX};

use super::handle::Handled;
use crate::{
    frontend::{Device, Origin, RingInfo},
    kept::Group,
    metrics::RingFiles,
    poll::VbdKey,
    tapdisk::Tapdisk,
    task::KeyUpdate,
    volume::Volume,
};

const SECTOR_BYTES: u64 = 512;

/// A ring is served when its guest sends an event.
const READABLE: Interest = Interest { readable: true, writable: false };

impl Tapdisk {
    pub(super) fn connect_ring(
        &mut self,
        caller: ConversationKey,
        minor: Minor,
        asked: &tapctl::Ring,
    ) -> Handled {
        let key = self.find(minor).ok_or(Errno::NODEV)?;
        if asked.pool.is_none() {
            return Err(Failure::new(Errno::INVAL, "the name of the pool has no end"));
        }
        let device = Device { domid: asked.domid, devid: asked.devid };
        if self.is_connected(device) {
            return Err(Failure::new(Errno::ALREADY, format!("{device} is connected already")));
        }
        let (ring, journal) = self.open_ring(asked).map_err(|(what, error)| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            Failure::new(errno, format!("{device}: {what}: {error}"))
        })?;
        let info = self.ring_info(asked.clone(), &ring, journal);
        // Before it is served, since requests are answered then.
        self.vbds[key].waiting_rings.push((ring, info));
        self.save_state();
        self.info(format_args!("minor {minor}: {device} is connected"));
        if self.vbds[key].image().is_some() {
            self.serve_waiting_rings(key);
            if !self.is_connected(device) {
                return Err(Failure::new(Errno::IO, format!("{device}: it cannot be waited for")));
            }
        }
        let pending = self.tell_features(key, device, Some(caller));
        Ok((!pending).then_some(Reply::Done))
    }

    /// What the process keeps of a ring that was connected as `asked`.
    pub(crate) fn ring_info(&self, asked: tapctl::Ring, ring: &Ring, journal: Group) -> RingInfo {
        let device = Device { domid: asked.domid, devid: asked.devid };
        let files = RingFiles::create(self.dir.metrics(), self.pid, device.domid, device.devid);
        let files = files
            .inspect_err(|error| self.warn(format_args!("{device}: without statistics: {error}")))
            .ok();
        let is_polled = asked.poll_duration > 0;
        let counters = ring.counters();
        RingInfo { device, is_polled, asked, journal, is_told: false, counters, files }
    }

    /// Begins to tell a guest what its disk can do. Whether that goes on, as in `start_update`.
    pub(crate) fn tell_features(
        &mut self,
        key: VbdKey,
        device: Device,
        caller: Option<ConversationKey>,
    ) -> bool {
        let read_only = self.vbds[key].image().is_some_and(|image| image.disk.read_only());
        let discard = (!read_only).then_some((Volume::BLOCK_BYTES as u32, 0));
        let indirect_segments_max = INDIRECT_SEGMENTS_MAX as u16;
        let features = Features { flush: true, discard, indirect_segments_max };
        let pending = self.start_update(device, &Update::Features(features), caller);
        if !pending {
            self.was_told(device);
        }
        pending
    }

    /// Takes note that a guest was told what its disk can do, or cannot be told.
    fn was_told(&mut self, device: Device) {
        let rings = self.vbds.iter_mut().flat_map(|(_, vbd)| vbd.rings_mut());
        rings.filter(|ring| ring.device == device).for_each(|ring| ring.is_told = true);
    }

    /// Maps a guest's ring and binds its event channel. An error with what was being done.
    fn open_ring(&self, asked: &tapctl::Ring) -> Result<(Ring, Group), (&'static str, io::Error)> {
        let domain = self.xen.domain(asked.domid).map_err(|it| ("opening Xen's devices", it))?;
        let location = location(asked)?;
        let journal = Journal::create().map_err(|it| ("making a journal", it))?;
        let kept =
            self.keeper.keep(&[journal.as_fd()]).map_err(|it| ("keeping its journal", it))?;
        let ring = Ring::connect(domain, &location, journal);
        Ok((ring.map_err(|it| ("connecting its ring", it))?, kept))
    }

    /// Serves a ring from now on.
    fn serve_ring(&mut self, key: VbdKey, mut ring: Ring, info: RingInfo) -> io::Result<()> {
        ring.set_polled(info.is_polled);
        self.add_client(key, Box::new(ring), READABLE, Origin::Ring(Box::new(info)))
    }

    /// Serves the rings that are connected and not served, if something is open.
    pub(crate) fn serve_waiting_rings(&mut self, key: VbdKey) {
        if self.vbds[key].image().is_none() {
            return;
        }
        for (ring, info) in std::mem::take(&mut self.vbds[key].waiting_rings) {
            let device = info.device;
            if let Err(error) = self.serve_ring(key, ring, info) {
                self.warn(format_args!("{device}: its ring is not served: {error}"));
            }
        }
    }

    fn is_connected(&self, device: Device) -> bool {
        self.given_up_rings.contains(&device)
            || self.vbds.iter().any(|(_, vbd)| vbd.rings().any(|ring| ring.device == device))
    }

    pub(super) fn disconnect_ring(&mut self, device: Device) -> Handled {
        if !self.is_connected(device) {
            return Err(Failure::new(Errno::NODEV, format!("{device} is not connected")));
        }
        self.given_up_rings.retain(|it| *it != device);
        for vbd in self.vbds.iter().map(|(key, _)| key).collect::<Vec<_>>() {
            self.vbds[vbd].waiting_rings.retain(|(_, ring)| ring.device != device);
            let image = self.vbds[vbd].image();
            let found = image.and_then(|it| it.rings().find(|(_, ring)| ring.device == device));
            if let Some(key) = found.map(|(key, _)| key) {
                // Unmaps the ring and closes the event channel. Large discards go on.
                self.remove_client(vbd, key);
            }
        }
        self.info(format_args!("{device} is disconnected"));
        Ok(Some(Reply::Done))
    }

    /// Tells the guests of a VBD that their disk has another size.
    pub(super) fn tell_guests_of_size(&mut self, key: VbdKey) {
        let Some(size) = self.vbds[key].image().map(|image| image.disk.size()) else { return };
        let devices: Vec<Device> = self.vbds[key].rings().map(|ring| ring.device).collect();
        for device in devices {
            self.start_update(device, &Update::Sectors(size / SECTOR_BYTES), None);
        }
    }

    /// Begins to write keys for a device. Whether that goes on, and `caller` is answered when it is done.
    /// A guest whose keys cannot be written is served all the same.
    fn start_update(
        &mut self,
        device: Device,
        update: &Update,
        caller: Option<ConversationKey>,
    ) -> bool {
        let started =
            self.xen.update(device.domid, device.devid, update).and_then(|mut it| {
                match it.turn() {
                    Poll::Ready(done) => done.map(|()| None),
                    Poll::Pending => Ok(Some(it)),
                }
            });
        let watched = started.and_then(|started| {
            let Some(updating) = started else { return Ok(false) };
            let entry = self.updates.vacant_entry();
            let slot = entry.key();
            entry.insert(KeyUpdate::watch(&self.sources, slot, updating, device, caller)?);
            Ok(true)
        });
        watched.unwrap_or_else(|error| {
            self.warn(format_args!("{device}: its keys in xenstore: {error}"));
            false
        })
    }

    /// Goes on with writing keys.
    pub(crate) fn go_on_update(&mut self, slot: usize) {
        let Some(update) = self.updates.get_mut(slot) else { return };
        if let Poll::Ready(done) = update.turn() {
            self.finish_update(slot, done);
        }
    }

    /// Gives up what xenstore takes too long for.
    pub(crate) fn expire_updates(&mut self, now: Instant) {
        let due = self.updates.iter().filter(|(_, update)| update.until <= now);
        let due: Vec<usize> = due.map(|(slot, _)| slot).collect();
        due.into_iter().for_each(|slot| self.finish_update(slot, Err(Errno::TIMEDOUT.into())));
    }

    /// When the time of the next update is up.
    pub(crate) fn next_update(&self) -> Option<Instant> {
        self.updates.iter().map(|(_, update)| update.until).min()
    }

    fn finish_update(&mut self, slot: usize, done: io::Result<()>) {
        let KeyUpdate { device, caller, .. } = self.updates.remove(slot);
        self.was_told(device);
        if let Err(error) = done {
            self.warn(format_args!("{device}: its keys in xenstore: {error}"));
        }
        if let Some(caller) = caller {
            self.answer(caller, &Reply::Done);
        }
    }
}

/// Where a ring is that is to be connected. An error with what was being done.
pub(crate) fn location(asked: &tapctl::Ring) -> Result<Location, (&'static str, io::Error)> {
    if asked.order > RING_ORDER_MAX {
        return Err(("a ring of more than eight pages", Errno::INVAL.into()));
    }
    let grefs = asked.grefs[..1 << asked.order].to_vec();
    Ok(Location { grefs, protocol: asked.protocol, port: asked.port })
}
