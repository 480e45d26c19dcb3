//! One SR: opening it, its properties, and its lock. Its life is in `life`, its volumes in
//! [`crate::volume`].

mod exclusive;
mod idle;
mod life;
mod mount;
mod plugin_state;
mod size;
mod swap;

use std::sync::{Arc, Mutex, PoisonError};

pub(crate) use self::idle::check_idle;
pub use self::{
    exclusive::Exclusive, life::Summary, plugin_state::PluginState, size::Resized, swap::Swap,
};
use crate::{
    budget::{OVERHEAD_BYTES, Usage, free, recount},
    error::{Error, ErrorKind, Result},
    files::{Directory, Dirs, Entry, Layout, remove_temporary_of_dead},
    host::{Host, Name},
    record::{AtDetach, Restored, sr::Record},
};

/// An SR by its handle. These methods change nothing; those that do are methods of [`Exclusive`],
/// which [`Sr::lock`] returns.
#[derive(Clone, Debug)]
pub struct Sr {
    host: Host,
    uuid: Name,
    layout: Layout,
    opened: Arc<Mutex<Option<Opened>>>,
}

/// An SR's directories, and its record as it was read last.
#[derive(Clone, Debug)]
struct Opened {
    dirs: Dirs,
    record: Arc<Record>,
    /// Which file it was read from: a record is replaced by another file and never written to.
    version: Version,
}

/// Tells one version of a record from the next: inode and time of change.
type Version = (u64, i64, u64);

/// The properties of an SR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SrStat {
    /// Its UUID, which is also its handle.
    pub uuid: Name,
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// Bytes that data and metadata may take.
    pub total: u64,
    /// Bytes that data takes.
    pub used: u64,
    /// Bytes that metadata takes, without that of an empty SR.
    pub metadata: u64,
    /// Bytes that can still be written. If it is 1 MiB or more, the next write of a block succeeds, unless
    /// the memory of the host has fallen below its watermark since.
    pub free: u64,
    /// Whether xapi has it attached.
    pub attached: bool,
    /// Where it is saved; empty: nowhere.
    pub save_dir: String,
    /// Whether the kernel is to be allowed to swap its memory.
    pub swap_wanted: bool,
    /// Whether it is.
    pub swap: Swap,
    /// The save that it was made of, if it was.
    pub restored: Option<Restored>,
}

impl SrStat {
    /// Bytes that were promised to it and are not in use yet.
    #[must_use]
    pub fn promised(&self) -> u64 {
        (self.total + OVERHEAD_BYTES).saturating_sub(self.used + self.metadata)
    }
}

impl Sr {
    /// Opens an attached SR by its handle.
    ///
    /// # Errors
    /// [`ErrorKind::SrNotAttached`] where it is not attached on this host.
    pub fn open(host: &Host, handle: &str) -> Result<Self> {
        let sr = Self::named(host, &Name::parse(handle)?);
        sr.attached()?;
        Ok(sr)
    }

    /// An SR that may not be there.
    fn named(host: &Host, uuid: &Name) -> Self {
        let layout = Layout::new(&host.sr_root, uuid);
        Self { host: host.clone(), layout, uuid: uuid.clone(), opened: Arc::default() }
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

    /// Its properties.
    ///
    /// # Errors
    /// [`ErrorKind::SrNotAttached`], or an error of reading its memory.
    pub fn stat(&self) -> Result<SrStat> {
        let (dirs, record) = self.attached()?;
        // Killed processes may have left files, and the count wrong.
        remove_temporary_of_dead(&dirs)?;
        let usage = recount(&dirs)?;
        self.stat_of(&dirs, &record, Some(usage))
    }

    /// Bytes that data and metadata take, and bytes that can still be written: by what is counted, which
    /// [`stat`](Self::stat) repairs where processes were killed.
    ///
    /// # Errors
    /// As [`Sr::stat`].
    pub fn space(&self) -> Result<(u64, u64)> {
        let (dirs, record) = self.attached()?;
        let Usage { data, metadata } = Usage::of(&dirs)?;
        Ok((data + metadata, free(&dirs, record.size)?))
    }

    /// How many layers its volumes consist of.
    ///
    /// # Errors
    /// [`ErrorKind::SrNotAttached`], or an error of reading its memory.
    pub fn layers(&self) -> Result<usize> {
        Ok(self.attached()?.0.numbers(Directory::Data)?.len())
    }

    /// `usage`: where it was just measured.
    fn stat_of(&self, dirs: &Dirs, record: &Record, usage: Option<Usage>) -> Result<SrStat> {
        let Usage { data, metadata } = usage.map_or_else(|| Usage::of(dirs), Ok)?;
        Ok(SrStat {
            uuid: self.uuid.clone(),
            name: record.name.clone(),
            description: record.description.clone(),
            total: record.size,
            used: data,
            metadata,
            free: free(dirs, record.size)?,
            attached: record.attached,
            save_dir: record.save_dir.clone(),
            swap_wanted: record.swap,
            swap: Swap::of(&self.layout, record.swap),
            restored: record.restored.clone(),
        })
    }

    /// Bytes that data and metadata may take.
    ///
    /// # Errors
    /// [`ErrorKind::SrNotAttached`].
    pub fn size(&self) -> Result<u64> {
        Ok(self.attached()?.1.size)
    }

    /// The text that the plugins keep with it: see [`Attachment`](crate::Attachment).
    ///
    /// # Errors
    /// [`ErrorKind::SrNotAttached`].
    pub fn provider(&self) -> Result<String> {
        Ok(self.attached()?.1.provider.clone())
    }

    /// Where it is saved, empty: nowhere, and what of it when it is detached.
    ///
    /// # Errors
    /// [`ErrorKind::SrNotAttached`].
    pub fn saving(&self) -> Result<(String, AtDetach)> {
        let record = self.attached()?.1;
        Ok((record.save_dir.clone(), record.at_detach))
    }

    /// Whether the kernel is to be allowed to swap its memory, and whether it is.
    ///
    /// # Errors
    /// [`ErrorKind::SrNotAttached`].
    pub fn swap(&self) -> Result<(bool, Swap)> {
        let wanted = self.attached()?.1.swap;
        Ok((wanted, Swap::of(&self.layout, wanted)))
    }

    /// Takes the SR's lock, and with it the right to change the SR.
    ///
    /// # Errors
    /// [`ErrorKind::SrNotAttached`]; [`ErrorKind::Busy`] where another process has the lock for a minute.
    pub fn lock(&self) -> Result<Exclusive<'_>> {
        Exclusive::take(self)
    }

    /// The directories of an attached SR, and its record.
    pub(crate) fn attached(&self) -> Result<(Dirs, Arc<Record>)> {
        match self.found()? {
            Some((dirs, record)) if record.attached => Ok((dirs, record)),
            _ => Err(Error::new(
                ErrorKind::SrNotAttached,
                format!(
                    "SR {} is not attached on this host: plug its PBD (xe pbd-plug)",
                    self.uuid
                ),
            )),
        }
    }

    /// The directories of the SR that is there now, attached or not, and its record, which is read
    /// only where it is another one than before.
    fn found(&self) -> Result<Option<(Dirs, Arc<Record>)>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = opened.as_ref()
            && known.dirs.is_current()
            && Some(known.version) == version(&known.dirs)?
        {
            return Ok(Some((known.dirs.clone(), Arc::clone(&known.record))));
        }
        *opened = None;
        let Some(dirs) = Dirs::open(&self.layout)? else { return Ok(None) };
        // Taken before the record is read: should that be replaced meanwhile, it is read again.
        let Some(version) = version(&dirs)? else { return Ok(None) };
        let Some(record) = Record::read(&dirs)?.map(Arc::new) else { return Ok(None) };
        *opened = Some(Opened { dirs: dirs.clone(), record: Arc::clone(&record), version });
        Ok(Some((dirs, record)))
    }
}

/// The version of an SR's record that is there now, if there is one.
fn version(dirs: &Dirs) -> Result<Option<Version>> {
    let found = match dirs.find(Entry::Sr) {
        // Something else lies where an SR has a directory.
        Err(error) if error.kind() == ErrorKind::Corrupt => None,
        found => found?,
    };
    Ok(found.map(|found| (found.st_ino, found.st_ctime, found.st_ctime_nsec)))
}
