//! Volumes that a foreign process serves from a copy of its own: the host's tapdisk, which loads an
//! image and never writes it back. Called by the datapath plugin.
//!
//! Such a process holds no lock of ours, so the volume's record says who has it. The loan counts
//! for as long as that process keeps its own file locked: one that died protects nothing, since
//! nothing can come back from it.
//!
//! What comes back is written into a hidden clone, which then takes the volume's place by the one
//! rename that also ends the loan. So, whenever anything dies, the volume reads what it read when
//! it was lent, or all that has come back; and what was not finished can be begun again. Only in an
//! SR that has no room for both it comes back in parts; the loan says so meanwhile.

use super::destroy::Destroyed;
use crate::{
    disk::Disk,
    error::{Error, ErrorKind, Result},
    files::{Dirs, Entry},
    host::Name,
    live::Inactive,
    record::{ExternalHolder, Record, Serving, View},
    sr::{Exclusive, Sr},
};

/// The contents of a lent volume on their way back: a clone of it, to be made equal to what the
/// borrower has. Dropped, it leaves nothing but garbage.
#[derive(Debug)]
pub struct WriteBack<'a> {
    sr: &'a Sr,
    volume: Name,
    copy: Name,
    disk: Disk,
}

impl Sr {
    /// What was written down by [`Exclusive::lend`], though the process may be dead by now.
    ///
    /// # Errors
    /// Those of [`Sr::volume`].
    pub fn external_holder(&self, key: &str) -> Result<Option<ExternalHolder>> {
        let (dirs, sr) = self.attached()?;
        let key = Name::parse(key)?;
        match Record::read(&dirs, &key)? {
            Some(record) => Ok(record.external_holder),
            None => Err(self.missing(&key, &sr)),
        }
    }

    /// The living process that has a volume, if there is one.
    ///
    /// # Errors
    /// Where the record cannot be read.
    pub fn living_holder(&self, key: &Name) -> Result<Option<Serving>> {
        living_holder(&self.attached()?.0, key)
    }
}

/// The living process that has a volume, if there is one.
fn living_holder(dirs: &Dirs, key: &Name) -> Result<Option<Serving>> {
    let record = Record::read(dirs, key)?;
    record.as_ref().map_or(Ok(None), Record::living_holder)
}

impl<'a> Exclusive<'a> {
    /// Writes down who has a volume. The caller keeps the volume from being served meanwhile.
    ///
    /// # Errors
    /// Those of [`Sr::volume`]; [`ErrorKind::VolumeInUse`] where another process has it.
    pub fn set_external_holder(&mut self, key: &str, holder: &ExternalHolder) -> Result<()> {
        let mut record = self.volume_record(&Name::parse(key)?)?;
        record.require_no_external_holder("lent")?;
        record.external_holder = Some(holder.clone());
        self.write(&record)
    }

    /// Ends a loan from which nothing comes back. A volume that is not lent is left as it is.
    ///
    /// # Errors
    /// Those of [`Sr::volume`], or what writing its record gives.
    pub fn clear_external_holder(&mut self, key: &str) -> Result<()> {
        let mut record = self.volume_record(&Name::parse(key)?)?;
        if record.external_holder.take().is_none() {
            return Ok(());
        }
        self.write(&record)
    }

    /// Begins to take a volume back.
    ///
    /// # Errors
    /// Those of [`Self::snapshot_volume`]; [`ErrorKind::BadArgument`] where it is not lent.
    pub fn begin_write_back(mut self, key: &str) -> Result<WriteBack<'a>> {
        let (sr, volume) = (self.sr, Name::parse(key)?);
        if self.volume_records()?.sound.iter().any(|record| record.unfinished) {
            // A return that was killed may have left as much as the whole volume.
            self.collect_unless_damaged(&mut Inactive)?;
            self = sr.lock()?;
        }
        self.require_external_holder(&volume)?;
        let copy = self.clone_unfinished(&volume)?;
        let disk = self.open_here(&copy, false)?;
        Ok(WriteBack { sr, volume, copy, disk })
    }

    fn require_external_holder(&self, key: &Name) -> Result<Record> {
        let record = self.volume_record(key)?;
        if record.external_holder.is_some() {
            return Ok(record);
        }
        let message = format!("volume {key} is not lent to anybody: nothing can come back");
        Err(Error::new(ErrorKind::BadArgument, message))
    }
}

impl WriteBack<'_> {
    /// What is to be made equal to what the borrower has.
    pub fn disk(&mut self) -> &mut Disk {
        &mut self.disk
    }

    /// Lets the volume read what was written here, and ends the loan.
    ///
    /// # Errors
    /// What writing the record gives; the volume is as it was, and lent, then.
    pub fn commit(self) -> Result<()> {
        self.adopt(false)
    }

    /// Lets the volume read what was written here so far, which frees what it read before; it stays
    /// lent. For an SR that has no room for both.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn commit_part(self) -> Result<()> {
        self.adopt(true)
    }

    fn adopt(self, stays_lent: bool) -> Result<()> {
        let Self { sr, volume, copy, disk } = self;
        let mut lock = sr.lock()?;
        let mut record = lock.require_external_holder(&volume)?;
        let copied = lock.volume_record(&copy)?;
        let mut views = View::all_of(&lock.dirs, &record)?;
        views.extend(View::all_of(&lock.dirs, &copied)?);
        let (old_index, old_top) = (record.index, record.own_top());
        // Two records never name the same top: between these two steps what came back is garbage,
        // and the borrower still has it.
        lock.remove_volume_record(&copy)?;
        record.top = copied.top;
        record.index = copied.index;
        record.previous_tops.clear();
        record.sole.clear();
        record.external_holder = record
            .external_holder
            .filter(|_| stays_lent)
            .map(|holder| ExternalHolder { partial: true, ..holder });
        record.join(&copied);
        lock.write(&record)?;
        drop(disk);
        lock.dirs.remove(Entry::Serving(&copy))?;
        for index in copied.base.into_iter().chain([old_index]) {
            lock.dirs.remove(Entry::Index(index))?;
        }
        let owned = old_top.into_iter().collect();
        let destroyed = Destroyed { views, owned, was_written: true };
        let records = lock.volume_records()?;
        lock.release(&record, records, destroyed, &mut Inactive)
    }

    /// Gives up what was written here; the volume stays lent.
    ///
    /// # Errors
    /// Those of [`Exclusive::destroy_volume`].
    pub fn abandon(self) -> Result<()> {
        let Self { sr, copy, disk, .. } = self;
        drop(disk);
        sr.lock()?.destroy_volume(copy.as_str(), &mut Inactive)
    }
}
