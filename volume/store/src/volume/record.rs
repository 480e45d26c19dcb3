//! A volume's record: `meta/volume/<key>`. Renaming it into place is what commits an operation.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::Loan;
use crate::{
    block::{BLOCK_BYTES, Layer, NEVER, VOLUME_BYTES_MAX},
    error::{Error, Kind, Result},
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
    /// Layers that it owned before, while its tapdisk may not have let go of them yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) leaving: Vec<Layer>,
    /// The number of its index.
    pub(crate) index: u32,
    /// The index that it started from, which compose compares with; `None`: it started empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) base: Option<u32>,
    /// Volumes without a common family share nothing. One that was composed has two.
    pub(crate) families: Vec<u32>,
    /// Frozen layers that no other volume's data needs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) sole: Vec<Layer>,
    /// Whether its data exists; its map always does.
    pub(crate) has_data: bool,
    pub(crate) cbt_enabled: bool,
    /// Not shown to callers: the clone of a non-persistent disk, or what a copy needs meanwhile.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) hidden: bool,
    /// The volume in whose place the clone of a non-persistent disk is served. Without it, or once
    /// the datapath's record of it does not name the clone, nobody will ever ask for the clone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<String>,
    /// Copied into by the process that holds it; without one, nothing that is of use.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) unfinished: bool,
    /// The foreign process that serves it from a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) loan: Option<Loan>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) keys: BTreeMap<String, String>,
}

impl Record {
    /// Reads the record of a volume; `None` where there is no such volume.
    pub(crate) fn read(layout: &Layout, key: &Name) -> Result<Option<Self>> {
        let path = layout.volume(key);
        let record: Option<Self> = files::read_json(&path).map_err(|error| match error.kind() {
            Kind::Corrupt => damaged(layout, key, &error),
            _ => error,
        })?;
        let wrong = record.as_ref().and_then(|record| record.contradiction(key));
        match wrong {
            Some(wrong) => {
                Err(damaged(layout, key, &format_args!("{} is damaged ({wrong})", path.display())))
            }
            None => Ok(record),
        }
    }

    /// What no record of the volume `key` says.
    fn contradiction(&self, key: &Name) -> Option<String> {
        if self.key != key.as_str() {
            return Some(format!("it is about volume {:?}", self.key));
        }
        let size = self.size;
        let possible = size > 0 && size.is_multiple_of(BLOCK_BYTES) && size <= VOLUME_BYTES_MAX;
        (!possible).then(|| format!("a volume cannot have a size of {size}"))
    }

    /// The error for a volume of which something is missing or makes no sense.
    pub(crate) fn damaged(&self, layout: &Layout, error: &Error) -> Error {
        match Name::parse(&self.key) {
            Ok(key) => damaged(layout, &key, &error.chain()),
            Err(error) => error,
        }
    }

    /// Whether it is the clone of a non-persistent disk that nobody will ever ask for.
    pub(crate) fn is_orphan(&self, layout: &Layout) -> Result<bool> {
        let Some(owner) = &self.owner else { return Ok(false) };
        let owner = Name::parse(owner)?;
        Ok(!layout.volume(&owner).exists()
            || !files::mentions(&layout.datapath(&owner), &self.key)?)
    }

    /// Whether it can be written.
    pub(crate) fn read_write(&self) -> bool {
        self.top != NEVER
    }

    /// Whether the two may share layers.
    pub(crate) fn is_related(&self, other: &Self) -> bool {
        shares(&self.families, &other.families)
    }

    /// Those of `records` that may share layers with this one, or with one that does, and so on:
    /// all that has to be looked at to say what one of them alone needs.
    pub(crate) fn relatives(&self, records: Vec<Self>) -> Vec<Self> {
        let mut families = self.families.clone();
        loop {
            let before = families.len();
            for record in &records {
                if shares(&record.families, &families) {
                    families.extend(&record.families);
                }
            }
            families.sort_unstable();
            families.dedup();
            if families.len() == before {
                let related = |record: &Self| shares(&record.families, &families);
                return records.into_iter().filter(related).collect();
            }
        }
    }

    /// Belongs from now on to the families of `other` too.
    pub(crate) fn join(&mut self, other: &Self) {
        self.families.extend(&other.families);
        self.families.sort_unstable();
        self.families.dedup();
    }

    /// The layers that only it may write to.
    pub(crate) fn owned(&self) -> impl Iterator<Item = Layer> {
        self.own_top().into_iter().chain(self.leaving.iter().copied())
    }

    /// The layer that it writes to.
    pub(crate) fn own_top(&self) -> Option<Layer> {
        Some(self.top).filter(|&top| top != NEVER)
    }

    /// Commits.
    pub(crate) fn write(&self, layout: &Layout) -> Result<()> {
        files::replace_json(layout, &layout.volume(&Name::parse(&self.key)?), self)
    }
}

fn damaged(layout: &Layout, key: &Name, what: &dyn fmt::Display) -> Error {
    let sr = layout.uuid();
    Error::new(
        Kind::Corrupt,
        format!(
            "volume {key} is damaged: {what}; it cannot be used, and nothing that it may share with \
             other volumes is freed as long as it is there; destroy it (volume-plugin \
             Volume.destroy --sr {sr} --key {key})"
        ),
    )
}

fn shares(some: &[u32], others: &[u32]) -> bool {
    some.iter().any(|family| others.contains(family))
}
