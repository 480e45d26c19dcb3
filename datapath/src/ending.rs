//! Ending the tapdisk of a volume, also one that hangs or that the record does not name.

use std::time::Duration;

use host::Provider;
use schemas::{Error, Failure};
use tapctl::{Client, Identity, Minor, minors, reply::NAME};

use crate::{
    state::Tapdisk,
    tapdisk::{ANSWER_TIMEOUT, MINORS_TIMEOUT, Running, hangs},
    vdi::Vdi,
};

/// How long a tapdisk may take to end by itself after its last VBD was detached.
pub(crate) const EXIT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the kernel may take to end a process that was killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

impl Vdi<'_> {
    /// Ends the tapdisk, and removes the link, its files and its minor. Succeeds where it is dead
    /// already, or was never started.
    pub(crate) fn stop_process(&mut self) -> Result<(), Error> {
        if let Some(running) = self.running() {
            self.end(&running)?;
            let pid = running.identity.pid;
            self.ctx.log.info(format_args!("stopped tapdisk {pid}, minor {}", running.minor));
        } else if let Some(dead) = self.state.tapdisk.as_ref().and_then(|it| it.identity.clone()) {
            self.remove_leftovers(&dead);
        }
        self.link.remove()?;
        if let Some(tapdisk) = self.state.tapdisk.take() {
            self.free(tapdisk.minor);
        }
        Ok(())
    }

    /// Finds the tapdisk by the link where nothing is remembered: the SR was destroyed, or the
    /// volume, while it was attached.
    pub(crate) fn recover(&mut self) {
        if self.state.tapdisk.is_some() {
            return;
        }
        let Some((pid, minor)) = self.link.target() else { return };
        let Ok(Some(identity)) = Identity::of(pid) else { return };
        let client = Client::new(&self.control, pid).timeout(ANSWER_TIMEOUT);
        // The number may be another process' by now: only an idle tapdisk of ours, or one that
        // serves this very volume, is the one that the link was made for.
        let is_ours = matches!(client.identify(), Ok(Some(it)) if it.name == NAME);
        let own_path = self.layout.volume(&self.uri.key);
        let is_fitting = |serving: tapctl::Serving| serving.path.is_none_or(|it| it == own_path);
        if is_ours && client.serving(minor).is_ok_and(is_fitting) {
            self.ctx.log.warning(format_args!("found the forgotten tapdisk {pid}, minor {minor}"));
            let provider = Provider::Ram;
            self.state.tapdisk = Some(Tapdisk { minor, identity: Some(identity), provider });
        }
    }

    /// Has a tapdisk close and detach, upon which it ends; where it does not, kills it.
    pub(crate) fn end(&self, running: &Running) -> Result<(), Error> {
        let Running { client, minor, identity } = running;
        let closed = client.close(*minor);
        if let Err(error) = &closed
            && hangs(error)
        {
            self.ctx.log.warning(error);
            return self.kill(running, Duration::ZERO);
        }
        let patience = match client.detach(*minor) {
            Ok(()) => EXIT_TIMEOUT,
            Err(error) => {
                self.ctx.log.warning(&error);
                match error.kind() {
                    // It never had the minor, so nothing makes it end by itself.
                    tapctl::ErrorKind::Remote(_) => Duration::ZERO,
                    _ => EXIT_TIMEOUT,
                }
            }
        };
        if identity.wait(patience)? {
            // One that was killed meanwhile has not tidied up.
            if self.control.ctl(identity.pid).exists() {
                self.remove_leftovers(identity);
            }
            return Ok(());
        }
        let others = client.list().unwrap_or_default();
        if others.iter().any(|vbd| vbd.minor != i32::from(*minor)) {
            let pid = identity.pid;
            self.ctx.log.warning(format_args!("tapdisk {pid} is left alone: it has other disks"));
            return Ok(());
        }
        self.kill(running, Duration::ZERO)
    }

    /// Waits for a process to end, kills it where it does not, and removes what it left.
    pub(crate) fn kill(&self, running: &Running, patience: Duration) -> Result<(), Error> {
        let identity = &running.identity;
        if !identity.wait(patience)? {
            let pid = identity.pid;
            self.ctx.log.warning(format_args!("killing tapdisk {pid}, which does not end"));
            identity.kill()?;
            if !identity.wait(KILL_TIMEOUT)? {
                return Err(Error::new(
                    Failure::TapdiskFailed,
                    format!(
                        "tapdisk {pid} (minor {}) of volume {} hangs in the kernel and cannot be \
                         killed (see /proc/{pid}/stack): repeat the call when it has ended, or \
                         restart the host",
                        running.minor, self.uri.key
                    ),
                ));
            }
        }
        self.remove_leftovers(identity);
        Ok(())
    }

    pub(crate) fn remove_leftovers(&self, dead: &Identity) {
        // Sockets that nobody listens on disturb nobody.
        if let Err(error) = self.control.remove_leftovers(dead.pid, Some(dead)) {
            self.ctx.log.warning(error);
        }
    }

    pub(crate) fn free(&self, minor: Minor) {
        match minors::free(&self.control, minor, MINORS_TIMEOUT) {
            Err(error) if error.kind() != tapctl::ErrorKind::NotFound => {
                self.ctx.log.warning(error)
            }
            _ => {}
        }
    }
}
