//! Volumes: what one is, and everything that is done to one while nobody looks into its bytes.

mod change;
mod check;
mod collect;
mod compare;
mod compose;
mod copy;
mod create;
mod destroy;
mod family;
mod free;
mod lend;
mod live;
mod record;
mod revert;
mod snapshot;
mod sole;
mod view;

use std::{collections::BTreeMap, fs};

pub use self::{
    compare::{ChangedBlocks, GRANULE_BYTES},
    create::NewVolume,
    lend::{Loan, Return},
    live::{Inactive, Live, Switch},
};
pub(crate) use self::{
    record::Record,
    view::{Index, write_index},
};
use crate::{
    error::{Error, Kind, Result},
    host::Name,
    sr::{self, Sr},
};

/// A volume as the outside sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its key.
    pub key: Name,
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// Whether it can be written.
    pub read_write: bool,
    /// Whether several hosts may be told to share it.
    pub sharable: bool,
    /// Virtual size in bytes.
    pub size: u64,
    /// Bytes of memory that destroying it would free.
    pub utilisation: u64,
    /// What callers keep with it.
    pub keys: BTreeMap<String, String>,
    /// Whether changed block tracking is on, as far as callers are concerned.
    pub cbt_enabled: bool,
    /// Whether there is data; without, only what changed can be told.
    pub has_data: bool,
}

/// A volume whose record cannot be understood: what it reads, and which layers it shares with
/// others, is not known.
#[derive(Debug)]
pub struct Damaged {
    /// Its key.
    pub key: Name,
    /// What is wrong, with which file, and what to do.
    pub error: Error,
}

/// All volumes of an SR, each by its key.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) sound: Vec<Record>,
    pub(crate) damaged: Vec<Damaged>,
}

impl Records {
    /// All of them, for whoever has to know of each what it shares.
    pub(crate) fn all_sound(self) -> Result<Vec<Record>> {
        match self.damaged.into_iter().next() {
            Some(damaged) => Err(damaged.error),
            None => Ok(self.sound),
        }
    }
}

impl Sr {
    /// One volume.
    ///
    /// # Errors
    /// [`Kind::SrNotAttached`]; [`Kind::VolumeMissing`] or [`Kind::VolumeLost`].
    pub fn volume(&self, key: &str) -> Result<Volume> {
        self.record()?;
        let key = Name::parse(key)?;
        Ok(self.describe(self.volume_record(&key)?))
    }

    /// All volumes but those that only a datapath knows of.
    ///
    /// # Errors
    /// [`Kind::SrNotAttached`], or what reading its memory gives.
    ///
    /// Those of which something is missing or makes no sense are left out: see [`Sr::list`].
    pub fn volumes(&self) -> Result<Vec<Volume>> {
        Ok(self.list()?.0)
    }

    /// The same, and what was left out.
    ///
    /// # Errors
    /// As [`Sr::volumes`].
    pub fn list(&self) -> Result<(Vec<Volume>, Vec<Damaged>)> {
        self.record()?;
        let Records { sound, damaged } = self.volume_records()?;
        let shown = sound.into_iter().filter(|it| !it.hidden);
        Ok((shown.map(|it| self.describe(it)).collect(), damaged))
    }

    /// The volumes whose records cannot be understood. Nothing that they may share with others is
    /// freed before they are destroyed, which [`Sr::destroy_volume`] does.
    ///
    /// # Errors
    /// [`Kind::SrNotAttached`], or what reading the SR's memory gives.
    pub fn damaged(&self) -> Result<Vec<Damaged>> {
        self.record()?;
        Ok(self.volume_records()?.damaged)
    }

    pub(crate) fn volume_records(&self) -> Result<Records> {
        let mut found = Records::default();
        for key in sr::names(&self.layout.volumes())? {
            match Record::read(&self.layout, &key) {
                // One that is destroyed meanwhile is simply not there.
                Ok(record) => found.sound.extend(record),
                Err(error) => found.damaged.push(Damaged { key, error }),
            }
        }
        found.sound.sort_by(|a, b| a.key.cmp(&b.key));
        found.damaged.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    pub(crate) fn volume_record(&self, key: &Name) -> Result<Record> {
        match Record::read(&self.layout, key)? {
            Some(record) => Ok(record),
            None => Err(self.missing(key)),
        }
    }

    /// The error for a volume that is not there: was it lost with an earlier memory?
    fn missing(&self, key: &Name) -> Error {
        let generation = self.record().map(|record| record.generation).unwrap_or_default();
        let is_uuid = key.as_str().len() == 36;
        let uuid = &self.uuid;
        if is_uuid && !key.as_str().starts_with(&generation) {
            return Error::new(
                Kind::VolumeLost,
                format!(
                    "volume {key} does not exist any more: the contents of this RAM disk were lost \
                     when the host restarted; run xe sr-scan uuid={uuid}"
                ),
            );
        }
        Error::new(
            Kind::VolumeMissing,
            format!(
                "there is no volume {key} in SR {uuid}; if xapi still lists it, run xe sr-scan uuid={uuid}"
            ),
        )
    }

    fn describe(&self, record: Record) -> Volume {
        let bytes =
            |layer| fs::metadata(self.layout.layer(layer)).map_or(0, |found| sr::allocated(&found));
        let own = record.own_top();
        Volume {
            utilisation: own.into_iter().chain(record.sole.iter().copied()).map(bytes).sum(),
            read_write: record.read_write(),
            key: Name::parse(&record.key).expect("the name of its own record"),
            name: record.name,
            description: record.description,
            sharable: record.sharable,
            size: record.size,
            keys: record.keys,
            cbt_enabled: record.cbt_enabled,
            has_data: record.has_data,
        }
    }
}
