//! The tapdisk of a volume: finding it, starting and replacing it, having it open and close the
//! volume, stopping it.
//!
//! One process for each attached volume, with one minor. It is trusted by its identity only; one
//! that died is replaced under the same minor and the same link. One that hangs makes an error
//! where it is to do something, and is killed where it is to stop: all that it had acknowledged
//! lies in the SR's memory.

use std::{
    ffi::{OsStr, OsString},
    path::Path,
    time::Duration,
};

use host::{
    Provider,
    cgroup::{self, Groups},
};
use schemas::{Error, Failure};
use store::Name;
use tapctl::{
    Client, ErrorKind, Flags, Identity, Minor, Open, Spawn, minors, process,
    reply::NAME as OUR_TAPDISK,
};

use crate::{
    blktap,
    disk::Disk,
    errors::{self, errno},
    state::{Mode, Tapdisk},
};

/// How long a tapdisk may take to answer; unit tests do not wait as long.
const ANSWER_TIMEOUT: Duration =
    if cfg!(test) { Duration::from_millis(1500) } else { tapctl::TIMEOUT };

/// How long a tapdisk may take to end by itself after its last VBD was detached.
const EXIT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a process that does not answer any more may take to be seen as dead.
const DEATH_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the kernel may take to end a process that was killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the lock on the minors' directory is waited for.
const MINORS_TIMEOUT: Duration = Duration::from_secs(5);

/// A tapdisk that lives.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) client: Client,
    pub(crate) minor: Minor,
    pub(crate) identity: Identity,
}

impl Disk<'_> {
    /// Makes sure of a tapdisk that lives and has a minor, and of a link to it. Nobody has the
    /// volume active in one of the other sort.
    pub(crate) fn start(&mut self, provider: Provider) -> Result<(), Error> {
        if self.state.tapdisk.as_ref().is_some_and(|it| it.provider != provider) {
            self.stop()?;
        }
        if let Some(running) = self.running() {
            match running.client.attach(running.minor) {
                Ok(()) => return self.point(&running),
                Err(error) if error.kind() == ErrorKind::Remote(errno::EXIST) => {
                    return self.point(&running);
                }
                // It has lost the minor: whatever it does, it does not serve this volume.
                Err(error) if matches!(error.kind(), ErrorKind::Remote(_)) => {
                    self.ctx.log.warning(&error);
                    self.end(&running)?;
                }
                Err(error) if self.has_died(&running, &error)? => {}
                // Nobody can reach it any more, and nobody uses it.
                Err(error) if error.kind() == ErrorKind::Gone && self.state.mode().is_none() => {
                    self.ctx.log.warning(&error);
                    self.end(&running)?;
                }
                Err(error) => return Err(errors::tapdisk(error)),
            }
        }
        self.replace(provider)
    }

    /// Has the tapdisk open `path`, unless it serves that already; one that dies at that moment is
    /// replaced once.
    pub(crate) fn serve(&mut self, path: &Path, mode: Mode) -> Result<(), Error> {
        let mut is_new = false;
        loop {
            match self.running() {
                Some(running) => {
                    self.require_free(path, running.identity.pid)?;
                    match running.open(path, mode) {
                        Ok(()) => return Ok(()),
                        Err(error) if is_new || !self.has_died(&running, &error)? => {
                            return Err(errors::tapdisk(error));
                        }
                        Err(error) => self.ctx.log.warning(error),
                    }
                }
                None if is_new => {
                    return Err(self.dies_at_once());
                }
                None => {}
            }
            self.start(Provider::Ram)?;
            is_new = true;
        }
    }

    pub(crate) fn dies_at_once(&self) -> Error {
        let message = format!("the tapdisk of volume {} dies at once: see its log", self.uri.key);
        Error::new(Failure::TapdiskFailed, message)
    }

    /// Has the tapdisk, if it lives, close what it serves. Afterwards nobody serves the volume for
    /// this plugin.
    pub(crate) fn close_image(&mut self) -> Result<(), Error> {
        if self.is_blktap() {
            return self.stop();
        }
        let Some(running) = self.running() else { return Ok(()) };
        let Running { client, minor, .. } = &running;
        let closed = client.close(*minor).or_else(|refused| match refused.kind() {
            ErrorKind::Remote(_) => match client.serving(*minor) {
                Ok(serving) if serving.path.is_some() => Err(refused),
                // It has nothing open, or not even the minor.
                Ok(_) => Ok(()),
                Err(error) if matches!(error.kind(), ErrorKind::Remote(_)) => Ok(()),
                Err(error) => Err(error),
            },
            _ => Err(refused),
        });
        match closed {
            Ok(()) => Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::Remote(_)) => {
                Err(errors::tapdisk(error))
            }
            Err(error) => {
                self.ctx.log.warning(&error);
                self.kill(&running, if hangs(&error) { Duration::ZERO } else { EXIT_TIMEOUT })
            }
        }
    }

    /// Stops the tapdisk, and removes the link and whatever else there was of it. One that is dead
    /// already, or was never there, is stopped.
    pub(crate) fn stop(&mut self) -> Result<(), Error> {
        if self.is_blktap() {
            self.take_back()?;
        }
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

    /// Whether the volume's tapdisk lives.
    pub(crate) fn is_alive(&self) -> bool {
        self.running().is_some()
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
        let is_ours = matches!(client.identify(), Ok(Some(it)) if it.name == OUR_TAPDISK);
        let own_path = self.layout.volume(&self.uri.key);
        let is_fitting = |serving: tapctl::Serving| serving.path.is_none_or(|it| it == own_path);
        if is_ours && client.serving(minor).is_ok_and(is_fitting) {
            self.ctx.log.warning(format_args!("found the forgotten tapdisk {pid}, minor {minor}"));
            let provider = Provider::Ram;
            self.state.tapdisk = Some(Tapdisk { minor, identity: Some(identity), provider });
        }
    }

    /// Whether an exchange failed because the process was about to die.
    pub(crate) fn has_died(&self, running: &Running, error: &tapctl::Error) -> Result<bool, Error> {
        if !matches!(error.kind(), ErrorKind::Gone | ErrorKind::Io) {
            return Ok(false);
        }
        self.is_dying(running)
    }

    /// Whether a process that has failed is about to die.
    pub(crate) fn is_dying(&self, running: &Running) -> Result<bool, Error> {
        running.identity.wait(DEATH_TIMEOUT).map_err(errors::tapdisk)
    }

    pub(crate) fn running(&self) -> Option<Running> {
        let tapdisk = self.state.tapdisk.as_ref()?;
        let identity = tapdisk.identity.clone().filter(Identity::is_same)?;
        let client = Client::new(&self.control, identity.pid).timeout(ANSWER_TIMEOUT);
        Some(Running { client, minor: tapdisk.minor, identity })
    }

    pub(crate) fn point(&self, running: &Running) -> Result<(), Error> {
        self.link.point(running.identity.pid, running.minor)
    }

    /// Starts a tapdisk where none lives.
    fn replace(&mut self, provider: Provider) -> Result<(), Error> {
        let before = self.state.tapdisk.take();
        let dead = before.as_ref().and_then(|it| it.identity.as_ref());
        if let Some(dead) = dead {
            self.remove_leftovers(dead);
        }
        let minor = self.reserve(before.as_ref().map(|it| it.minor))?;
        self.state.tapdisk = Some(Tapdisk { minor, identity: None, provider });
        let started = self.save().and_then(|()| self.spawn(minor, provider));
        match started {
            Ok(running) => {
                let (pid, path) = (running.identity.pid, self.link.path());
                let to = path.display();
                match dead {
                    Some(dead) => self.ctx.log.warning(format_args!(
                        "tapdisk {} is dead; replaced by {pid}, minor {minor}, at {to}",
                        dead.pid
                    )),
                    None => self
                        .ctx
                        .log
                        .info(format_args!("started tapdisk {pid}, minor {minor}, at {to}")),
                }
                Ok(())
            }
            Err(error) => {
                self.free(minor);
                self.state.tapdisk = None;
                // The first error is the one to tell.
                let _kept = self.save();
                Err(error)
            }
        }
    }

    /// A minor for a new tapdisk: the one before, where it is still reserved and nobody's.
    fn reserve(&self, before: Option<Minor>) -> Result<Minor, Error> {
        if let Some(before) = before
            && minors::is_attached(&self.control, before).is_ok_and(|attached| !attached)
        {
            return Ok(before);
        }
        minors::allocate(&self.control, MINORS_TIMEOUT).map_err(errors::tapdisk)
    }

    /// Starts the process, remembers it, attaches the minor to it and points the link to it.
    fn spawn(&mut self, minor: Minor, provider: Provider) -> Result<Running, Error> {
        let (program, refused): (_, fn(_) -> _) = match provider {
            Provider::Ram => (self.ctx.config.tapdisk(), errors::tapdisk),
            Provider::Blktap => {
                let program = self.blktap_program()?;
                // It stays where it is born, and what it has is lost with it.
                cgroup::leave(Groups::Deadly, &|text| self.ctx.log.warning(text));
                (program, blktap::refused)
            }
        };
        let spawn = Spawn::new(&self.control, program).variables(self.ctx.config.for_tapdisk());
        let spawned = spawn.start().map_err(refused)?;
        let identity = spawned.identity;
        self.state.tapdisk = Some(Tapdisk { minor, identity: Some(identity.clone()), provider });
        let client = Client::new(&self.control, spawned.pid).timeout(ANSWER_TIMEOUT);
        let running = Running { client, minor, identity };
        let ready = self
            .save()
            .and_then(|()| running.client.attach(minor).map_err(refused))
            .and_then(|()| self.point(&running));
        if let Err(error) = ready {
            // Nobody knows of it yet.
            if let Err(error) = self.kill(&running, Duration::ZERO) {
                self.ctx.log.error(error.chain());
            }
            return Err(error);
        }
        Ok(running)
    }

    /// Has a tapdisk close and detach, upon which it ends; where it does not, kills it.
    fn end(&self, running: &Running) -> Result<(), Error> {
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
                    ErrorKind::Remote(_) => Duration::ZERO,
                    _ => EXIT_TIMEOUT,
                }
            }
        };
        if identity.wait(patience).map_err(errors::tapdisk)? {
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
    fn kill(&self, running: &Running, patience: Duration) -> Result<(), Error> {
        let identity = &running.identity;
        if !identity.wait(patience).map_err(errors::tapdisk)? {
            let pid = identity.pid;
            self.ctx.log.warning(format_args!("killing tapdisk {pid}, which does not end"));
            identity.kill().map_err(errors::tapdisk)?;
            if !identity.wait(KILL_TIMEOUT).map_err(errors::tapdisk)? {
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

    fn remove_leftovers(&self, dead: &Identity) {
        // Sockets that nobody listens on disturb nobody.
        if let Err(error) = self.control.remove_leftovers(dead.pid, Some(dead)) {
            self.ctx.log.warning(error);
        }
    }

    fn free(&self, minor: Minor) {
        match minors::free(&self.control, minor, MINORS_TIMEOUT) {
            Err(error) if error.kind() != ErrorKind::NotFound => self.ctx.log.warning(error),
            _ => {}
        }
    }

    /// Checks that no process but this tapdisk serves what `path` names. A tapdisk that finds out
    /// itself has waited for some seconds then, and all of its clients with it.
    fn require_free(&self, path: &Path, pid: u32) -> Result<(), Error> {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let sr = self.sr()?;
        let holder = Name::parse(name).and_then(|key| sr.serving(&key))?;
        match holder {
            // Somebody who changes the volume holds it for a moment, and may have left a name of
            // the dead in place.
            Some(other) if other.pid != pid && other.pid != 0 && process::exists(other.pid) => {
                let message = format!(
                    "volume {name} is served by process {}, which is not its tapdisk (minor {}, \
                     control directory {}): detach it there (tap-ctl destroy -p {} -m {}) and \
                     repeat",
                    other.pid, other.minor, other.control_dir, other.pid, other.minor
                );
                Err(Error::new(Failure::VdiInUse, message))
            }
            _ => Ok(()),
        }
    }
}

impl Running {
    /// Opens `path`, unless it is open already.
    fn open(&self, path: &Path, mode: Mode) -> tapctl::Result<()> {
        let Self { client, minor, .. } = self;
        let read_only = mode == Mode::ReadOnly;
        let mut params = OsString::from("ram:");
        params.push(path);
        let flags = if read_only { Flags::READ_ONLY } else { Flags::default() };
        let open = Open::new(params).flags(flags);
        match client.open(*minor, open.clone()) {
            Err(error) if error.kind() == ErrorKind::Remote(errno::ALREADY) => {}
            opened => return opened.map(drop),
        }
        let serving = client.serving(*minor)?;
        if serving.path.as_deref() == Some(path) && serving.read_only == read_only {
            return Ok(());
        }
        // Nobody has it active in that way: it was left by a call that was killed, or the domain
        // that has it wants it otherwise now.
        client.close(*minor)?;
        client.open(*minor, open).map(drop)
    }
}

/// Whether a tapdisk did not answer in time.
fn hangs(error: &tapctl::Error) -> bool {
    error.kind() == ErrorKind::Timeout
}
