//! The tapdisk of a volume, while it lives. [`crate::starting`] starts and replaces it,
//! [`crate::ending`] ends it.
//!
//! One process for each attached volume, with one minor. It is trusted by its identity only; one
//! that died is replaced under the same minor and the same link. One that hangs makes an error
//! where it is to do something, and is killed where it is to stop: all that it had acknowledged
//! lies in the SR's memory.

use std::{
    ffi::OsString,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use host::Provider;
use rustix::process::Signal;
use smapiv3::{Error, Failure};
use tapctl::{Client, Entry, Flags, Identity, Minor, Open};

use crate::{errors::errno, state::Mode, vdi::Vdi};

/// How long a tapdisk may take to answer; unit tests do not wait as long.
pub(crate) const ANSWER_TIMEOUT: Duration =
    if cfg!(test) { Duration::from_millis(1500) } else { tapctl::TIMEOUT };

/// How long a process that does not answer any more may take to be seen as dead.
const DEATH_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a tapdisk that has lost its control socket may take to make it again.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 2 });

/// How often its name is looked for meanwhile.
const RESTORE_POLL: Duration = Duration::from_millis(1);

/// How long the lock on the minors' directory is waited for.
pub(crate) const MINORS_TIMEOUT: Duration = Duration::from_secs(5);

/// A tapdisk that lives.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) client: Client,
    pub(crate) minor: Minor,
    pub(crate) identity: Identity,
}

impl Vdi<'_> {
    /// Whether the volume's tapdisk lives.
    pub(crate) fn is_alive(&self) -> bool {
        self.running().is_some()
    }

    /// Whether an exchange failed because the process was about to die.
    pub(crate) fn has_died(&self, running: &Running, error: &tapctl::Error) -> Result<bool, Error> {
        use tapctl::ErrorKind::{Gone, Io, Lost};
        if !matches!(error.kind(), Gone | Io | Lost) {
            return Ok(false);
        }
        self.is_dying(running)
    }

    /// Whether a process that has failed is about to die.
    pub(crate) fn is_dying(&self, running: &Running) -> Result<bool, Error> {
        Ok(running.identity.wait(DEATH_TIMEOUT)?)
    }

    /// The volume's tapdisk, if it lives.
    pub(crate) fn running(&self) -> Option<Running> {
        let tapdisk = self.state.tapdisk.as_ref()?;
        let identity = tapdisk.identity.clone().filter(Identity::is_serving)?;
        if tapdisk.provider == Provider::Ram && !self.control.ctl(identity.pid).exists() {
            self.restore_socket(&identity);
        }
        let client = Client::new(&self.control, identity.pid).timeout(ANSWER_TIMEOUT);
        Some(Running { client, minor: tapdisk.minor, identity })
    }

    /// Asks a tapdisk whose control directory was emptied to make its names again, once in a call, and
    /// waits for its control socket. One that does not is dealt with as one on whose socket no process listens.
    fn restore_socket(&self, identity: &Identity) {
        if self.has_asked_to_restore.replace(true) || identity.signal(Signal::HUP).is_err() {
            return;
        }
        let begun = Instant::now();
        while begun.elapsed() < RESTORE_TIMEOUT && identity.is_same() {
            if self.control.ctl(identity.pid).exists() {
                let pid = identity.pid;
                let text =
                    format_args!("the control socket of tapdisk {pid} was lost, and is made again");
                return self.ctx.log.warning(text);
            }
            thread::sleep(RESTORE_POLL);
        }
    }

    /// Points the link to it.
    pub(crate) fn point(&self, running: &Running) -> Result<(), Error> {
        self.link.point(running.identity.pid, running.minor)
    }

    pub(crate) fn dies_at_once(&self) -> Error {
        let message = format!("the tapdisk of volume {} dies at once: see its log", self.uri.key);
        Error::new(Failure::TapdiskFailed, message)
    }
}

impl Running {
    /// Makes sure that it has the minor. One that has it already is not asked to take it, as it would
    /// log that it refused.
    pub(crate) fn take_minor(&self) -> tapctl::Result<()> {
        self.again_where_lost(|_| self.take_minor_once())
    }

    /// Asks once more where the server has died meanwhile: its keeper lives, and starts the next one.
    /// `ask` is told whether it was asked before, and may have had an effect.
    fn again_where_lost(&self, ask: impl Fn(bool) -> tapctl::Result<()>) -> tapctl::Result<()> {
        match ask(false) {
            Err(error) if error.kind() == tapctl::ErrorKind::Lost && self.identity.is_same() => {
                ask(true)
            }
            asked => asked,
        }
    }

    fn take_minor_once(&self) -> tapctl::Result<()> {
        let has_it = |vbd: &Entry| vbd.minor == i32::from(self.minor);
        if self.client.list()?.iter().any(has_it) {
            return Ok(());
        }
        self.client.attach(self.minor)
    }

    /// Opens `path`, unless it is open already. `expect_open` says that it should be: then the tapdisk
    /// is asked first, as it would log that it refused to open an image twice.
    pub(crate) fn open(&self, path: &Path, mode: Mode, expect_open: bool) -> tapctl::Result<()> {
        self.again_where_lost(|again| self.open_once(path, mode, expect_open || again))
    }

    fn open_once(&self, path: &Path, mode: Mode, expect_open: bool) -> tapctl::Result<()> {
        let Self { client, minor, .. } = self;
        let read_only = mode == Mode::ReadOnly;
        let mut params = OsString::from("ram:");
        params.push(path);
        let flags = if read_only { Flags::READ_ONLY } else { Flags::default() };
        let open = Open::new(params).flags(flags);
        if !expect_open {
            match client.open(*minor, open.clone()) {
                Err(error) if error.kind() == tapctl::ErrorKind::Remote(errno::ALREADY) => {}
                opened => return opened.map(drop),
            }
        }
        let serving = client.serving(*minor)?;
        if serving.path.as_deref() == Some(path) && serving.read_only == read_only {
            return Ok(());
        }
        if serving.path.is_some() {
            // No domain has activated it in that way: it was left by a call that was killed, or the
            // domain that has activated it changes the mode now.
            client.close(*minor)?;
        }
        client.open(*minor, open).map(drop)
    }
}

/// Whether a tapdisk did not answer in time.
pub(crate) fn hangs(error: &tapctl::Error) -> bool {
    error.kind() == tapctl::ErrorKind::Timeout
}
