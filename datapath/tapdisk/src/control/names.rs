//! The names of the process in the control directory, and its statistics: where something has removed them, they
//! are made again, and the process can be found, called and measured as before. Clients are served all the while.
//!
//! They are looked for once a second while disks are used, once a minute otherwise, and when a SIGHUP asks
//! for it.

use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};

use tapctl::ErrorKind;

use crate::{
    frontend::Device,
    metrics::{Files, RingFiles},
    tapdisk::Tapdisk,
    vbd::Vbd,
};

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
        let are_there = self.listener.is_named() && self.has_metrics() && look == Look::Due;
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
                    "names of this process were removed from {} or {}; they are made again",
                    self.dir.path().display(),
                    self.dir.metrics().path().display()
                ));
            }
            Err(error) => self.warn(format_args!("the names of this process are lost: {error:#}")),
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

    /// Whether no statistics have lost their names. A host without room for them has none.
    fn has_metrics(&self) -> bool {
        let are_there = |vbd: &Vbd| {
            let files = vbd.image().and_then(|image| image.files.as_ref());
            files.is_none_or(Files::are_there)
                && vbd.rings().filter_map(|ring| ring.files.as_ref()).all(RingFiles::are_there)
        };
        self.dir.metrics().process(self.pid).is_dir()
            && self.vbds.iter().all(|(_, vbd)| are_there(vbd))
    }

    fn restore_metrics(&mut self) -> anyhow::Result<bool> {
        if self.has_metrics() {
            return Ok(false);
        }
        let metrics = self.dir.metrics();
        if !metrics.process(self.pid).is_dir() {
            metrics.create(self.pid)?;
        }
        for (_, vbd) in &mut self.vbds {
            let minor = vbd.minor();
            // The old ones first: they remove their names.
            if let Some(image) = vbd.image_mut()
                && image.files.take_if(|files| !files.are_there()).is_some()
            {
                image.files = Some(Files::create(metrics, self.pid, minor, &image.params)?);
            }
            for ring in vbd.rings_mut() {
                let Device { domid, devid } = ring.device;
                if ring.files.take_if(|files| !files.are_there()).is_some() {
                    ring.files = Some(RingFiles::create(metrics, self.pid, domid, devid)?);
                }
            }
        }
        Ok(true)
    }
}
