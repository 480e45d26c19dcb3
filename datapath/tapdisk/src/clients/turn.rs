//! Giving clients their turns.

use std::time::Instant;

use block::{Budget, Frontend, Progress};

use crate::{
    frontend::Client,
    poll::{ClientKey, Unannounced, VbdKey},
    tapdisk::Tapdisk,
    vbd::{DiskState, Image, Vbd},
    volume::Volume,
};

impl Unannounced for Tapdisk {
    #[inline]
    fn look(&mut self) -> bool {
        !self.polled.is_empty() && self.run_polled(|frontend| frontend.has_unannounced())
    }

    fn prepare_to_wait(&mut self) -> bool {
        !self.polled.is_empty() && self.run_polled(|frontend| frontend.prepare_to_wait())
    }

    fn polled_until(&self) -> Option<Instant> {
        self.guest_polling.until()
    }
}

impl Tapdisk {
    /// Gives a client a turn. While its disk is paused or held it only sends answers that wait.
    pub(crate) fn serve_client(&mut self, vbd: VbdKey, key: ClientKey) {
        let Some(image) = self.vbds.get_mut(vbd).and_then(|vbd| vbd.image_mut()) else { return };
        let Some(client) = image.clients.get_mut(key) else { return };
        let closing = matches!(image.disk, DiskState::Closing(_));
        let is_held = image.held_until.is_some();
        let progress = match image.disk.drive() {
            Some(_) if client.is_quiesced || is_held => client.frontend.drain(),
            Some(drive) => client.frontend.turn(drive, &mut Budget::turn()),
            None => client.frontend.drain(),
        };
        if matches!(progress, Progress::Worked | Progress::More) {
            self.client_turns += 1;
            if let Some(ring) = client.origin.ring() {
                self.guest_polling.had_requests(&ring.asked, self.woken);
            }
        }
        match progress {
            Progress::Closed { fault } => self.client_closed(vbd, key, fault),
            Progress::More => self.runnable.push((vbd, key)),
            Progress::Idle | Progress::Worked => {
                client.is_quiesced |= closing && client.frontend.is_caught_up();
                self.rearm_client(vbd, key);
            }
        }
    }

    /// Drops a client that is over.
    fn client_closed(&mut self, vbd: VbdKey, key: ClientKey, fault: Option<String>) {
        let minor = self.vbds[vbd].minor();
        let device = self.remove_client(vbd, key).and_then(|it| Some(it.origin.ring()?.device));
        // Until it is disconnected the guest's device is not served again.
        if let Some(device) = device {
            self.given_up_rings.push(device);
            self.save_state();
        }
        match (device, fault) {
            (Some(device), Some(fault)) => self.warn(format_args!(
                "minor {minor}: the ring of {device} is given up, until the guest connects a new \
                 one: {fault}"
            )),
            (None, Some(fault)) => {
                self.warn(format_args!("minor {minor}: a client was dropped: {fault}"));
            }
            (_, None) => {}
        }
    }

    /// Sends what a client takes whose disk was closed.
    pub(crate) fn drain_client(&mut self, slot: usize) {
        if self.draining.get_mut(slot).is_some_and(|client| client.send()) {
            self.draining.remove(slot);
        }
    }

    /// From now on requests of a client are looked for while the loop polls.
    pub(crate) fn poll_client(&mut self, vbd: VbdKey, key: ClientKey) {
        if !self.polled.contains(&(vbd, key)) {
            self.polled.push((vbd, key));
        }
    }

    /// Gives a turn in this pass of the loop to those of the polled clients for which `has_request`
    /// holds; whether there are any. A client whose disk is paused, or that is to take no more requests,
    /// is not asked.
    fn run_polled(&mut self, has_request: impl Fn(&mut dyn Frontend<Volume>) -> bool) -> bool {
        let before = self.runnable.len();
        let Self { polled, vbds, runnable, .. } = self;
        polled.retain(|&(vbd, key)| {
            let image = vbds.get_mut(vbd).and_then(|vbd| vbd.image_mut());
            let Some(image) = image else { return false };
            let is_waiting = image.is_waiting();
            let Some(client) = image.clients.get_mut(key) else { return false };
            if !is_waiting && !client.is_quiesced && has_request(&mut **client.frontend) {
                runnable.push((vbd, key));
            }
            true
        });
        self.runnable.len() > before
    }

    /// Waits for what the clients of a VBD need now.
    pub(crate) fn rearm_clients(&mut self, vbd: VbdKey) {
        for key in self.client_keys(vbd) {
            self.rearm_client(vbd, key);
        }
    }

    fn rearm_client(&mut self, vbd: VbdKey, key: ClientKey) {
        let Some(image) = self.vbds.get_mut(vbd).and_then(|vbd| vbd.image_mut()) else { return };
        let is_waiting = image.is_waiting();
        let Some(client) = image.clients.get_mut(key) else { return };
        let waits_only_to_send = is_waiting || client.is_quiesced;
        if let Err(error) = client.rearm(waits_only_to_send) {
            self.remove_client(vbd, key);
            self.warn(format_args!("a client was dropped: {error}"));
        }
    }

    /// Gives every client of a VBD a turn in the next pass of the loop: the drive has something for them,
    /// and no event of their sockets tells of it.
    pub(crate) fn run_clients(&mut self, vbd: VbdKey) {
        let keys = self.client_keys(vbd);
        self.runnable.extend(keys.into_iter().map(|key| (vbd, key)));
    }

    pub(crate) fn client_keys(&self, vbd: VbdKey) -> Vec<ClientKey> {
        let image = self.vbds.get(vbd).and_then(|vbd| vbd.image());
        image.map(|it| it.clients.iter().map(|(key, _)| key).collect()).unwrap_or_default()
    }

    /// Takes a client out of its VBD. Dropping it closes its socket, or unmaps its ring.
    pub(crate) fn remove_client(&mut self, vbd: VbdKey, key: ClientKey) -> Option<Client> {
        self.has_lost_clients = true;
        self.vbds.get_mut(vbd)?.image_mut()?.remove_client(key)
    }

    /// Gives the drives a turn that have large changes to make. A client whose change is finished has an
    /// answer to send.
    pub(crate) fn work_on_drives(&mut self) {
        let has_work = |vbd: &Vbd| vbd.image().is_some_and(Image::has_work);
        let keys: Vec<VbdKey> =
            self.vbds.iter().filter(|(_, vbd)| has_work(vbd)).map(|(key, _)| key).collect();
        for vbd in keys {
            let drive = self.vbds.get_mut(vbd).and_then(|vbd| vbd.drive());
            if drive.is_some_and(|drive| drive.work(&mut Budget::turn())) {
                self.run_clients(vbd);
            }
        }
    }

    /// Whether a drive has large changes to make and may make them.
    pub(crate) fn has_busy_drives(&self) -> bool {
        self.vbds.iter().any(|(_, vbd)| vbd.image().is_some_and(Image::has_work))
    }
}
