//! Destroying a volume, its data, or what it reads.

use std::time::Duration;

use super::{Live, Record, free::Garbage, view::View};
use crate::{
    block::{BLOCK_BYTES, Layer},
    error::{Error, Kind, Result},
    host::Name,
    sr::{self, Sr, files, lock::Lock},
};

/// How long a volume may be held by a process that is about to let go of it.
const PATIENCE: Duration = Duration::from_millis(100);

impl Sr {
    /// Destroys a volume. One that is not there is destroyed already. `live` is told what other
    /// volumes may free by themselves from then on.
    ///
    /// # Errors
    /// [`Kind::SrNotAttached`]; [`Kind::VolumeInUse`] while it is served.
    pub fn destroy_volume(&self, key: &str, live: &mut dyn Live) -> Result<()> {
        let key = Name::parse(key)?;
        let lock = self.lock()?;
        self.sr_attached()?;
        let record = match self.volume_record(&key) {
            Err(error) if matches!(error.kind(), Kind::VolumeMissing | Kind::VolumeLost) => {
                return Ok(());
            }
            record => record?,
        };
        let served = self.hold(&key, "destroyed")?;
        let gone = View::all_of(&self.layout, &record)?;
        self.remove_record(&record)?;
        drop(served);
        self.release(lock, &record, gone, record.own_top(), live)
    }

    /// Destroys the data of a volume and keeps its map, by which changed blocks can still be told.
    ///
    /// # Errors
    /// As [`Sr::destroy_volume`], and where there is no such volume.
    pub fn data_destroy(&self, key: &str, live: &mut dyn Live) -> Result<()> {
        let key = Name::parse(key)?;
        let lock = self.lock()?;
        self.sr_attached()?;
        let mut record = self.volume_record(&key)?;
        if !record.has_data {
            return Ok(());
        }
        let served = self.hold(&key, "relieved of its data")?;
        let gone = vec![View::of(&self.layout, &record)?];
        record.has_data = false;
        record.top = 0;
        record.leaving.clear();
        record.sole.clear();
        record.write(&self.layout)?;
        drop(served);
        self.release(lock, &record, gone, None, live)
    }

    /// Frees what `gone` named and nobody else does, after the record of `record` was removed or
    /// changed. The layer `whole` was its top.
    pub(crate) fn release(
        &self,
        lock: Lock,
        record: &Record,
        gone: Vec<View>,
        whole: Option<Layer>,
        live: &mut dyn Live,
    ) -> Result<()> {
        let mut family = record.relatives(self.volume_records()?);
        // First they free by themselves what they let go of; only then may their maps be read, or
        // a block could be missed by both.
        self.share_out(&mut family, live)?;
        let mut survivors = Vec::new();
        for other in &family {
            survivors.extend(View::all_of(&self.layout, other)?);
        }
        let garbage = Garbage::of(&self.layout, &gone, whole, &survivors)?;
        drop(lock);
        // What nobody names will never be named again.
        let tops: Vec<Layer> = family.iter().flat_map(Record::owned).collect();
        let freed = garbage.free(&self.layout, &tops)?;
        self.give_back(freed)
    }

    /// Removes a volume's record, which commits, and what only it can have named.
    pub(crate) fn remove_record(&self, record: &Record) -> Result<()> {
        let key = Name::parse(&record.key)?;
        files::remove(&self.layout.volume(&key))?;
        files::remove(&self.layout.serving(&key))?;
        files::remove(&self.layout.datapath(&key))?;
        // Its views were read before: the index files are not needed to find what it named.
        record
            .base
            .into_iter()
            .chain([record.index])
            .try_for_each(|number| files::remove(&self.layout.index(number)))
    }

    /// Keeps a volume from being served, for as long as the result lives.
    pub(crate) fn hold(&self, key: &Name, act: &str) -> Result<Lock> {
        self.volume_record(key)?.require_home(act)?;
        let held = Lock::wait(&self.layout.serving(key), PATIENCE)?;
        held.ok_or_else(|| {
            let by = match self.serving(key) {
                Ok(Some(serving)) => format!(", served by process {}", serving.pid),
                _ => String::new(),
            };
            Error::new(
                Kind::VolumeInUse,
                format!("volume {key} is active{by}, and cannot be {act}: unplug it first (xe vbd-unplug)"),
            )
        })
    }

    /// Keeps a volume from being served, if nobody serves it at this moment.
    pub(crate) fn hold_now(&self, key: &Name) -> Result<Lock> {
        Lock::wait(&self.layout.serving(key), Duration::ZERO)?
            .ok_or_else(|| Error::new(Kind::VolumeInUse, format!("volume {key} is active")))
    }

    /// The other volumes that may share something with this one.
    pub(crate) fn family(&self, record: &Record) -> Result<Vec<Record>> {
        let mut records = self.volume_records()?;
        records.retain(|other| other.is_related(record) && other.key != record.key);
        Ok(records)
    }

    pub(crate) fn give_back(&self, bytes: u64) -> Result<()> {
        sr::budget(&self.layout)?.give(bytes / BLOCK_BYTES);
        Ok(())
    }
}
