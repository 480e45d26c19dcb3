//! The tapdisks that serve an SR's volumes while these change.
//!
//! Called by the store, which holds the SR's lock, and by Volume.resize. Before anything is asked
//! of a process, it has to say itself that it serves this very volume under that minor: process ids
//! are given out again, and the lock file may have the text of a dead process.
//!
//! Only the answer of a tapdisk that holds the volume counts as a refusal. After any other error it
//! is not known which process serves the volume and which record it has read:
//! [`ErrorKind::Unresponsive`].

use std::{
    cell::Cell,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use rustix::{io::Errno, process::Signal};
use smapiv3_plugin::Log;
use store::{Error, ErrorKind, Layout, Live, Name, Result, Serving, Sr, Switch};
use tapctl::{Client, ControlDir, Identity, Minor};

/// How long a tapdisk may take, from the first question to the last answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a process that has a volume's lock may take to say who it is.
const NAME_TIMEOUT: Duration = Duration::from_secs(5);
/// The program that makes its socket again when it gets a SIGHUP.
const TAPDISK: &str = "tapdisk-ram";
/// How long that may take.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause between two looks for that name, or for the socket.
const NAME_PAUSE: Duration = Duration::from_millis(2);
/// How a tapdisk answers that it has the minor, but not the volume, at this moment: it is paused,
/// or nothing is open. It does not refuse then, as it does not hold the volume.
const NOT_SERVING: [Errno; 3] = [Errno::AGAIN, Errno::BADF, Errno::NODEV];

/// Reaches the tapdisks of one SR.
pub(crate) struct Tapdisks<'a> {
    sr: &'a Sr,
    log: &'a Log<'a>,
    timeout: Duration,
    has_successor: Cell<bool>,
}

impl<'a> Tapdisks<'a> {
    /// Those of `sr`.
    pub(crate) fn new(sr: &'a Sr, log: &'a Log<'a>) -> Self {
        Self { sr, log, timeout: TIMEOUT, has_successor: Cell::new(false) }
    }

    /// With another limit for each exchange.
    #[cfg(test)]
    pub(crate) fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Has the tapdisk that serves a volume, if there is one, take over the volume's new size.
    pub(crate) fn resize(&self, key: &Name, size: u64) -> Result<()> {
        let mut next = self.named(key)?;
        while let Some(serving) = next {
            let told = self.tell(key, &serving, "take over its new size", |tapdisk, minor| {
                tapdisk.resize(minor, size)
            });
            match told {
                Err(error) if error.kind() == ErrorKind::Unresponsive => {
                    // A process that has opened the volume since then has read the new record, or
                    // is to be told.
                    next = self.named(key)?;
                    if next.as_ref() == Some(&serving) {
                        return Err(error);
                    }
                }
                told => return told,
            }
        }
        Ok(())
    }

    /// Who serves a volume. One that is about to may know the old record only: its name is waited
    /// for.
    fn named(&self, key: &Name) -> Result<Option<Serving>> {
        let deadline = Instant::now() + NAME_TIMEOUT;
        loop {
            let serving = self.sr.serving(key)?;
            let is_nameless = serving.as_ref().is_some_and(|serving| serving.pid == 0);
            if !is_nameless || Instant::now() >= deadline {
                return Ok(serving);
            }
            std::thread::sleep(NAME_PAUSE);
        }
    }

    /// Asks something of the process that serves a volume, once it is known to be that.
    fn tell(
        &self,
        key: &Name,
        serving: &Serving,
        what: &str,
        ask: impl FnOnce(&Client, Minor) -> tapctl::Result<()>,
    ) -> Result<()> {
        let Serving { pid, control_dir, minor, .. } = serving;
        if *pid == 0 {
            return Err(Error::new(
                ErrorKind::Unresponsive,
                format!("volume {key} is being activated at this moment; try again"),
            ));
        }
        let deadline = Instant::now() + self.timeout;
        let stranger = |says: &str| {
            Error::new(
                ErrorKind::Unresponsive,
                format!(
                    "volume {key} is in use, but process {pid}, which should be serving it as \
                     minor {minor} ({control_dir}), {says}; try again, or unplug and plug the disk"
                ),
            )
        };
        let minor = Minor::try_from(*minor).map_err(|_| stranger("cannot have that minor"))?;
        let control = ControlDir::new(control_dir);
        restore_socket(&control, *pid);
        let client = Client::new(&control, *pid);
        let asked = client.clone().timeout(self.timeout).serving(minor);
        let path = match asked {
            Ok(served) => served.path,
            Err(error) if matches!(error.kind(), tapctl::ErrorKind::Remote(_)) => {
                return Err(stranger(&format!("does not know it ({error})")));
            }
            Err(error) => return Err(failed(key, what, &error)),
        };
        if !path.is_some_and(|path| is_volume(self.sr.layout(), key, &path)) {
            return Err(stranger("serves something else"));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        ask(&client.timeout(left), minor).map_err(|error| failed(key, what, &error))
    }

    fn logged(&self, key: &Name, outcome: Result<()>) -> Result<()> {
        if let Err(error) = &outcome {
            self.log.warning(format_args!("volume {key}: {error}"));
        }
        outcome
    }
}

impl Live for Tapdisks<'_> {
    fn switch(&mut self, key: &Name, serving: &Serving, switch: &Switch) -> Result<()> {
        let message = tapctl::Switch { new_top: switch.top, index: switch.index.clone() };
        self.has_successor.set(false);
        let outcome = self.tell(key, serving, "go on in a new layer", |tapdisk, minor| {
            let switched = tapdisk.switch(minor, message);
            // "Too late" says a process that has read the record after the switch was written into it.
            let too_late = tapctl::ErrorKind::Remote(Errno::ALREADY.raw_os_error());
            let is_new =
                |it: &tapctl::Error| [tapctl::ErrorKind::Lost, too_late].contains(&it.kind());
            let has_successor = switched.as_ref().is_err_and(is_new) && tapdisk.pid().is_ok();
            self.has_successor.set(has_successor);
            switched
        });
        self.logged(key, outcome)
    }

    fn has_successor(&self) -> bool {
        self.has_successor.get()
    }

    fn hold(&mut self, key: &Name, serving: &Serving, time: Duration) -> Result<()> {
        let mut is_old = false;
        let outcome = self.tell(key, serving, "hold its requests", |tapdisk, minor| {
            let unknown = tapctl::ErrorKind::Remote(Errno::INVAL.raw_os_error());
            let held = tapdisk.hold(minor, time);
            is_old = held.as_ref().is_err_and(|error| error.kind() == unknown);
            held
        });
        let outcome = outcome.map_err(|error| if is_old { too_old(key, serving) } else { error });
        self.logged(key, outcome)
    }

    fn release(&mut self, key: &Name, serving: &Serving) -> Result<()> {
        let outcome = self.tell(key, serving, "hold its requests for so long", Client::release);
        self.logged(key, outcome)
    }

    fn sole(&mut self, key: &Name, serving: &Serving) -> Result<()> {
        let outcome = self.tell(key, serving, "take over what only it needs", Client::sole);
        self.logged(key, outcome)
    }
}

/// The error for a tapdisk that does not know a request.
fn too_old(key: &Name, serving: &Serving) -> Error {
    let message = format!(
        "the tapdisk of volume {key} is of an earlier version, which cannot hold its requests: upgrade it \
         (tap-ctl-ram upgrade -p {}), or detach the SR to have it saved",
        serving.pid
    );
    Error::new(ErrorKind::Unresponsive, message)
}

/// Has a tapdisk whose control directory was emptied make its socket again, and waits for that.
fn restore_socket(control: &ControlDir, pid: u32) {
    let is_there = || control.ctl(pid).exists();
    if is_there() {
        return;
    }
    // Another program may have the number by now, and be ended by the signal.
    let Ok(Some(identity)) = Identity::of(pid) else { return };
    let program = identity.executable_path();
    let is_ours = program.is_some_and(|it| it.file_name() == Some(TAPDISK.as_ref()));
    if !is_ours || identity.signal(Signal::HUP).is_err() {
        return;
    }
    let begun = Instant::now();
    while !is_there() && begun.elapsed() < RESTORE_TIMEOUT && identity.is_same() {
        std::thread::sleep(NAME_PAUSE);
    }
}

/// Whether a path that a tapdisk has open is a volume's.
fn is_volume(layout: &Layout, key: &Name, path: &Path) -> bool {
    let own = layout.volume(key);
    let same = |one: &Path, other: &Path| matches!((fs::canonicalize(one), fs::canonicalize(other)), (Ok(one), Ok(other)) if one == other);
    own == path || same(&own, path)
}

/// The store's error for one of the control protocol.
fn failed(key: &Name, what: &str, error: &tapctl::Error) -> Error {
    let answered = match error.kind() {
        tapctl::ErrorKind::Remote(errno) => Some(Errno::from_raw_os_error(errno)),
        _ => None,
    };
    let (kind, advice) = match (answered, error.kind()) {
        (Some(Errno::NOSPC), _) => (ErrorKind::NoSpace, ""),
        (Some(errno), _) if !NOT_SERVING.contains(&errno) => (ErrorKind::Io, ""),
        (None, tapctl::ErrorKind::Invalid) => (ErrorKind::BadArgument, ""),
        _ => (ErrorKind::Unresponsive, "; unplug and plug the disk if that does not pass"),
    };
    let message = format!("the tapdisk of volume {key} did not {what}: {error}{advice}");
    Error::new(kind, message)
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
