//! Destroying a volume, and tidying up what interrupted operations left.

use std::{collections::HashSet, fs, time::Duration};

use super::{
    Record,
    free::{Garbage, remove_stepwise},
    view::View,
};
use crate::{
    block::Layer,
    budget::Budget,
    error::{Context, Error, Kind, Result},
    host::Name,
    sr::{self, Sr, files, layout::parse_number, lock::Lock},
};

/// How long a volume may be held by a process that is about to let go of it.
const PATIENCE: Duration = Duration::from_millis(100);

impl Sr {
    /// Destroys a volume. One that is not there is destroyed already.
    ///
    /// # Errors
    /// [`Kind::SrNotAttached`]; [`Kind::VolumeInUse`] while it is served.
    pub fn destroy_volume(&self, key: &str) -> Result<()> {
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
        let view = View::of(&self.layout, &record)?;
        let family: Vec<Record> = self.family(&record)?;
        let survivors =
            family.iter().map(|other| View::of(&self.layout, other)).collect::<Result<Vec<_>>>()?;
        let top = Some(record.top).filter(|&top| top != 0);
        let garbage = Garbage::of(&self.layout, &view, top, &survivors)?;
        files::remove(&self.layout.volume(&key))?;
        files::remove(&self.layout.serving(&key))?;
        files::remove(&self.layout.datapath(&key))?;
        files::remove(&self.layout.index(record.index))?;
        drop((served, lock));
        let tops: Vec<Layer> = family.iter().flat_map(Record::owned).collect();
        let freed = garbage.free(&self.layout, &tops)?;
        self.give_back(freed)
    }

    /// Keeps a volume from being served, for as long as the result lives.
    pub(crate) fn hold(&self, key: &Name, act: &str) -> Result<Lock> {
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

    /// The other volumes that may share something with this one.
    pub(crate) fn family(&self, record: &Record) -> Result<Vec<Record>> {
        let mut records = self.volume_records()?;
        records.retain(|other| other.family == record.family && other.key != record.key);
        Ok(records)
    }

    pub(crate) fn give_back(&self, bytes: u64) -> Result<()> {
        let mut budget: Budget = sr::budget(&self.layout)?;
        budget.give(bytes / crate::block::BLOCK_BYTES);
        Ok(())
    }

    /// Removes files that no volume names: what a killed operation left. Held: the SR's lock.
    pub(crate) fn tidy(&self) -> Result<()> {
        for name in sr::names(&self.layout.tmp())? {
            files::remove(&self.layout.tmp().join(name.as_str()))?;
        }
        let records = self.volume_records()?;
        let mut named: HashSet<u32> = HashSet::new();
        for record in &records {
            named.extend([record.index].into_iter().chain(record.base).chain(record.owned()));
            named.extend(&record.sole);
            // A layer whose page a volume names, and a layer that a page names.
            let view = View::of(&self.layout, record)?;
            named.extend(super::view::layers(&self.layout, &view)?);
        }
        for directory in [self.layout.indexes(), self.layout.maps(), self.layout.data()] {
            let entries = fs::read_dir(&directory)
                .while_doing(|| format!("reading {}", directory.display()))?;
            for entry in entries.flatten() {
                let number = entry.file_name().to_str().and_then(parse_number);
                if number.is_some_and(|number| !named.contains(&number)) {
                    remove_stepwise(&entry.path())?;
                }
            }
        }
        let idle = records.iter().all(|record| {
            Name::parse(&record.key).is_ok_and(|key| matches!(self.serving(&key), Ok(None)))
        });
        if idle { sr::recount(&self.layout) } else { Ok(()) }
    }
}
