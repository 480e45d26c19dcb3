//! Holding disks: a save has no request taken of any disk of an SR while it takes a snapshot of each, so that
//! they are of one moment. A hold ends by itself: a caller that dies leaves no disk that stands still.

use std::time::{Duration, Instant};

use rustix::io::Errno;
use tapctl::{Failure, Minor, Reply};

use super::handle::Handled;
use crate::{
    poll::VbdKey,
    tapdisk::Tapdisk,
    vbd::{DiskState, Image, Vbd},
};

/// The longest hold. Guests wait longer for a disk that is busy.
const HOLD_MAX: Duration = Duration::from_secs(5);

impl Tapdisk {
    /// Takes no request of the clients of a disk for a while.
    pub(super) fn hold(&mut self, minor: Minor, time: Duration) -> Handled {
        let key = self.find(minor).ok_or(Errno::NODEV)?;
        if time > HOLD_MAX {
            let text = format!("a disk is held for {HOLD_MAX:?} at most");
            return Err(Failure::new(Errno::INVAL, text));
        }
        let image = self.vbds[key].image_mut();
        let Some(image) = image.filter(|it| matches!(it.disk, DiskState::Running(_))) else {
            return Err(Self::no_drive(&self.vbds[key]));
        };
        image.held_until = Some(Instant::now() + time);
        self.rearm_clients(key);
        Ok(Some(Reply::Done))
    }

    /// Takes requests again.
    pub(super) fn release(&mut self, minor: Minor) -> Handled {
        let key = self.find(minor).ok_or(Errno::NODEV)?;
        if self.end_hold(key) {
            return Ok(Some(Reply::Done));
        }
        Err(Failure::new(Errno::TIMEDOUT, "the disk is not held any more"))
    }

    /// Ends the hold of a disk; whether there was one.
    pub(crate) fn end_hold(&mut self, key: VbdKey) -> bool {
        let image = self.vbds.get_mut(key).and_then(Vbd::image_mut);
        let was_held = image.is_some_and(|image| image.held_until.take().is_some());
        if was_held {
            self.rearm_clients(key);
            // Requests that came meanwhile may be in a buffer of ours: no event tells of them.
            self.run_clients(key);
        }
        was_held
    }

    /// Ends the holds whose time is over.
    pub(crate) fn expire_holds(&mut self, now: Instant) {
        let is_due = |image: &Image| image.held_until.is_some_and(|until| until <= now);
        while let Some((key, vbd)) =
            self.vbds.iter().find(|(_, vbd)| vbd.image().is_some_and(is_due))
        {
            let minor = vbd.minor();
            self.end_hold(key);
            self.warn(format_args!(
                "minor {minor}: was held for as long as was asked, and goes on"
            ));
        }
    }

    /// When the next of them is over.
    pub(crate) fn next_hold(&self) -> Option<Instant> {
        self.vbds.iter().filter_map(|(_, vbd)| vbd.image()?.held_until).min()
    }
}
