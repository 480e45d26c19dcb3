//! Closing a disk: requests that have come are still served, then its clients drain.

use std::time::Instant;

use tapctl::{Key as ConversationKey, Reply};

use crate::{
    frontend::DRAIN_TIMEOUT,
    poll::VbdKey,
    tapdisk::Tapdisk,
    task::Mirror,
    vbd::{Closing, DiskState, Image, Vbd},
};

/// How a disk is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shutdown {
    /// Requests that have come are served, for [`DRAIN_TIMEOUT`] at most, and clients have as long again
    /// to take the answers.
    Graceful,
    /// Clients get what their sockets take at once.
    Forced,
}

impl Tapdisk {
    /// Closes the disk of a VBD, if there is one. Whether that is done: otherwise `caller` is answered
    /// later.
    pub(crate) fn close_disk(
        &mut self,
        vbd: VbdKey,
        shutdown: Shutdown,
        caller: Option<ConversationKey>,
    ) -> bool {
        self.receivers.remove_of(vbd);
        self.cancel_opening(vbd);
        self.end_hold(vbd);
        let is_mirrored = self.vbds.get(vbd).is_some_and(Vbd::is_mirrored);
        let Some(image) = self.vbds.get_mut(vbd).and_then(|vbd| vbd.image_mut()) else {
            return true;
        };
        image.listeners = None;
        let until = Instant::now() + DRAIN_TIMEOUT;
        let is_running = matches!(image.disk, DiskState::Running(_));
        let has_work = !image.clients.is_empty() || is_mirrored;
        if shutdown == Shutdown::Graceful && is_running && has_work {
            image.change_disk(|disk| match disk {
                DiskState::Running(drive) => DiskState::Closing(Closing { drive, until, caller }),
                other => other,
            });
            self.run_clients(vbd);
            return false;
        }
        self.finish_closing(vbd, shutdown);
        true
    }

    /// Finishes the closings whose requests are all served or whose time is up.
    pub(crate) fn finish_closings(&mut self, now: Instant) {
        let is_due = |image: &Image| match &image.disk {
            DiskState::Closing(closing) => closing.until <= now || image.is_quiesced(),
            DiskState::Running(_) | DiskState::Paused(_) => false,
        };
        let due = self.vbds.iter().filter(|(_, vbd)| vbd.image().is_some_and(is_due));
        let due: Vec<VbdKey> = due.map(|(key, _)| key).collect();
        for vbd in due {
            if !self.is_cut_over(vbd) {
                continue;
            }
            if let Some(caller) = self.finish_closing(vbd, Shutdown::Graceful) {
                self.answer(caller, &Reply::Done);
            }
        }
    }

    /// Whether a disk whose requests are all served has everything at the destination of its mirror, or
    /// has none. Otherwise the mirror is told that nothing changes the disk any more.
    fn is_cut_over(&mut self, key: VbdKey) -> bool {
        let Some(vbd) = self.vbds.get_mut(key) else { return true };
        if !vbd.is_mirrored() {
            return true;
        }
        if vbd.mirror.as_ref().is_some_and(Mirror::is_finishing) {
            return false;
        }
        // Also where their time is up: what they write from now on would not be mirrored.
        let clients = vbd.image_mut().map(|image| image.clients.iter_mut());
        clients.into_iter().flatten().for_each(|(_, client)| client.is_quiesced = true);
        self.finish_mirror(key);
        self.vbds.get(key).is_none_or(|vbd| !vbd.is_mirrored())
    }

    /// When the time of the next of them is up.
    pub(crate) fn next_closing(&self) -> Option<Instant> {
        let is_finishing = |vbd: &Vbd| vbd.mirror.as_ref().is_some_and(Mirror::is_finishing);
        let vbds = self.vbds.iter().filter(|(_, vbd)| !is_finishing(vbd));
        let images = vbds.filter_map(|(_, vbd)| vbd.image());
        let closings = images.filter_map(|image| match &image.disk {
            DiskState::Closing(closing) => Some(closing.until),
            DiskState::Running(_) | DiskState::Paused(_) => None,
        });
        closings.min()
    }

    /// Closes the disk; clients that have still to take answers drain. Returns the caller to answer.
    fn finish_closing(&mut self, key: VbdKey, shutdown: Shutdown) -> Option<ConversationKey> {
        let vbd = self.vbds.get_mut(key)?;
        let minor = vbd.minor();
        let image = vbd.image_mut()?;
        let caller = match &image.disk {
            DiskState::Closing(closing) => closing.caller,
            DiskState::Running(_) | DiskState::Paused(_) => None,
        };
        let params = image.params.clone();
        let clients = image.take_clients();
        // Drops the drive: changes that are under way are answered with ESHUTDOWN.
        let closed = vbd.close();
        self.closed.extend(closed);
        self.answer_mirror(key, Instant::now());
        self.has_lost_clients = true;
        for mut client in clients {
            let over = matches!(client.frontend.drain(), block::Progress::Closed { .. });
            if over || client.frontend.is_drained() || shutdown == Shutdown::Forced {
                continue;
            }
            let entry = self.draining.vacant_entry();
            match client.into_draining(entry.key()) {
                Ok(draining) => _ = entry.insert(draining),
                Err(error) => self.warn(format_args!("a client was dropped: {error}")),
            }
        }
        self.info(format_args!("minor {minor}: closed {params}"));
        caller
    }
}
