//! The right to change an SR.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

use super::{Sr, idle::check_idle};
use crate::{
    block::pages,
    budget::Budget,
    error::Result,
    files::{self, Dirs, Entry, Mark, lock::Lock},
    host::Name,
    live::Inactive,
    record::{self, AtDetach, Records, sr::Record},
    texts,
};

/// The lock of an SR, held. Every operation that changes the SR's structure is a method of this
/// type, so that it cannot be called without the lock. An operation that ends with freeing memory
/// takes the value itself, since it releases the lock before it frees.
///
/// Every operation uses the directories that were opened under the lock, also after it has released
/// the lock. Each record is read once.
#[derive(Debug)]
pub struct Exclusive<'a> {
    pub(crate) sr: &'a Sr,
    pub(crate) dirs: Dirs,
    record: Arc<Record>,
    /// The volumes' records that were read or written since the lock was taken.
    volumes: RefCell<BTreeMap<Name, record::Record>>,
    /// Pages of maps stay while they may be read.
    _maps: Lock,
    lock: Lock,
}

impl<'a> Exclusive<'a> {
    /// Takes the lock of an attached SR.
    pub(super) fn take(sr: &'a Sr) -> Result<Self> {
        let mut exclusive = Self::with_lock(sr, Lock::sr(&sr.host, &sr.uuid)?)?;
        if !exclusive.lock.killed_before(&exclusive.dirs)? {
            return Ok(exclusive);
        }
        // An operation was killed. What cannot be collected, because a record is damaged, is kept.
        let _kept = exclusive.collect(&mut Inactive);
        Self::with_lock(sr, Lock::sr(&sr.host, &sr.uuid)?)
    }

    /// With a lock that is held already.
    pub(super) fn with_lock(sr: &'a Sr, lock: Lock) -> Result<Self> {
        let (dirs, record) = sr.attached()?;
        // With the lock held these are the directories that are there now, all of them.
        let dirs = dirs.reopened();
        files::restore_ballast(&dirs);
        let maps = Lock::maps(&dirs)?;
        // A change of the size may have been killed between the record and the count.
        let size = pages(record.size);
        let counter = dirs.counter()?;
        if counter.size().map(u64::from) != Some(size) {
            counter.set_size(size);
        }
        Ok(Self { sr, dirs, record, volumes: RefCell::default(), _maps: maps, lock })
    }

    /// Marks an operation that goes on when it has released the lock: the mark is kept until nothing of it is
    /// left.
    pub(crate) fn mark(&mut self) -> Mark {
        self.lock.mark();
        Mark::new(&self.dirs)
    }

    /// Says that from now on there is something to be collected, should the operation not complete.
    pub(crate) fn begin(&mut self) {
        self.lock.begin();
    }

    /// Says that what was changed is complete. An operation that fails before that has left something, which
    /// the next one collects, as it does after one that was killed.
    pub(crate) fn done(&mut self) {
        self.lock.done();
    }

    /// Says that nothing is left of what was changed, nor of what was found.
    pub(crate) fn collected(&mut self) {
        self.lock.collected();
    }

    /// Has the next operation collect what is left.
    pub(crate) fn collect_next(&self) {
        self.lock.collect_next();
    }

    /// The SR's record.
    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    /// Gives the SR another name.
    ///
    /// # Errors
    /// [`ErrorKind::BadArgument`](crate::ErrorKind) for one that is too long, or if the record cannot be
    /// written.
    pub fn set_name(&mut self, name: &str) -> Result<()> {
        texts::check(name, "")?;
        self.update(|record| name.clone_into(&mut record.name))
    }

    /// Gives the SR another description.
    ///
    /// # Errors
    /// As [`Self::set_name`].
    pub fn set_description(&mut self, description: &str) -> Result<()> {
        texts::check("", description)?;
        self.update(|record| description.clone_into(&mut record.description))
    }

    fn update(&mut self, change: impl FnOnce(&mut Record)) -> Result<()> {
        let mut record = Record::clone(&self.record);
        change(&mut record);
        record.write(&self.dirs)?;
        self.record = Arc::new(record);
        Ok(())
    }

    /// Detaches the SR; its memory stays.
    ///
    /// # Errors
    /// [`ErrorKind::SrInUse`](crate::ErrorKind) where a disk is active.
    pub fn detach(self) -> Result<()> {
        self.detach_and(|| ())
    }

    /// The same, and does something as long as nothing else can attach it.
    ///
    /// # Errors
    /// As [`Self::detach`].
    pub fn detach_and(mut self, act: impl FnOnce()) -> Result<()> {
        check_idle(&self.dirs, "detached")?;
        self.update(|record| record.attached = false)?;
        act();
        Ok(())
    }

    /// Says what is saved of the SR when it is detached, until it is attached again.
    ///
    /// # Errors
    /// Where the record cannot be written.
    pub fn set_at_detach(&mut self, at_detach: AtDetach) -> Result<()> {
        self.update(|record| record.at_detach = at_detach)
    }

    /// Takes `count` numbers for layers or indexes of an operation that makes something new, which needs
    /// about so many bytes of metadata; the first of them.
    pub(crate) fn take_numbers(&mut self, count: u32, bytes: u64) -> Result<u32> {
        self.require_room(bytes)?;
        self.begin();
        record::sr::take_numbers(&self.dirs, count)
    }

    /// Refuses an operation that needs more metadata than there is room for.
    pub(crate) fn require_room(&self, bytes: u64) -> Result<()> {
        Budget::of(&self.dirs, self.record.size)?.require(pages(bytes))
    }

    /// The record of a volume; `None` where there is no such volume.
    pub(crate) fn find_volume(&self, key: &Name) -> Result<Option<record::Record>> {
        if let Some(known) = self.volumes.borrow().get(key) {
            return Ok(Some(known.clone()));
        }
        let found = record::Record::read(&self.dirs, key)?;
        if let Some(record) = &found {
            self.volumes.borrow_mut().insert(key.clone(), record.clone());
        }
        Ok(found)
    }

    /// The record of a volume that has to be there.
    pub(crate) fn volume_record(&self, key: &Name) -> Result<record::Record> {
        match self.find_volume(key)? {
            Some(record) => Ok(record),
            None => Err(self.sr.missing(key, &self.record)),
        }
    }

    /// All records of volumes.
    pub(crate) fn volume_records(&self) -> Result<Records> {
        Records::read(&self.dirs, |key| self.find_volume(key))
    }

    /// Commits the changes to a volume.
    pub(crate) fn write(&mut self, record: &record::Record) -> Result<()> {
        record.write(&self.dirs)?;
        self.volumes.get_mut().insert(record.key.clone(), record.clone());
        Ok(())
    }

    /// Removes the record of a volume, which commits its destruction.
    pub(crate) fn remove_volume_record(&mut self, key: &Name) -> Result<()> {
        self.begin();
        self.volumes.get_mut().remove(key);
        self.dirs.remove(Entry::Volume(key))
    }
}
