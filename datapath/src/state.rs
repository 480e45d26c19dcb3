//! What is remembered of a volume between calls, and the lock that makes calls for it come one
//! after the other.
//!
//! Both lie with the SR's metadata (`meta/datapath/<key>` and `<key>.lock`) and vanish with it. A
//! volume of which there is nothing to say has neither file. The record is replaced by a rename, so
//! it is whole at any moment; only the holder of the lock writes it.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use schemas::{Error, Failure};
use serde::{Deserialize, Serialize};
use store::{DATAPATH_LOCK_SUFFIX, Provider};
use tapctl::{Identity, Minor};

use crate::errors;

/// How long a call waits for its turn: starting and stopping a tapdisk that hangs takes half of it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// What a domain does with a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Hold {
    /// It has attached it and does not use it.
    Attached,
    /// It reads it.
    ReadOnly,
    /// It reads and writes it.
    ReadWrite,
}

/// How a volume is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Writes are refused.
    ReadOnly,
    /// Reads and writes are served.
    ReadWrite,
}

impl From<Mode> for Hold {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::ReadOnly => Self::ReadOnly,
            Mode::ReadWrite => Self::ReadWrite,
        }
    }
}

impl Hold {
    /// How the volume has to be served for it; `None` where it need not be.
    pub(crate) fn mode(self) -> Option<Mode> {
        match self {
            Self::Attached => None,
            Self::ReadOnly => Some(Mode::ReadOnly),
            Self::ReadWrite => Some(Mode::ReadWrite),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadOnly => "read-only",
            Self::ReadWrite => "read-write",
        })
    }
}

/// The tapdisk of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tapdisk {
    /// The minor that is reserved for it.
    pub(crate) minor: Minor,
    /// The process; `None` where one was about to be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) identity: Option<Identity>,
    /// Which sort of tapdisk it is.
    #[serde(default, skip_serializing_if = "Provider::is_default")]
    pub(crate) provider: Provider,
}

/// What is remembered of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Whether writes outlive Datapath.close. Else what is served is `clone`, never the volume.
    pub(crate) persistent: bool,
    /// The key of the anonymous clone that takes the writes of a non-persistent disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) clone: Option<String>,
    /// Who has attached the volume, and what for.
    pub(crate) domains: BTreeMap<String, Hold>,
    /// The process that serves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tapdisk: Option<Tapdisk>,
}

impl Default for State {
    fn default() -> Self {
        Self { persistent: true, clone: None, domains: BTreeMap::new(), tapdisk: None }
    }
}

impl State {
    /// How the volume has to be served for the domains that have activated it.
    pub(crate) fn mode(&self) -> Option<Mode> {
        // Never both: an activation beside one of the other sort is refused.
        self.domains.values().find_map(|hold| hold.mode())
    }

    /// Another domain that has activated the volume in another mode than this one.
    pub(crate) fn conflict(&self, domain: &str, mode: Mode) -> Option<(&str, Mode)> {
        let active = self.domains.iter().filter(|(other, _)| *other != domain);
        active
            .filter_map(|(other, hold)| Some((other.as_str(), hold.mode()?)))
            .find(|(_, held)| *held != mode)
    }

    /// Another domain that has activated the volume, in whichever mode.
    pub(crate) fn active_beside(&self, domain: &str) -> Option<(&str, Mode)> {
        let others = self.domains.iter().filter(|(other, _)| *other != domain);
        others.filter_map(|(other, hold)| Some((other.as_str(), hold.mode()?))).next()
    }

    /// Takes the activation of one domain back; it stays attached.
    pub(crate) fn deactivate(&mut self, domain: &str) {
        if let Some(hold) = self.domains.get_mut(domain) {
            *hold = Hold::Attached;
        }
    }

    /// Takes every activation back.
    pub(crate) fn deactivate_all(&mut self) {
        self.domains.values_mut().for_each(|hold| *hold = Hold::Attached);
    }
}

/// The record of one volume, locked. Dropping it lets go.
#[derive(Debug)]
pub(crate) struct Record {
    path: PathBuf,
    /// `None` where there is no directory for it: the SR is gone, and with it all that was known.
    lock: Option<File>,
}

impl Record {
    /// Waits for the lock of the record at `path`.
    pub(crate) fn lock(path: PathBuf) -> Result<Self, Error> {
        let lock = lock(&lock_path(&path))?;
        Ok(Self { path, lock })
    }

    /// Whether there is a directory for it, and so a lock.
    pub(crate) fn is_locked(&self) -> bool {
        self.lock.is_some()
    }

    /// What it says; the default where there is none.
    pub(crate) fn read(&self) -> Result<State, Error> {
        let path = self.path.display();
        match fs::read(&self.path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                let message = format!(
                    "{path}, which tells who uses the volume, cannot be understood: shut down \
                     whoever uses it, end its tapdisk (tap-ctl list), remove that file and repeat"
                );
                Error::new(Failure::MetadataError, message).caused_by(error)
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(State::default()),
            Err(error) => Err(errors::io(format!("reading {path}"), error)),
        }
    }

    /// Replaces it, whole or not at all; there is none where there is nothing to say, or no SR any
    /// more of which to say it.
    pub(crate) fn write(&self, state: &State) -> Result<(), Error> {
        if !self.is_locked() {
            return Ok(());
        }
        let written = if *state == State::default() { self.remove() } else { self.replace(state) };
        written.map_err(|error| errors::io(format!("writing {}", self.path.display()), error))
    }

    fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn replace(&self, state: &State) -> io::Result<()> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        // Only the holder of the lock writes, so one name is enough; the store ignores it.
        let temporary = self.path.with_file_name(format!(".{name}"));
        let written = fs::write(&temporary, serde_json::to_vec(state)?)
            .and_then(|()| fs::rename(&temporary, &self.path));
        if written.is_err() {
            let _absent = fs::remove_file(&temporary);
        }
        written
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.lock.is_some() && !self.path.exists() {
            // Still locked: whoever waits for it finds that it has lost its name, and starts anew.
            let _absent = fs::remove_file(lock_path(&self.path));
        }
    }
}

fn lock_path(path: &Path) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(DATAPATH_LOCK_SUFFIX);
    path.into()
}

/// Takes an exclusive lock on a file that its last holder may remove; `None` where there is no
/// directory for it.
fn lock(path: &Path) -> Result<Option<File>, Error> {
    let failed = |error| errors::io(format!("locking {}", path.display()), error);
    let begun = Instant::now();
    loop {
        let open = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
        let file = match open {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        let left = LOCK_TIMEOUT.saturating_sub(begun.elapsed());
        if !tapctl::lock::exclusive(&file, left).map_err(failed)? {
            return Err(Error::new(
                Failure::LockErr,
                format!(
                    "another call has been working on this volume for {} s ({} is locked; fuser \
                     names the process): repeat when it has ended",
                    LOCK_TIMEOUT.as_secs(),
                    path.display()
                ),
            ));
        }
        match tapctl::lock::is_named(&file, path) {
            Ok(true) => return Ok(Some(file)),
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_as_it_was_written_and_leaves_nothing_when_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let record = Record::lock(path.clone()).unwrap();
        assert_eq!(record.read().unwrap(), State::default());
        let mut state = State { persistent: false, clone: Some("c".into()), ..State::default() };
        state.domains.insert("0 / -".into(), Hold::ReadWrite);
        let identity = Some(Identity::own().unwrap());
        state.tapdisk = Some(Tapdisk { minor: 3, identity, provider: Provider::Blktap });
        record.write(&state).unwrap();
        assert_eq!(record.read().unwrap(), state);
        drop(record);
        assert!(lock_path(&path).exists());
        let record = Record::lock(path).unwrap();
        record.write(&State::default()).unwrap();
        drop(record);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_lock_is_held_by_one_at_a_time_though_its_file_comes_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let inside = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _record = Record::lock(path.clone()).unwrap();
                        assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn without_a_directory_there_is_nothing_known_and_nothing_to_lock() {
        let record = Record::lock("/nonexistent/key".into()).unwrap();
        assert_eq!(record.read().unwrap(), State::default());
        record.write(&State::default()).unwrap();
    }

    #[test]
    fn what_cannot_be_understood_is_not_taken_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "{").unwrap();
        let error = Record::lock(path.clone()).unwrap().read().unwrap_err();
        assert!(error.params()[1].contains(path.to_str().unwrap()), "{error}");
    }

    #[test]
    fn only_another_domain_in_another_mode_is_in_the_way() {
        let mut state = State::default();
        state.domains.insert("a".into(), Hold::ReadOnly);
        state.domains.insert("b".into(), Hold::Attached);
        assert_eq!(state.mode(), Some(Mode::ReadOnly));
        assert_eq!(state.conflict("a", Mode::ReadWrite), None);
        assert_eq!(state.conflict("b", Mode::ReadOnly), None);
        assert_eq!(state.conflict("b", Mode::ReadWrite), Some(("a", Mode::ReadOnly)));
        state.deactivate("a");
        assert_eq!(state.mode(), None);
    }
}
