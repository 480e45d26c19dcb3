//! The record of a volume between calls, and the lock that serializes the calls for it.
//!
//! The store keeps both with the SR, and they vanish with it. A volume of which there is nothing to say
//! has neither.

use std::{collections::BTreeMap, fmt, time::Duration};

use host::Provider;
use serde::{Deserialize, Serialize};
use smapiv3::{Error, Failure};
use store::{Host, PluginState, VolumeUri};
use tapctl::{Identity, Minor};

use crate::mirror_record::Mirrors;

/// How long a call waits for its turn: starting and stopping a tapdisk that hangs takes half of it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// How long diagnostics wait for a record that another call has locked.
const DIAGNOSTICS_TIMEOUT: Duration = Duration::from_millis(200);

/// The use that a domain makes of a volume.
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
    #[serde(flatten)]
    unknown: Unknown,
}

impl Tapdisk {
    pub(crate) fn new(minor: Minor, identity: Option<Identity>, provider: Provider) -> Self {
        Self { minor, identity, provider, unknown: Unknown::new() }
    }
}

/// Fields that a later version has written, whose records this program may change. They stay as they are.
type Unknown = BTreeMap<String, serde_json::Value>;

/// The version of the records that this program writes.
const VERSION: u32 = 1;

/// The version of a record that may be of any version.
#[derive(Deserialize)]
struct Version {
    #[serde(default = "first_version")]
    version: u32,
}

/// The contents of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// The version of the record's format. One of a later version is refused: this program would misread it.
    /// Fields that may be ignored and kept do not make a later version.
    #[serde(default = "first_version")]
    pub(crate) version: u32,
    /// Whether writes outlive Datapath.close. Otherwise `clone` is served, never the volume.
    pub(crate) persistent: bool,
    /// The key of the anonymous clone that takes the writes of a non-persistent disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) clone: Option<String>,
    /// The domains that have attached the volume, and the use of each.
    pub(crate) domains: BTreeMap<String, Hold>,
    /// The process that serves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tapdisk: Option<Tapdisk>,
    /// Whether a call is starting a process that `tapdisk` does not name yet. A call that finds this
    /// set comes after one that was killed, and looks for that process.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) starting: bool,
    /// The mirrors that were begun, by their operations.
    #[serde(default, skip_serializing_if = "Mirrors::is_empty")]
    pub(crate) mirrors: Mirrors,
    #[serde(flatten)]
    pub(crate) unknown: Unknown,
}

/// The version of records that say none.
fn first_version() -> u32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Default for State {
    fn default() -> Self {
        Self {
            version: VERSION,
            persistent: true,
            clone: None,
            domains: BTreeMap::new(),
            tapdisk: None,
            starting: false,
            mirrors: Mirrors::new(),
            unknown: Unknown::new(),
        }
    }
}

impl State {
    /// How the volume has to be served for the domains that have activated it, and for a mirror of a volume
    /// that none has.
    pub(crate) fn mode(&self) -> Option<Mode> {
        // Never both: an activation beside one of the other sort is refused, and a mirror gives way to it.
        let held = self.mirrors.values().any(|mirror| mirror.is_live() && mirror.holds);
        let by_mirror = held.then_some(Mode::ReadOnly);
        self.domains.values().find_map(|hold| hold.mode()).or(by_mirror)
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
pub(crate) struct Record(PluginState);

impl Record {
    /// Waits for the lock of a volume's record.
    pub(crate) fn lock(host: &Host, uri: &VolumeUri) -> Result<Self, Error> {
        Ok(Self(PluginState::lock(host, uri, LOCK_TIMEOUT)?))
    }

    /// The same where another call may have the lock for a while, for a caller that only tells of it.
    pub(crate) fn lock_soon(host: &Host, uri: &VolumeUri) -> Result<Self, Error> {
        Ok(Self(PluginState::lock(host, uri, DIAGNOSTICS_TIMEOUT)?))
    }

    /// Whether there is an SR that it lies in, and so a lock.
    pub(crate) fn is_locked(&self) -> bool {
        self.0.is_locked()
    }

    /// Reads it; the default where there is none.
    pub(crate) fn read(&self) -> Result<State, Error> {
        let Some(bytes) = self.0.read()? else { return Ok(State::default()) };
        let version = serde_json::from_slice(&bytes).map(|Version { version }| version);
        if let Ok(newer) = version
            && newer > VERSION
        {
            let message = format!(
                "{} has version {newer} of the format, of which this plugin knows {VERSION}: a later \
                 version of the plugin wrote it, and has to end the use of the volume",
                self.0.path().display()
            );
            return Err(Error::new(Failure::MetadataError, message));
        }
        serde_json::from_slice(&bytes).map_err(|error| {
            let message = format!(
                "{}, which tells who uses the volume, cannot be understood: shut down whoever uses \
                 it, end its tapdisk (tap-ctl list), remove that file and repeat",
                self.0.path().display()
            );
            Error::new(Failure::MetadataError, message).caused_by(error)
        })
    }

    /// Replaces it, whole or not at all; there is none where there is nothing to say.
    pub(crate) fn write(&self, state: &State) -> Result<(), Error> {
        if *state == State::default() {
            return Ok(self.0.write(None)?);
        }
        let bytes = serde_json::to_vec(state).expect("a record has string keys");
        Ok(self.0.write(Some(&bytes))?)
    }
}

#[cfg(test)]
mod tests {
    use store::{Name, testing::Fixture};

    use super::*;

    fn uri(fixture: &Fixture) -> VolumeUri {
        VolumeUri { sr: fixture.sr.uuid().clone(), key: Name::parse("key").unwrap() }
    }

    #[test]
    fn a_record_reads_as_it_was_written_and_leaves_nothing_when_empty() {
        let fixture = Fixture::new(1 << 20);
        let directory = store::testing::metadata(&fixture.sr).join("datapath");
        let files = || std::fs::read_dir(&directory).unwrap().count();
        let record = Record::lock(&fixture.host, &uri(&fixture)).unwrap();
        assert_eq!(record.read().unwrap(), State::default());
        let mut state = State { persistent: false, clone: Some("c".into()), ..State::default() };
        state.domains.insert("0 / -".into(), Hold::ReadWrite);
        let identity = Some(Identity::own().unwrap());
        state.tapdisk = Some(Tapdisk::new(3, identity, Provider::Blktap));
        record.write(&state).unwrap();
        assert_eq!(record.read().unwrap(), state);
        drop(record);
        assert_eq!(files(), 2, "the record and its lock");
        let record = Record::lock(&fixture.host, &uri(&fixture)).unwrap();
        record.write(&State::default()).unwrap();
        drop(record);
        assert_eq!(files(), 0);
    }

    #[test]
    fn without_an_sr_there_is_nothing_known_and_nothing_to_lock() {
        let fixture = Fixture::new(1 << 20);
        let uri = VolumeUri { sr: Name::parse("no-sr").unwrap(), ..uri(&fixture) };
        let record = Record::lock(&fixture.host, &uri).unwrap();
        assert!(!record.is_locked());
        assert_eq!(record.read().unwrap(), State::default());
        record.write(&State { persistent: false, ..State::default() }).unwrap();
    }

    #[test]
    fn what_cannot_be_understood_is_not_taken_for_nothing() {
        let fixture = Fixture::new(1 << 20);
        let path = store::testing::metadata(&fixture.sr).join("datapath/key");
        std::fs::write(&path, "{").unwrap();
        let error = Record::lock(&fixture.host, &uri(&fixture)).unwrap().read().unwrap_err();
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
