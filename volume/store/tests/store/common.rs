//! A private SR root on tmpfs for each test, and a deterministic way to tell blocks apart.

use std::{collections::BTreeMap, path::Path};

use scratch::Scratch;
use store::{Attachment, Disk, Host, Live, Name, NewVolume, Open, Result, Serving, Sr, Switch};

/// An SR of its own in a directory of its own; both vanish with it.
pub(crate) struct Fixture {
    /// The host that the SR is on.
    pub(crate) host: Host,
    /// The SR, attached.
    pub(crate) sr: Sr,
    _root: Scratch,
}

impl Fixture {
    /// An attached SR of `size` bytes in a directory on tmpfs.
    pub(crate) fn new(size: u64) -> Self {
        let root = Scratch::in_memory();
        let host = host(root.path());
        let sr = host.attach(&attachment(&host, size)).unwrap();
        Self { host, sr, _root: root }
    }

    /// A new volume of `size` bytes; its key.
    pub(crate) fn create(&self, size: i64) -> String {
        let new = NewVolume { name: "disk", description: "", size, sharable: false };
        self.sr.create_volume(&new).unwrap().key.to_string()
    }

    /// Serves a volume from this process.
    pub(crate) fn open(&self, key: &str, read_only: bool) -> Result<Disk> {
        open(&self.sr, key, read_only)
    }
}

/// Serves a volume from this process.
pub(crate) fn open(sr: &Sr, key: &str, read_only: bool) -> Result<Disk> {
    let path = sr.layout().volume(&Name::parse(key)?);
    let serving = Serving {
        pid: std::process::id(),
        control_dir: "/nonexistent".into(),
        minor: 0,
        read_only,
    };
    Disk::open(&path, &Open { serving })
}

/// The disks that this process serves, by key; it obeys at once.
#[derive(Default)]
pub(crate) struct Disks(pub(crate) BTreeMap<String, Disk>);

impl Live for Disks {
    fn switch(&mut self, key: &Name, _: &Serving, switch: &Switch) -> Result<()> {
        self.0.get_mut(key.as_str()).expect("served here").switch(switch)
    }

    fn sole(&mut self, key: &Name, _: &Serving) -> Result<()> {
        self.0.get_mut(key.as_str()).expect("served here").reload_sole()
    }
}

/// A host whose SRs lie in directories below `root`.
pub(crate) fn host(root: &Path) -> Host {
    Host {
        sr_root: root.to_owned(),
        lock_dir: root.join(".lock"),
        may_mount: false,
        uuid: "this-host".to_owned(),
    }
}

/// What attaches an SR of `size` bytes on `host`.
pub(crate) fn attachment(host: &Host, size: u64) -> Attachment {
    Attachment {
        uuid: Name::parse("0f0e0d0c-0000-4000-8000-000000000001").unwrap(),
        name: "scratch".into(),
        description: "".into(),
        size,
        host: host.uuid.clone(),
        provider: store::Provider::Ram,
    }
}

/// All of a disk.
pub(crate) fn content(disk: &mut Disk) -> Vec<u8> {
    let mut bytes = vec![0xee; usize::try_from(disk.size()).unwrap()];
    disk.read_into(0, &mut bytes).unwrap();
    bytes
}
