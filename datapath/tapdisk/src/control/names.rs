//! The names of the process in the control directory: where something has removed them, they are made
//! again, and the process can be found and called as before. Clients are served all the while.
//!
//! They are looked for once a second while disks are used, once a minute otherwise, and when a SIGHUP asks
//! for it.

use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};

use tapctl::ErrorKind;

use crate::{metrics::Files, tapdisk::Tapdisk};

/// How often names are looked for while nothing happens.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// How often while there is no directory for them.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Why the process looks for its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// It is time to.
    Due,
    /// Another process asks for it. Then a control directory that does not exist is made, too.
    Asked,
}

impl Tapdisk {
    /// Makes the names again that something has removed.
    pub(crate) fn restore_names(&mut self, now: Instant, look: Look) {
        self.names_due = now + LOOK_INTERVAL;
        let are_there = self.listener.is_named() && look == Look::Due;
        if are_there || self.is_stopping() {
            return;
        }
        if look == Look::Due && !self.dir.path().is_dir() {
            self.names_due = now + RETRY_INTERVAL;
            return;
        }
        match self.restore() {
            Ok(false) => {}
            Ok(true) => {
                self.save_state();
                self.warn(format_args!(
                    "the names of this process were removed from {}; they are made again",
                    self.dir.path().display()
                ));
            }
            Err(error) => self.warn(format_args!("the control directory is lost: {error:#}")),
        }
    }

    /// Whether anything was missing.
    fn restore(&mut self) -> anyhow::Result<bool> {
        self.dir.create()?;
        let mut restored = false;
        if !self.listener.is_named() {
            self.listener.replace(|listener| listener.rebind().map_err(anyhow::Error::from))?;
            self.control_group = self.keeper.keep(&[self.listener.as_fd()])?;
            restored = true;
        }
        let mut taken = Vec::new();
        for (_, vbd) in &mut self.vbds {
            match vbd.restore_minor(&self.dir) {
                Ok(false) => {}
                Ok(true) => {
                    vbd.group = self.keeper.keep(&[vbd.lock()])?;
                    restored = true;
                }
                Err(error) if error.kind() == ErrorKind::Busy => taken.push(vbd.minor()),
                Err(error) => return Err(error.into()),
            }
            let listeners = vbd.image_mut().and_then(|image| image.listeners.as_mut());
            restored |= listeners.map_or(Ok(false), |it| it.restore(&self.keeper))?;
        }
        for minor in taken {
            self.warn(format_args!(
                "another process has reserved minor {minor} meanwhile; its disk is served on"
            ));
        }
        restored |= self.restore_metrics()?;
        Ok(restored)
    }

    fn restore_metrics(&mut self) -> anyhow::Result<bool> {
        let metrics = self.dir.metrics();
        if metrics.process(self.pid).is_dir() {
            return Ok(false);
        }
        metrics.create(self.pid)?;
        for (_, vbd) in &mut self.vbds {
            let minor = vbd.minor();
            let Some(image) = vbd.image_mut() else { continue };
            // The old ones first: they remove their names.
            image.files = None;
            image.files = Some(Files::create(metrics, self.pid, minor, &image.params)?);
        }
        Ok(true)
    }
}
