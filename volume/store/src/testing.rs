//! What tests of this crate and of those that use it have in common: a private host with an attached
//! SR, disks served by the test's own process, death at a chosen step, and counters.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use scratch::Scratch;

pub use crate::files::{
    hooks::{Work, at_limit, at_unlock, work},
    steps::failpoints,
};
use crate::{
    Attachment, Disk, Exclusive, Host, Live, Name, NewVolume, Open, Result, Serving, Sr, Switch,
};
use crate::{
    files::Entry,
    record::{Record, SLOT_BYTES, SLOTS_AT, View},
};

/// The UUID of the SR of a fixture.
pub const SR_UUID: &str = "0f0e0d0c-0000-4000-8000-000000000001";

/// An attached SR in a directory of its own on tmpfs. Both vanish with it.
#[derive(Debug)]
pub struct Fixture {
    /// The host that the SR is on.
    pub host: Host,
    /// The SR, attached.
    pub sr: Sr,
    root: Scratch,
}

impl Fixture {
    /// An SR of `size` bytes.
    ///
    /// # Panics
    /// Where `/dev/shm` has no room. Everything here panics where it does not succeed.
    #[must_use]
    pub fn new(size: u64) -> Self {
        let root = root();
        let host = host(root.path());
        let sr = host.attach(&attachment(&host, size)).expect("a new SR");
        Self { host, sr, root }
    }

    /// The directory that all of it lies in. Names in it that begin with a dot are free for the test.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// The SR's lock.
    #[must_use]
    pub fn lock(&self) -> Exclusive<'_> {
        self.sr.lock().expect("an attached SR")
    }

    /// A new volume of `size` bytes; its key.
    #[allow(clippy::must_use_candidate, reason = "some tests want only the volume")]
    pub fn create(&self, size: i64) -> String {
        create(&self.sr, size).to_string()
    }

    /// Serves a volume from this process.
    ///
    /// # Errors
    /// As [`Disk::open`].
    pub fn open(&self, key: &str, read_only: bool) -> Result<Disk> {
        open(&self.sr, key, read_only)
    }
}

/// A directory on tmpfs.
#[must_use]
pub fn root() -> Scratch {
    Scratch::in_memory()
}

/// A host whose SRs lie in directories below `root`.
#[must_use]
pub fn host(root: &Path) -> Host {
    Host {
        sr_root: root.to_owned(),
        lock_dir: root.join(".lock"),
        may_mount: false,
        uuid: "this-host".to_owned(),
    }
}

/// What attaches an SR of `size` bytes on `host`.
#[must_use]
pub fn attachment(host: &Host, size: u64) -> Attachment {
    Attachment {
        uuid: Name::parse(SR_UUID).expect("a UUID"),
        name: "scratch".into(),
        description: String::new(),
        size,
        host: host.uuid.clone(),
        provider: String::new(),
        save_dir: String::new(),
        swap: false,
    }
}

/// A new volume of `size` bytes.
#[must_use]
pub fn create(sr: &Sr, size: i64) -> Name {
    let new = NewVolume { name: "disk", description: "", size, sharable: false };
    sr.lock().and_then(|mut lock| lock.create_volume(&new)).expect("a new volume").key
}

/// Serves a volume from this process.
///
/// # Errors
/// As [`Disk::open`].
pub fn open(sr: &Sr, key: &str, read_only: bool) -> Result<Disk> {
    let path = sr.layout().volume(&Name::parse(key)?);
    let control_dir = "/nonexistent".into();
    let serving = Serving { pid: std::process::id(), control_dir, minor: 0, read_only };
    Disk::open(&path, &Open { serving })
}

/// All bytes of a disk.
#[must_use]
pub fn content(disk: &mut Disk) -> Vec<u8> {
    let mut bytes = vec![0xee; usize::try_from(disk.size()).expect("64-bit host")];
    disk.read_into(0, &mut bytes).expect("a disk that can be read");
    bytes
}

/// Where the files of an SR's metadata lie.
#[must_use]
pub fn metadata(sr: &Sr) -> PathBuf {
    sr.layout().root().join("meta")
}

/// What the SR's count says is in use, and what its files take: data and metadata, in bytes. Asking
/// corrects nothing.
#[must_use]
pub fn counted(sr: &Sr) -> (u64, u64) {
    let dirs = sr.attached().expect("an attached SR").0;
    crate::budget::counted(&dirs).expect("an SR that can be read")
}

/// In how many chunks of a volume single blocks are told apart without a page of a map.
#[must_use]
pub fn deltas(sr: &Sr, key: &str) -> usize {
    let dirs = sr.attached().expect("an attached SR").0;
    let key = Name::parse(key).expect("a key");
    let record = Record::read(&dirs, &key).expect("a sound record").expect("a volume");
    let view = View::of(&dirs, &record).expect("a sound index");
    view.chunks().filter(|(_, named)| named.delta.is_some()).count()
}

/// Where the index of a volume lies.
#[must_use]
pub fn index(sr: &Sr, key: &str) -> PathBuf {
    let dirs = sr.attached().expect("an attached SR").0;
    let key = Name::parse(key).expect("a key");
    let record = Record::read(&dirs, &key).expect("a sound record").expect("a volume");
    dirs.path(Entry::Index(record.index))
}

/// Where the slot of a chunk lies in an index, in bytes.
#[must_use]
pub fn slot_at(chunk: u64) -> u64 {
    SLOTS_AT + chunk * SLOT_BYTES as u64
}

/// The disks that this process serves, by key; each carries out a request at once.
#[derive(Debug, Default)]
pub struct Disks(pub BTreeMap<String, Disk>);

impl Disks {
    fn get(&mut self, key: &Name) -> &mut Disk {
        self.0.get_mut(key.as_str()).expect("served here")
    }
}

impl Live for Disks {
    fn switch(&mut self, key: &Name, _: &Serving, switch: &Switch) -> Result<()> {
        self.get(key).switch(switch)
    }

    fn hold(&mut self, _: &Name, _: &Serving, _: Duration) -> Result<()> {
        // No request is served while this process does something else.
        Ok(())
    }

    fn release(&mut self, _: &Name, _: &Serving) -> Result<()> {
        Ok(())
    }

    fn sole(&mut self, key: &Name, _: &Serving) -> Result<()> {
        self.get(key).reload_sole()
    }
}
