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

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::{Inactive, Record, destroy::Gone, view::View};
use crate::{
    disk::Disk,
    error::{Context, Error, Kind, Result},
    host::Name,
    sr::{Serving, Sr, files},
};

/// Who has a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loan {
    /// The process, and whether it may write.
    pub serving: Serving,
    /// A file that it keeps locked (flock) for as long as it can serve.
    pub lock: PathBuf,
    /// Whether a part of what it has is back already ([`Return::commit_part`]): until the rest is,
    /// the volume reads as a mixture.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

impl Loan {
    /// Whether the process that has the volume still can serve it.
    fn lives(&self) -> Result<bool> {
        is_locked(&self.lock).while_doing(|| format!("locking {}", self.lock.display()))
    }
}

fn is_locked(path: &Path) -> io::Result<bool> {
    match File::open(path) {
        // Shared: two who ask at the same time must not take each other for the borrower.
        Ok(file) => match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(error.into()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The contents of a lent volume on their way back: a clone of it, to be made equal to what the
/// borrower has. Dropped, it leaves nothing but garbage.
#[derive(Debug)]
pub struct Return<'a> {
    sr: &'a Sr,
    volume: Name,
    copy: Name,
    disk: Disk,
}

impl Sr {
    /// Writes down who has a volume. The caller keeps the volume from being served meanwhile.
    ///
    /// # Errors
    /// Those of [`Sr::volume`]; [`Kind::VolumeInUse`] where another process has it.
    pub fn lend(&self, key: &str, loan: &Loan) -> Result<()> {
        let _lock = self.lock()?;
        self.sr_attached()?;
        let mut record = self.volume_record(&Name::parse(key)?)?;
        record.require_home("lent")?;
        record.loan = Some(loan.clone());
        record.write(&self.layout)
    }

    /// What was written down by [`Sr::lend`], though the process may be dead by now.
    ///
    /// # Errors
    /// Those of [`Sr::volume`].
    pub fn loan(&self, key: &str) -> Result<Option<Loan>> {
        Ok(self.volume_record(&Name::parse(key)?)?.loan)
    }

    /// The living process that has a volume, if there is one.
    ///
    /// # Errors
    /// Where the record cannot be read.
    pub fn borrower(&self, key: &Name) -> Result<Option<Serving>> {
        let record = Record::read(&self.layout, key)?;
        record.as_ref().map_or(Ok(None), Record::borrower)
    }

    /// Ends a loan from which nothing comes back. A volume that is not lent is left as it is.
    ///
    /// # Errors
    /// Those of [`Sr::volume`], or what writing its record gives.
    pub fn end_loan(&self, key: &str) -> Result<()> {
        let _lock = self.lock()?;
        let mut record = self.volume_record(&Name::parse(key)?)?;
        if record.loan.take().is_none() {
            return Ok(());
        }
        record.write(&self.layout)
    }

    /// Begins to take a volume back.
    ///
    /// # Errors
    /// Those of [`Sr::snapshot`]; [`Kind::BadArgument`] where it is not lent.
    pub fn begin_return(&self, key: &str) -> Result<Return<'_>> {
        let volume = Name::parse(key)?;
        let mut lock = self.lock()?;
        self.sr_attached()?;
        if self.volume_records()?.sound.iter().any(|record| record.unfinished) {
            // A return that was killed may have left as much as the whole volume.
            self.collect_unless_damaged(lock, &mut Inactive)?;
            lock = self.lock()?;
        }
        self.require_lent(&volume)?;
        let copy = self.clone_unfinished(&lock, &volume)?;
        let disk = self.open_here(copy.as_str(), false)?;
        Ok(Return { sr: self, volume, copy, disk })
    }

    fn require_lent(&self, key: &Name) -> Result<Record> {
        let record = self.volume_record(key)?;
        if record.loan.is_some() {
            return Ok(record);
        }
        let message = format!("volume {key} is not lent to anybody: nothing can come back");
        Err(Error::new(Kind::BadArgument, message))
    }
}

impl Return<'_> {
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
        let layout = sr.layout();
        let lock = sr.lock()?;
        sr.sr_attached()?;
        let mut record = sr.require_lent(&volume)?;
        let copied = sr.volume_record(&copy)?;
        let mut views = View::all_of(layout, &record)?;
        views.extend(View::all_of(layout, &copied)?);
        let (old_index, old_top) = (record.index, record.own_top());
        // Two records never name the same top: between these two steps what came back is garbage,
        // and the borrower still has it.
        files::remove(&layout.volume(&copy))?;
        record.top = copied.top;
        record.index = copied.index;
        record.leaving.clear();
        record.sole.clear();
        record.loan = record.loan.filter(|_| stays_lent).map(|loan| Loan { partial: true, ..loan });
        record.join(&copied);
        record.write(layout)?;
        drop(disk);
        files::remove(&layout.serving(&copy))?;
        for index in copied.base.into_iter().chain([old_index]) {
            files::remove(&layout.index(index))?;
        }
        let owned = old_top.into_iter().collect();
        let gone = Gone { views, owned, was_written: true };
        sr.release(lock, &record, sr.volume_records()?, gone, &mut Inactive)
    }

    /// Gives up what was written here; the volume stays lent.
    ///
    /// # Errors
    /// Those of [`Sr::destroy_volume`].
    pub fn abandon(self) -> Result<()> {
        let Self { sr, copy, disk, .. } = self;
        drop(disk);
        sr.destroy_volume(copy.as_str(), &mut Inactive)
    }
}

impl Record {
    /// The living process that it is lent to.
    pub(crate) fn borrower(&self) -> Result<Option<Serving>> {
        match &self.loan {
            Some(loan) if loan.lives()? => Ok(Some(loan.serving.clone())),
            _ => Ok(None),
        }
    }

    /// Refuses what cannot be done to a volume that a foreign process has.
    pub(crate) fn require_home(&self, act: &str) -> Result<()> {
        let Some(Serving { pid, minor, .. }) = self.borrower()? else { return Ok(()) };
        Err(Error::new(
            Kind::VolumeInUse,
            format!(
                "volume {} is active in the host's own tapdisk (process {pid}, minor {minor}; \
                 device-config:tapdisk=blktap) and cannot be {act} meanwhile: unplug it first \
                 (xe vbd-unplug)",
                self.key
            ),
        ))
    }
}
