//! Ending the tapdisk of a volume, also one that hangs or that the record does not name.

use std::time::Duration;

use host::{Provider, variables::STARTED_FOR};
use smapiv3::{Error, Failure};
use tapctl::{Client, Identity, Minor, minors, process, reply::NAME};

use crate::{
    state::Tapdisk,
    tapdisk::{ANSWER_TIMEOUT, MINORS_TIMEOUT, Running, hangs},
    vdi::Vdi,
};

/// How long a tapdisk may take to end by itself after its last VBD was detached.
pub(crate) const EXIT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the kernel may take to end a process that was killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// How often processes are searched for, while some are found.
const SEARCHES_MAX: u32 = 8;

impl Vdi<'_> {
    /// Ends the tapdisk, and removes the link, its files and its minor. Succeeds where it is dead
    /// already, or was never started. Where the record names none, it may have been lost with the
    /// volume or the SR, or a call was killed: whatever was started for the volume ends then.
    pub(crate) fn stop_process(&mut self) -> Result<(), Error> {
        if let Some(running) = self.running() {
            self.end(&running)?;
            let pid = running.identity.pid;
            self.ctx.log.info(format_args!("stopped tapdisk {pid}, minor {}", running.minor));
        } else if let Some(dead) = self.state.tapdisk.as_ref().and_then(|it| it.identity.clone()) {
            self.remove_leftovers(&dead);
        }
        if self.state.tapdisk.is_none() {
            if let Some((pid, _)) = self.link.target() {
                self.remove_sockets(pid, None);
            }
            self.end_orphans()?;
        }
        self.link.remove()?;
        if let Some(tapdisk) = self.state.tapdisk.take() {
            self.free(tapdisk.minor);
        }
        Ok(())
    }

    /// Ends the processes and frees the minors that calls which were killed had started and reserved
    /// for this volume, and that its record does not name.
    pub(crate) fn end_orphans(&mut self) -> Result<(), Error> {
        let known = self.state.tapdisk.clone();
        let known_identity = known.as_ref().and_then(|it| it.identity.as_ref());
        let mark = self.mark();
        // A process may just be starting another one, which is found the next time.
        for _ in 0..SEARCHES_MAX {
            let mut found = process::started_with(STARTED_FOR.name, mark.as_ref())?;
            found.retain(|orphan| Some(orphan) != known_identity && !self.has_image(orphan));
            if found.is_empty() {
                break;
            }
            for orphan in found {
                let pid = orphan.pid;
                self.ctx.log.warning(format_args!(
                    "ending process {pid}, which a call that was killed started for this volume"
                ));
                orphan.kill()?;
                orphan.wait(KILL_TIMEOUT)?;
                self.remove_sockets(pid, Some(&orphan));
            }
        }
        // One that ended because the call that waited for it was killed.
        for pid in self.control.tapdisks()? {
            if !process::exists(pid) {
                self.remove_sockets(pid, None);
            }
        }
        for minor in minors::reserved_for(&self.control, &mark)? {
            if known.as_ref().is_none_or(|it| it.minor != minor) {
                self.free(minor);
            }
        }
        self.state.starting = false;
        Ok(())
    }

    /// Whether a tapdisk has an image open: then it may have the only copy of recent writes, and the
    /// record that named it was removed by hand.
    fn has_image(&self, orphan: &Identity) -> bool {
        let client = Client::new(&self.control, orphan.pid).timeout(ANSWER_TIMEOUT);
        client.list().is_ok_and(|vbds| vbds.iter().any(|vbd| !vbd.params.is_empty()))
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
            self.state.tapdisk = Some(Tapdisk::new(minor, Some(identity), provider));
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
            // One that was killed meanwhile has not tidied up. Where that was its keeper alone, the server
            // is about to.
            if self.control.ctl(identity.pid).exists() {
                for server in identity.servers()? {
                    server.wait(patience)?;
                }
                identity.kill()?;
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

    /// Waits for a process to end, kills it where it does not, and removes its files.
    pub(crate) fn kill(&self, running: &Running, patience: Duration) -> Result<(), Error> {
        let identity = &running.identity;
        if !identity.wait(patience)? || identity.is_serving() {
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
        self.remove_sockets(dead.pid, Some(dead));
    }

    fn remove_sockets(&self, pid: u32, known: Option<&Identity>) {
        // Sockets on which no process listens do no harm, so the call goes on without.
        if let Err(error) = self.control.remove_leftovers(pid, known) {
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
