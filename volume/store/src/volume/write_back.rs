//! Volumes that a foreign process serves from a copy of its own: the host's tapdisk, which loads an
//! image and never writes it back. Called by the datapath plugin.
//!
//! Such a process does not hold the volume's lock, so the volume's record names it as the external
//! holder. The mark counts for as long as the process keeps a file of its own locked: a dead holder
//! protects nothing, since its copy is lost.
//!
//! The holder's changes are written back into a hidden clone, which then takes the volume's place
//! by the same rename that removes the mark. So after a crash the volume has either its contents
//! from before or all of the changes, and an unfinished write-back can be repeated. Only in an SR
//! that has no room for both are the changes written back in parts; the mark says so meanwhile.

use super::destroy::Destroyed;
use crate::{
    disk::Disk,
    error::{Error, ErrorKind, Result},
    files::{Dirs, Entry, Mark},
    host::Name,
    live::Inactive,
    record::{ExternalHolder, Record, Serving, View},
    sr::{Exclusive, Sr},
};

/// A write-back under way: a hidden clone of the volume, which the caller makes equal to the
/// external holder's copy. Dropped, it leaves only garbage.
#[derive(Debug)]
pub struct WriteBack<'a> {
    sr: &'a Sr,
    volume: Name,
    copy: Name,
    disk: Disk,
    /// Ended when the clone has taken the volume's place, or is destroyed.
    mark: Mark,
}

impl Sr {
    /// The external holder of a volume, as [`Exclusive::set_external_holder`] recorded it. The
    /// process may be dead by now.
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

    /// The external holder of a volume, if it is alive.
    ///
    /// # Errors
    /// Where the record cannot be read.
    pub fn living_holder(&self, key: &Name) -> Result<Option<Serving>> {
        living_holder(&self.attached()?.0, key)
    }
}

/// The external holder of a volume, if it is alive.
fn living_holder(dirs: &Dirs, key: &Name) -> Result<Option<Serving>> {
    let record = Record::read(dirs, key)?;
    record.as_ref().map_or(Ok(None), Record::living_holder)
}

impl<'a> Exclusive<'a> {
    /// Records the external holder of a volume. The caller holds the lock on the volume meanwhile.
    ///
    /// # Errors
    /// Those of [`Sr::volume`]; [`ErrorKind::VolumeInUse`] where it has another external holder
    /// that is alive.
    pub fn set_external_holder(&mut self, key: &str, holder: &ExternalHolder) -> Result<()> {
        let mut record = self.volume_record(&Name::parse(key)?)?;
        record.require_no_external_holder("activated")?;
        record.external_holder = Some(holder.clone());
        self.write(&record)
    }

    /// Removes the record of an external holder, without a write-back. A volume without one is left
    /// as it is.
    ///
    /// # Errors
    /// Those of [`Sr::volume`], or an error of writing its record.
    pub fn clear_external_holder(&mut self, key: &str) -> Result<()> {
        let mut record = self.volume_record(&Name::parse(key)?)?;
        if record.external_holder.take().is_none() {
            return Ok(());
        }
        self.write(&record)
    }

    /// Begins a write-back.
    ///
    /// # Errors
    /// Those of [`Self::snapshot_volume`]; [`ErrorKind::BadArgument`] where it has no external
    /// holder.
    pub fn begin_write_back(mut self, key: &str) -> Result<WriteBack<'a>> {
        let (sr, volume) = (self.sr, Name::parse(key)?);
        if self.volume_records()?.sound.iter().any(|record| record.unfinished) {
            // A write-back that was killed may have left as much data as the whole volume has.
            self.collect_unless_damaged(&mut Inactive)?;
            self = sr.lock()?;
        }
        self.require_external_holder(&volume)?;
        let mark = self.mark();
        let copy = self.clone_unfinished(&volume)?;
        let disk = self.open_here(&copy, false)?;
        Ok(WriteBack { sr, volume, copy, disk, mark })
    }

    fn require_external_holder(&self, key: &Name) -> Result<Record> {
        let record = self.volume_record(key)?;
        if record.external_holder.is_some() {
            return Ok(record);
        }
        let message =
            format!("volume {key} has no external holder: there is nothing to write back");
        Err(Error::new(ErrorKind::BadArgument, message))
    }
}

impl WriteBack<'_> {
    /// The disk that is to be made equal to the external holder's copy.
    pub fn disk(&mut self) -> &mut Disk {
        &mut self.disk
    }

    /// Gives the volume the contents of the clone, and removes the external holder.
    ///
    /// # Errors
    /// An error of writing the record; the volume and its external holder are unchanged then.
    pub fn commit(self) -> Result<()> {
        self.adopt(false)
    }

    /// Gives the volume the contents of the clone so far, which frees its own old blocks; the
    /// external holder stays. For an SR that has no room for both.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn commit_part(self) -> Result<()> {
        self.adopt(true)
    }

    fn adopt(self, stays_lent: bool) -> Result<()> {
        let Self { sr, volume, copy, disk, mark } = self;
        let mut lock = sr.lock()?;
        let mut record = lock.require_external_holder(&volume)?;
        let copied = lock.volume_record(&copy)?;
        let mut views = View::all_of(&lock.dirs, &record)?;
        views.extend(View::all_of(&lock.dirs, &copied)?);
        let (old_index, old_top) = (record.index, record.own_top());
        let has_previous_tops = !record.previous_tops.is_empty();
        // Two records never name the same top: between these two steps the clone is garbage, and
        // the external holder still has the data.
        lock.remove_volume_record(&copy)?;
        record.top = copied.top;
        record.index = copied.index;
        record.previous_tops.clear();
        let (sole, sole_maps) = record.take_sole();
        record.renew_content_id();
        record.external_holder =
            record.external_holder.filter(|_| stays_lent).map(ExternalHolder::partial);
        record.join(&copied);
        lock.write(&record)?;
        drop(disk);
        lock.dirs.remove(Entry::Serving(&copy))?;
        for index in copied.base.into_iter().chain([old_index]) {
            lock.dirs.remove(Entry::Index(index))?;
        }
        let owned = old_top.into_iter().collect();
        let destroyed = Destroyed {
            views,
            owned,
            sole,
            sole_maps,
            former_sole: copied.sole,
            former_sole_maps: copied.sole_maps,
            was_written: true,
            has_previous_tops,
        };
        let records = lock.volume_records()?;
        lock.release(&record, records, destroyed, &mut Inactive)?;
        mark.end();
        Ok(())
    }

    /// Destroys the clone; the external holder stays.
    ///
    /// # Errors
    /// Those of [`Exclusive::destroy_volume`].
    pub fn abandon(self) -> Result<()> {
        let Self { sr, copy, disk, mark, .. } = self;
        drop(disk);
        sr.lock()?.destroy_volume(copy.as_str(), &mut Inactive)?;
        mark.end();
        Ok(())
    }
}
