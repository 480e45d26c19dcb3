//! One SR: opening it, what it says of itself, and its lock. Its life is in `life`, its volumes in
//! [`crate::volume`].

pub(crate) mod files;
pub(crate) mod layout;
mod life;
pub(crate) mod lock;
mod mount;
mod provider;
pub(crate) mod record;
pub(crate) mod steps;

use std::{fs, os::unix::fs::MetadataExt};

pub(crate) use self::life::names;
pub use self::{
    layout::{DATAPATH_LOCK_SUFFIX, Layout},
    life::{Serving, Summary},
    provider::Provider,
    record::Attachment,
};
use self::{lock::Lock, record::Record};
use crate::{
    block::BLOCK_BYTES,
    budget::Budget,
    error::{Context, Error, Kind, Result},
    host::{Host, Name},
};

/// An attached SR.
#[derive(Clone, Debug)]
pub struct Sr {
    pub(crate) host: Host,
    pub(crate) uuid: Name,
    pub(crate) layout: Layout,
}

/// What an SR says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SrStat {
    /// Its UUID, which is also its handle.
    pub uuid: Name,
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// Bytes that data may take.
    pub total: u64,
    /// Bytes that data takes.
    pub used: u64,
    /// Whether xapi has it attached.
    pub attached: bool,
}

impl SrStat {
    /// Bytes that are left.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.total.saturating_sub(self.used)
    }
}

impl Sr {
    /// Opens an attached SR by its handle.
    ///
    /// # Errors
    /// [`Kind::SrNotAttached`] where it is not attached on this host.
    pub fn open(host: &Host, handle: &str) -> Result<Self> {
        let uuid = Name::parse(handle)?;
        let sr = Self { host: host.clone(), layout: Layout::new(&host.sr_root, &uuid), uuid };
        sr.record()?;
        Ok(sr)
    }

    /// The SR's handle.
    #[must_use]
    pub fn uuid(&self) -> &Name {
        &self.uuid
    }

    /// Where its files lie.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What the SR says of itself.
    ///
    /// # Errors
    /// [`Kind::SrNotAttached`], or what reading its memory gives.
    pub fn stat(&self) -> Result<SrStat> {
        let record = self.record()?;
        Ok(self.stat_of(record, used(&self.layout)?))
    }

    pub(crate) fn stat_of(&self, record: Record, used: u64) -> SrStat {
        SrStat {
            uuid: self.uuid.clone(),
            name: record.name,
            description: record.description,
            total: record.size,
            used,
            attached: record.attached,
        }
    }

    /// Gives the SR another name.
    ///
    /// # Errors
    /// [`Kind::SrNotAttached`], or what writing its record gives.
    pub fn set_name(&self, name: &str) -> Result<()> {
        self.update(|record| name.clone_into(&mut record.name))
    }

    /// Gives the SR another description.
    ///
    /// # Errors
    /// [`Kind::SrNotAttached`], or what writing its record gives.
    pub fn set_description(&self, description: &str) -> Result<()> {
        self.update(|record| description.clone_into(&mut record.description))
    }

    /// Who serves its disks.
    ///
    /// # Errors
    /// [`Kind::SrNotAttached`].
    pub fn provider(&self) -> Result<Provider> {
        Ok(self.record()?.provider)
    }

    fn update(&self, change: impl FnOnce(&mut Record)) -> Result<()> {
        let _lock = self.lock()?;
        let mut record = self.record()?;
        change(&mut record);
        record.write(&self.layout)
    }

    /// The record of an attached SR.
    pub(crate) fn record(&self) -> Result<Record> {
        match Record::read(&self.layout)? {
            Some(record) if record.attached => Ok(record),
            _ => Err(Error::new(
                Kind::SrNotAttached,
                format!(
                    "SR {} is not attached on this host: plug its PBD (xe pbd-plug)",
                    self.uuid
                ),
            )),
        }
    }

    /// Takes the SR's lock: whoever holds it may change the SR's structure.
    pub(crate) fn lock(&self) -> Result<Lock> {
        let lock = Lock::sr(&self.host, &self.uuid)?;
        files::restore_ballast(&self.layout);
        Ok(lock)
    }
}

/// Bytes of data in use, by the file system's own count.
pub(crate) fn used(layout: &Layout) -> Result<u64> {
    if mount::is_mounted(layout) { mount::used(layout) } else { used_by_files(layout) }
}

/// Bytes allocated to the layers. Files that vanish meanwhile count as gone.
fn used_by_files(layout: &Layout) -> Result<u64> {
    let directory = layout.data();
    let entries =
        fs::read_dir(&directory).while_doing(|| format!("reading {}", directory.display()))?;
    Ok(entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|meta| allocated(&meta)).sum())
}

/// Bytes allocated to a file.
pub(crate) fn allocated(metadata: &fs::Metadata) -> u64 {
    metadata.blocks() * 512
}

/// The budget of whoever writes to a volume of this SR.
pub(crate) fn budget(layout: &Layout) -> Result<Budget> {
    if mount::is_mounted(layout) {
        return Ok(Budget::host());
    }
    let record = Record::read(layout)?.ok_or_else(|| {
        Error::new(Kind::SrMissing, format!("{} is not an SR", layout.root().display()))
    })?;
    Budget::counted(layout, record.size)
}

/// Counts anew what is in use, where nothing else counts it.
pub(crate) fn recount(layout: &Layout) -> Result<()> {
    if mount::is_mounted(layout) {
        return Ok(());
    }
    let blocks = used_by_files(layout)? / BLOCK_BYTES;
    Budget::set_used(layout, u32::try_from(blocks).unwrap_or(u32::MAX))
}
