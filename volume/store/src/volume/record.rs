//! A volume's record: `meta/volume/<key>`. Renaming it into place is what commits an operation.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    block::{Layer, NEVER},
    error::Result,
    host::Name,
    sr::{Layout, files},
};

/// What the store knows of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) key: String,
    pub(crate) name: String,
    pub(crate) description: String,
    /// Virtual size, bytes.
    pub(crate) size: u64,
    pub(crate) sharable: bool,
    /// The layer that the volume owns and writes to; 0: none, it is a snapshot.
    pub(crate) top: Layer,
    /// The layer that it owned before, while its tapdisk may not have let go of it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) leaving: Option<Layer>,
    /// The number of its index.
    pub(crate) index: u32,
    /// The index that it started from, which compose compares with; `None`: it started empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) base: Option<u32>,
    /// Volumes of different families share nothing.
    pub(crate) family: u32,
    /// Whether something lies, or once lay, below its top: then a discarded block is an update.
    pub(crate) history: bool,
    /// Frozen layers that no other volume's data needs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) sole: Vec<Layer>,
    /// Whether its data exists; its map always does.
    pub(crate) has_data: bool,
    pub(crate) cbt_enabled: bool,
    /// Known only to the datapath: the clone of a non-persistent disk.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) hidden: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) keys: BTreeMap<String, String>,
}

impl Record {
    /// Whether it can be written.
    pub(crate) fn read_write(&self) -> bool {
        self.top != NEVER
    }

    /// The layers that only it may write to.
    pub(crate) fn owned(&self) -> impl Iterator<Item = Layer> + use<> {
        Some(self.top).filter(|&top| top != NEVER).into_iter().chain(self.leaving)
    }

    /// Commits.
    pub(crate) fn write(&self, layout: &Layout) -> Result<()> {
        files::replace_json(layout, &layout.volume(&Name::parse(&self.key)?), self)
    }
}
