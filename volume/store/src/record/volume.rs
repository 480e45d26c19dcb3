//! A volume's record: `meta/volume/<key>`. Renaming it into place is what commits an operation.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{ExternalHolder, Serving, Unknown, blocks_in};
use crate::{
    block::{BLOCK_BYTES, Layer, NEVER, SECTOR_BYTES, VOLUME_BYTES_MAX},
    error::{Error, ErrorKind, Result},
    files::{self, Directory, Dirs, Entry},
    host::Name,
};

/// The record of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) key: Name,
    pub(crate) name: String,
    pub(crate) description: String,
    /// Virtual size, bytes.
    pub(crate) size: u64,
    pub(crate) sharable: bool,
    /// The layer that the volume owns and writes to; 0: none, it is a snapshot.
    pub(crate) top: Layer,
    /// Earlier tops that its tapdisk may still write to, because a switch was not acknowledged.
    #[serde(default, rename = "leaving", skip_serializing_if = "Vec::is_empty")]
    pub(crate) previous_tops: Vec<Layer>,
    /// The number of its index.
    pub(crate) index: u32,
    /// The index that it started from, which compose compares with; `None`: it started empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) base: Option<u32>,
    /// Volumes without a common group share nothing. A volume that was composed has the groups of
    /// both.
    #[serde(rename = "families")]
    pub(crate) sharing_groups: Vec<u32>,
    /// Frozen layers that no other volume's data needs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) sole: Vec<Layer>,
    /// Frozen layers whose map pages no other index names, be it one of a volume without data or one that
    /// a clone started from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) sole_maps: Vec<Layer>,
    /// Whether a process that serves it may not know all of the two: then it may have left blocks and pages of
    /// those layers that no map names.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) untold: bool,
    /// Whether its data exists; its map always does.
    pub(crate) has_data: bool,
    pub(crate) cbt_enabled: bool,
    /// Not shown to callers: the clone of a non-persistent disk, or the source or destination of a
    /// copy under way.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) hidden: bool,
    /// The volume in whose place the clone of a non-persistent disk is served. The clone goes with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<Name>,
    /// The destination of a copy or a write-back. It is garbage if no process holds it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) unfinished: bool,
    /// The foreign process that serves the volume from a copy of its own.
    #[serde(default, rename = "loan", skip_serializing_if = "Option::is_none")]
    pub(crate) external_holder: Option<ExternalHolder>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) keys: BTreeMap<String, String>,
    #[serde(flatten)]
    pub(crate) unknown: Unknown,
}

impl Record {
    /// Reads the record of a volume; `None` where there is no such volume.
    pub(crate) fn read(dirs: &Dirs, key: &Name) -> Result<Option<Self>> {
        let entry = Entry::Volume(key);
        let record: Option<Self> = files::read_json(dirs, entry).map_err(|error| {
            if error.kind() == ErrorKind::Corrupt {
                damaged(dirs, key, &error.chain())
            } else {
                error
            }
        })?;
        let wrong = record.as_ref().and_then(|record| record.contradiction(key));
        match wrong {
            Some(wrong) => {
                let path = dirs.path(entry);
                Err(damaged(dirs, key, &format_args!("{} is damaged ({wrong})", path.display())))
            }
            None => Ok(record),
        }
    }

    /// A reason why this cannot be the record of volume `key`.
    fn contradiction(&self, key: &Name) -> Option<String> {
        if self.key != *key {
            return Some(format!("it is about volume {}", self.key));
        }
        let size = self.size;
        let possible = size > 0 && size.is_multiple_of(SECTOR_BYTES) && size <= VOLUME_BYTES_MAX;
        (!possible).then(|| format!("a volume cannot have a size of {size}"))
    }

    /// The error for a volume of which something is missing or makes no sense.
    pub(crate) fn damaged(&self, dirs: &Dirs, error: &Error) -> Error {
        damaged(dirs, &self.key, &error.chain())
    }

    /// Whether it is the clone of a non-persistent disk that no call will ask for any more: its volume is
    /// destroyed, or no plugin remembers anything of the volume.
    pub(crate) fn is_orphan(&self, dirs: &Dirs) -> Result<bool> {
        let Some(owner) = &self.owner else { return Ok(false) };
        Ok(!dirs.exists(Entry::Volume(owner))? || !dirs.exists(Entry::State(owner))?)
    }

    /// Whether it can be written.
    pub(crate) fn read_write(&self) -> bool {
        self.top != NEVER
    }

    /// Whether the two may share layers.
    pub(crate) fn may_share(&self, other: &Self) -> bool {
        shares(&self.sharing_groups, &other.sharing_groups)
    }

    /// Those of `records` that may share layers with this one, or with one that does, and so on:
    /// all that have to be examined to find the layers that one of them alone needs.
    pub(crate) fn sharing_with(&self, records: Vec<Self>) -> Vec<Self> {
        let mut sharing_groups = self.sharing_groups.clone();
        loop {
            let before = sharing_groups.len();
            for record in &records {
                if shares(&record.sharing_groups, &sharing_groups) {
                    sharing_groups.extend(&record.sharing_groups);
                }
            }
            sharing_groups.sort_unstable();
            sharing_groups.dedup();
            if sharing_groups.len() == before {
                let related = |record: &Self| shares(&record.sharing_groups, &sharing_groups);
                return records.into_iter().filter(related).collect();
            }
        }
    }

    /// Adds the sharing groups of `other`.
    pub(crate) fn join(&mut self, other: &Self) {
        self.sharing_groups.extend(&other.sharing_groups);
        self.sharing_groups.sort_unstable();
        self.sharing_groups.dedup();
    }

    /// Gives up the sole sets, before another volume names the same layers.
    pub(crate) fn clear_sole(&mut self) {
        self.take_sole();
    }

    /// Gives up the sole sets: of the layers' data, and of their map pages.
    pub(crate) fn take_sole(&mut self) -> (Vec<Layer>, Vec<Layer>) {
        self.untold = false;
        (std::mem::take(&mut self.sole), std::mem::take(&mut self.sole_maps))
    }

    /// Bytes of data that it refers to. Where its index does not say, because a program of the version
    /// before has written it: what is known to be its own.
    pub(crate) fn data_bytes(&self, dirs: &Dirs) -> u64 {
        if !self.has_data {
            return 0;
        }
        if let Some(blocks) = blocks_in(dirs, self.index) {
            return blocks * BLOCK_BYTES;
        }
        let own = self.own_top().into_iter().chain(self.sole.iter().copied());
        own.map(|layer| dirs.allocated(Entry::Layer(layer))).sum()
    }

    /// What its texts take, in bytes.
    pub(crate) fn texts_bytes(&self) -> usize {
        let keys = self.keys.iter().map(|(key, value)| key.len() + value.len());
        self.name.len() + self.description.len() + keys.sum::<usize>()
    }

    /// The layers that this volume may write to.
    pub(crate) fn owned(&self) -> impl Iterator<Item = Layer> {
        self.own_top().into_iter().chain(self.previous_tops.iter().copied())
    }

    /// The layer that it writes to.
    pub(crate) fn own_top(&self) -> Option<Layer> {
        Some(self.top).filter(|&top| top != NEVER)
    }

    /// Commits.
    pub(crate) fn write(&self, dirs: &Dirs) -> Result<()> {
        files::replace_json(dirs, Entry::Volume(&self.key), self)
    }
}

impl Record {
    /// The external holder, if it is alive.
    pub(crate) fn living_holder(&self) -> Result<Option<Serving>> {
        match &self.external_holder {
            Some(holder) if holder.lives()? => Ok(Some(holder.serving.clone())),
            _ => Ok(None),
        }
    }

    /// Refuses an operation if a foreign process serves the volume.
    pub(crate) fn require_no_external_holder(&self, act: &str) -> Result<()> {
        let Some(Serving { pid, minor, .. }) = self.living_holder()? else { return Ok(()) };
        Err(Error::new(
            ErrorKind::VolumeInUse,
            format!(
                "volume {} is active in the host's own tapdisk (process {pid}, minor {minor}; \
                 device-config:tapdisk=blktap) and cannot be {act} meanwhile: unplug it first \
                 (xe vbd-unplug)",
                self.key
            ),
        ))
    }
}

fn damaged(dirs: &Dirs, key: &Name, what: &dyn fmt::Display) -> Error {
    let sr = dirs.layout().uuid();
    Error::new(
        ErrorKind::Corrupt,
        format!(
            "volume {key} is damaged: {what}; it cannot be used, and nothing that it may share with \
             other volumes is freed as long as it is there; destroy it (volume-plugin \
             Volume.destroy --sr {sr} --key {key})"
        ),
    )
}

fn shares(some: &[u32], others: &[u32]) -> bool {
    some.iter().any(|group| others.contains(group))
}

/// A volume whose record cannot be understood: its contents, and the layers that it shares with
/// others, are not known.
#[derive(Debug)]
pub struct Damaged {
    /// Its key.
    pub key: Name,
    /// The error, with the file and the remedy.
    pub error: Error,
}

/// All volumes of an SR, each by its key.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) sound: Vec<Record>,
    pub(crate) damaged: Vec<Damaged>,
}

impl Records {
    /// Reads all of them with `read`.
    pub(crate) fn read(
        dirs: &Dirs,
        read: impl Fn(&Name) -> Result<Option<Record>>,
    ) -> Result<Self> {
        let mut found = Self::default();
        for key in dirs.names(Directory::Volumes)? {
            match read(&key) {
                // One that is destroyed meanwhile is simply not there.
                Ok(record) => found.sound.extend(record),
                Err(error) => found.damaged.push(Damaged { key, error }),
            }
        }
        found.sound.sort_by(|a, b| a.key.cmp(&b.key));
        found.damaged.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// All records, for operations that have to know what each volume shares.
    pub(crate) fn all_sound(self) -> Result<Vec<Record>> {
        match self.damaged.into_iter().next() {
            Some(damaged) => Err(damaged.error),
            None => Ok(self.sound),
        }
    }
}
