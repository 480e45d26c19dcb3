//! Volumes, and all operations on them that do not look into their bytes.

mod change;
mod check;
mod collect;
mod compare;
mod compose;
mod content_id;
mod copy;
mod create;
mod destroy;
mod free;
mod let_go;
mod revert;
mod sharing;
mod snapshot;
mod sole;
mod still;
mod transfer;
mod write_back;

use std::collections::BTreeMap;

pub use self::{
    compare::{ChangedBlocks, GRANULE_BYTES},
    create::NewVolume,
    still::{Blocks, Reader, Still},
    transfer::{Incoming, Outgoing},
    write_back::WriteBack,
};
use crate::{
    error::{Error, ErrorKind, Result},
    files::Dirs,
    host::Name,
    record::{self, Damaged, Record, Records},
    sr::Sr,
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
    /// Bytes of data that it refers to, whether it shares them or not. While it is served, this may be
    /// 1 MiB behind.
    pub utilisation: u64,
    /// Keys and values that callers keep with it.
    pub keys: BTreeMap<String, String>,
    /// Whether changed block tracking is on, as far as callers are concerned.
    pub cbt_enabled: bool,
    /// Whether there is data; without, only what changed can be told.
    pub has_data: bool,
    /// Volumes without a common number here share no memory; those with one may.
    pub sharing_groups: Vec<u32>,
}

impl Sr {
    /// One volume.
    ///
    /// # Errors
    /// [`ErrorKind::SrNotAttached`]; [`ErrorKind::VolumeMissing`] or [`ErrorKind::VolumeLost`].
    pub fn volume(&self, key: &str) -> Result<Volume> {
        let (dirs, sr) = self.attached()?;
        let key = Name::parse(key)?;
        match Record::read(&dirs, &key)? {
            Some(record) => Ok(Volume::of(&dirs, record)),
            None => Err(self.missing(&key, &sr)),
        }
    }

    /// All volumes but those that only a datapath knows of.
    ///
    /// # Errors
    /// [`ErrorKind::SrNotAttached`], or an error of reading its memory.
    ///
    /// Those of which something is missing or makes no sense are left out: see [`Sr::list`].
    pub fn volumes(&self) -> Result<Vec<Volume>> {
        Ok(self.list()?.0)
    }

    /// All volumes, and the damaged ones that [`Sr::volumes`] leaves out.
    ///
    /// # Errors
    /// As [`Sr::volumes`].
    pub fn list(&self) -> Result<(Vec<Volume>, Vec<Damaged>)> {
        let (dirs, _) = self.attached()?;
        let Records { sound, damaged } = Records::read(&dirs, |key| Record::read(&dirs, key))?;
        let shown = sound.into_iter().filter(|it| !it.hidden);
        Ok((shown.map(|it| Volume::of(&dirs, it)).collect(), damaged))
    }

    /// The volumes whose records cannot be understood. Nothing that they may share with others is
    /// freed before they are destroyed, which [`Exclusive::destroy_volume`](crate::Exclusive) does.
    ///
    /// # Errors
    /// [`ErrorKind::SrNotAttached`], or an error of reading the SR's memory.
    pub fn damaged(&self) -> Result<Vec<Damaged>> {
        let (dirs, _) = self.attached()?;
        // An SR may have thousands of sound ones, which take memory.
        let look = |key: &Name| Record::read(&dirs, key).map(|_sound| None);
        Ok(Records::read(&dirs, look)?.damaged)
    }

    /// The error for a volume that is not there: was it lost with an earlier memory?
    pub(crate) fn missing(&self, key: &Name, sr: &record::sr::Record) -> Error {
        let is_uuid = key.as_str().len() == 36;
        let uuid = self.uuid();
        if is_uuid && !key.as_str().starts_with(&sr.generation) {
            return Error::new(
                ErrorKind::VolumeLost,
                format!(
                    "volume {key} does not exist any more: the contents of this RAM disk were lost \
                     when the host restarted; run xe sr-scan uuid={uuid}"
                ),
            );
        }
        Error::new(
            ErrorKind::VolumeMissing,
            format!(
                "there is no volume {key} in SR {uuid}; if xapi still lists it, run xe sr-scan uuid={uuid}"
            ),
        )
    }
}

impl Volume {
    /// As a record describes it.
    pub(crate) fn of(dirs: &Dirs, record: Record) -> Self {
        let content_id = record.content_id();
        let volume = Self {
            utilisation: record.data_bytes(dirs),
            read_write: record.read_write(),
            key: record.key,
            name: record.name,
            description: record.description,
            sharable: record.sharable,
            size: record.size,
            keys: record.keys,
            cbt_enabled: record.cbt_enabled,
            has_data: record.has_data,
            sharing_groups: record.sharing_groups,
        };
        volume.with_content_id(content_id)
    }
}
