//! Where everything of an SR lies. Two directories, as root each a tmpfs of its own, so that an
//! SR full of data can still be changed:
//!
//! ```text
//! <sr root>/<uuid>/data/<layer>            a layer: block b of a volume at b * 4096, sparse
//! <sr root>/<uuid>/meta/sr.json            the SR's record; what has none is not an SR (any more)
//!                      /numbers            the next number of a layer or an index
//!                      /volume/<key>       a volume's record; what has none is not a volume
//!                      /index/<number>     u32 per 4 MiB of a volume: the layer whose map has the page
//!                      /map/<layer>        u32 per block of a layer's volume, pages sparse
//!                      /serving/<key>      locked (flock) by the process that serves the volume
//!                      /datapath/<key>     what the datapath plugin knows of the volume: the key of the
//!                                          hidden clone in its place stands there in plain text
//!                      /datapath/<key>.lock  locked (flock) while a call of the datapath works on it
//!                      /tmp/               files that are about to be renamed into place
//!                      /used               blocks in use, where no tmpfs of its own counts them
//!                      /ballast            given up before metadata is written on a full tmpfs
//! ```
//!
//! Numbers are eight hexadecimal digits. Integers in files are in the host's byte order: memory
//! never leaves its host.

use std::path::{Path, PathBuf};

use crate::{block::Layer, host::Name};

/// What is added to the name of a datapath's record for its lock.
pub const DATAPATH_LOCK_SUFFIX: &str = ".lock";

/// The paths of one SR.
#[derive(Clone, Debug)]
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
        (layout.volume(&key) == path && layout.record().exists()).then_some((layout, key))
    }

    /// The directory of the SR.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The name of the SR's directory, its UUID.
    pub(crate) fn uuid(&self) -> impl std::fmt::Display {
        self.root.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    pub(crate) fn meta(&self) -> PathBuf {
        self.root.join("meta")
    }

    pub(crate) fn record(&self) -> PathBuf {
        self.root.join("meta/sr.json")
    }

    pub(crate) fn numbers(&self) -> PathBuf {
        self.root.join("meta/numbers")
    }

    pub(crate) fn ballast(&self) -> PathBuf {
        self.root.join("meta/ballast")
    }

    pub(crate) fn used(&self) -> PathBuf {
        self.root.join("meta/used")
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("meta/tmp")
    }

    pub(crate) fn volumes(&self) -> PathBuf {
        self.root.join("meta/volume")
    }

    /// The record of a volume: the path that `ram:` URIs of tapdisks name.
    #[must_use]
    pub fn volume(&self, key: &Name) -> PathBuf {
        self.volumes().join(key.as_str())
    }

    pub(crate) fn indexes(&self) -> PathBuf {
        self.root.join("meta/index")
    }

    pub(crate) fn index(&self, number: u32) -> PathBuf {
        self.indexes().join(number_name(number))
    }

    pub(crate) fn maps(&self) -> PathBuf {
        self.root.join("meta/map")
    }

    pub(crate) fn map(&self, layer: Layer) -> PathBuf {
        self.maps().join(number_name(layer))
    }

    pub(crate) fn layer(&self, layer: Layer) -> PathBuf {
        self.data().join(number_name(layer))
    }

    pub(crate) fn servings(&self) -> PathBuf {
        self.root.join("meta/serving")
    }

    pub(crate) fn serving(&self, key: &Name) -> PathBuf {
        self.servings().join(key.as_str())
    }

    /// Where the datapath plugin keeps what it knows of a volume; it vanishes with the SR.
    #[must_use]
    pub fn datapath(&self, key: &Name) -> PathBuf {
        self.datapaths().join(key.as_str())
    }

    pub(crate) fn datapaths(&self) -> PathBuf {
        self.root.join("meta/datapath")
    }

    /// Whether a path directly below `meta` is one of those that this module knows.
    pub(crate) fn is_metadata(&self, path: &Path) -> bool {
        let files = [self.record(), self.numbers(), self.ballast(), self.used()];
        files.iter().chain(&self.directories()).any(|known| known == path)
    }

    /// Every directory of an SR below its two file systems.
    pub(crate) fn directories(&self) -> [PathBuf; 6] {
        [self.volumes(), self.indexes(), self.maps(), self.servings(), self.datapaths(), self.tmp()]
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
