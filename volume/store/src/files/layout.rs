//! Where everything of an SR lies. Two directories, as root each a tmpfs of its own, so that an
//! SR full of data can still be changed:
//!
//! ```text
//! <sr root>/<uuid>/data/<layer>            a layer: block b of a volume at b * 4096, sparse
//! <sr root>/<uuid>/meta/sr.json            the SR's record; what has none is not an SR (any more)
//!                      /numbers            the next number of a layer or an index
//!                      /volume/<key>       a volume's record; what has none is not a volume
//!                      /index/<number>     u32 per 4 MiB of a volume: the layer whose map has the page; from
//!                                          16 MiB on 64 bytes per 4 MiB: few blocks that are not as that
//!                                          says; its length says how many blocks of data the volume refers to
//!                      /map/<layer>        u32 per block of a layer's volume, pages sparse
//!                      /serving/<key>      locked (flock) by the process that serves the volume; says who that is
//!                      /datapath/<key>     what the datapath plugin remembers of the volume
//!                      /datapath/<key>.lock  locked (flock) while a call of the datapath works on it
//!                      /tmp/               files that are about to be renamed into place
//!                      /used               pages of data and metadata in use, and when the host's memory was
//!                                          looked at last; mapped by all processes
//!                      /ballast            given up before metadata is written on a full tmpfs
//! ```
//!
//! Beside the SRs' directories, `<sr root>/.memory` says what was granted of the host's memory to all of them.
//!
//! Numbers are eight hexadecimal digits. Integers in files are in the host's byte order: memory
//! never leaves its host.

use std::path::{Path, PathBuf};

use crate::{block::Layer, host::Name};

/// Suffix of the lock file that belongs to a plugin's state of a volume.
pub(crate) const STATE_LOCK_SUFFIX: &str = ".lock";

/// The paths of one SR: for people to read, and for other programs. The store itself opens its files
/// through `Dirs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The SR `uuid` under `sr_root`.
    #[must_use]
    pub fn new(sr_root: &Path, uuid: &Name) -> Self {
        Self { root: sr_root.join(uuid.as_str()) }
    }

    /// The SR and the key that a path of the form `<sr root>/<uuid>/meta/volume/<key>` names,
    /// where there is such an SR.
    #[must_use]
    pub fn of_volume(path: &Path) -> Option<(Self, Name)> {
        let key = Name::parse(path.file_name()?.to_str()?).ok()?;
        let root = path.parent()?.parent()?.parent()?;
        let layout = Self { root: root.to_owned() };
        let is_ours = layout.volume(&key) == path && layout.root.join("meta/sr.json").exists();
        is_ours.then_some((layout, key))
    }

    /// The directory of the SR.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The name of the SR's directory, its UUID.
    #[must_use]
    pub fn uuid(&self) -> String {
        self.root.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// One of the SR's directories.
    pub(crate) fn directory(&self, directory: Directory) -> PathBuf {
        let (above, name) = directory.place();
        above.map_or_else(|| self.root.clone(), |above| self.directory(above)).join(name)
    }

    /// The record of a volume: the path that `ram:` URIs of tapdisks name.
    #[must_use]
    pub fn volume(&self, key: &Name) -> PathBuf {
        self.directory(Directory::Volumes).join(key.as_str())
    }
}

/// A directory of an SR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Directory {
    Data,
    Meta,
    Volumes,
    Indexes,
    Maps,
    Servings,
    States,
    Temporary,
}

impl Directory {
    /// All of them, those that others lie in first.
    pub(crate) const ALL: [Self; 8] = [
        Self::Data,
        Self::Meta,
        Self::Volumes,
        Self::Indexes,
        Self::Maps,
        Self::Servings,
        Self::States,
        Self::Temporary,
    ];

    /// The directory that it lies in, `None` for the SR's own, and its name there.
    pub(crate) fn place(self) -> (Option<Self>, &'static str) {
        match self {
            Self::Data => (None, "data"),
            Self::Meta => (None, "meta"),
            Self::Volumes => (Some(Self::Meta), "volume"),
            Self::Indexes => (Some(Self::Meta), "index"),
            Self::Maps => (Some(Self::Meta), "map"),
            Self::Servings => (Some(Self::Meta), "serving"),
            Self::States => (Some(Self::Meta), "datapath"),
            Self::Temporary => (Some(Self::Meta), "tmp"),
        }
    }
}

/// A file of an SR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry<'a> {
    /// The SR's record.
    Sr,
    Numbers,
    Used,
    Ballast,
    Layer(Layer),
    Map(Layer),
    Index(u32),
    /// A volume's record.
    Volume(&'a Name),
    Serving(&'a Name),
    /// A plugin's state of a volume.
    State(&'a Name),
    /// Its lock.
    StateLock(&'a Name),
    /// Any file of a directory, by its name.
    Named(Directory, &'a str),
}

/// The files of the SR itself.
pub(crate) const OWN: [Entry<'static>; 4] =
    [Entry::Sr, Entry::Numbers, Entry::Used, Entry::Ballast];

impl Entry<'_> {
    /// The directory that it lies in.
    pub(super) fn directory(self) -> Directory {
        match self {
            Self::Sr | Self::Numbers | Self::Used | Self::Ballast => Directory::Meta,
            Self::Layer(_) => Directory::Data,
            Self::Map(_) => Directory::Maps,
            Self::Index(_) => Directory::Indexes,
            Self::Volume(_) => Directory::Volumes,
            Self::Serving(_) => Directory::Servings,
            Self::State(_) | Self::StateLock(_) => Directory::States,
            Self::Named(directory, _) => directory,
        }
    }

    /// Whether the memory of the file counts as used. That of the SR's own files, which an empty SR has
    /// too, does not: it is promised beside the size.
    pub(crate) fn is_counted(self) -> bool {
        !OWN.contains(&self)
    }

    /// Whether it has this name.
    pub(crate) fn is_named(self, name: &str) -> bool {
        self.with_name(|own| own == name)
    }

    /// Calls `act` with its name there: one component, never a path.
    pub(super) fn with_name<T>(self, act: impl FnOnce(&str) -> T) -> T {
        match self {
            Self::Sr => act("sr.json"),
            Self::Numbers => act("numbers"),
            Self::Used => act("used"),
            Self::Ballast => act("ballast"),
            Self::Layer(number) | Self::Map(number) | Self::Index(number) => {
                act(&number_name(number))
            }
            Self::Volume(key) | Self::Serving(key) | Self::State(key) => act(key.as_str()),
            Self::StateLock(key) => act(&format!("{key}{STATE_LOCK_SUFFIX}")),
            Self::Named(_, name) => act(name),
        }
    }
}

/// The file name of a layer, map or index.
pub(crate) fn number_name(number: u32) -> String {
    format!("{number:08x}")
}

/// The number that a file name of the form of [`number_name`] stands for.
pub(crate) fn parse_number(name: &str) -> Option<u32> {
    (name.len() == 8).then(|| u32::from_str_radix(name, 16).ok()).flatten()
}
