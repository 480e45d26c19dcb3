//! Destroying a volume or its data.

use std::{collections::BTreeSet, time::Duration};

use super::{
    free::{Garbage, Pace, punch},
    let_go::Part,
    sharing::SharingVolumes,
};
use crate::{
    block::Layer,
    error::{Error, ErrorKind, Result},
    files::{Entry, lock::Lock},
    host::Name,
    live::Live,
    record::{Record, Records, View, is_unswept, served_by},
    sr::Exclusive,
};

/// How long a volume may be held by a process that is about to let go of it.
const PATIENCE: Duration = Duration::from_millis(100);

/// The views and layers that a destroyed volume, or a volume that changed, used before.
#[derive(Debug)]
pub(crate) struct Destroyed {
    /// The old indexes.
    pub(crate) views: Vec<View>,
    /// Layers that no other volume can have named.
    pub(crate) owned: Vec<Layer>,
    /// Layers whose data no other volume needs.
    pub(crate) sole: Vec<Layer>,
    /// Layers whose map pages no other volume names.
    pub(crate) sole_maps: Vec<Layer>,
    /// Layers that were in sole sets before, of data and of maps, and may be needed by another volume now.
    pub(crate) former_sole: Vec<Layer>,
    pub(crate) former_sole_maps: Vec<Layer>,
    /// Whether it could be written. Then it may have stopped using blocks that only one other
    /// volume has needed since.
    pub(crate) was_written: bool,
    /// Whether a switch of it was never acknowledged: then blocks of its earlier tops may be named by no
    /// view.
    pub(crate) has_previous_tops: bool,
}

impl Destroyed {
    /// The files that no volume needs any more, whatever is in them; of those that only it needed, only where
    /// that is certain.
    fn whole(&self, with_sole: bool) -> Garbage {
        let (sole, sole_maps) =
            if with_sole { (&*self.sole, &*self.sole_maps) } else { Default::default() };
        Garbage {
            layers: [&*self.owned, sole].concat(),
            maps: [&*self.owned, sole_maps].concat(),
            ..Garbage::default()
        }
    }
}

/// A volume that is about to be removed. It is locked, and so are the clones that are served in its place,
/// which go with it.
#[derive(Debug)]
pub(crate) struct Removal {
    pub(crate) record: Record,
    clones: Vec<Record>,
    _locks: Vec<Lock>,
}

impl Exclusive<'_> {
    /// Destroys a volume. One that does not exist is no error. The processes that serve other
    /// volumes are told through `live` which blocks they may free from then on. A damaged volume
    /// can be destroyed too: as its map is not known, a collection finds its garbage. The clone of
    /// a non-persistent session goes with its volume.
    ///
    /// # Errors
    /// [`ErrorKind::SrNotAttached`]; [`ErrorKind::VolumeInUse`] while it is served, or such a clone of it.
    pub fn destroy_volume(mut self, key: &str, live: &mut dyn Live) -> Result<()> {
        let key = Name::parse(key)?;
        let record = match self.volume_record(&key) {
            Err(error)
                if matches!(error.kind(), ErrorKind::VolumeMissing | ErrorKind::VolumeLost) =>
            {
                // A destruction that was killed may have left the clone.
                if self.remove_session_clones(Some(&key))? {
                    self.collect_unless_damaged(live)?;
                }
                return Ok(());
            }
            Err(error) if error.tells_damage() => return self.destroy_damaged(&key, live),
            record => record?,
        };
        let removal = self.prepare_removal(record, "destroyed")?;
        match View::all_of(&self.dirs, &removal.record) {
            Err(error) if error.tells_damage() => {
                drop(removal);
                return self.destroy_damaged(&key, live);
            }
            views => drop(views?),
        }
        let (record, destroyed) = self.remove(removal)?;
        let records = self.volume_records()?;
        self.release(&record, records, destroyed, live)
    }

    /// Locks a volume that is to be removed, and the clones that are served in its place.
    pub(crate) fn prepare_removal(&self, record: Record, act: &str) -> Result<Removal> {
        let mut locks = vec![self.hold(&record.key, act)?];
        let is_clone = |other: &Record| other.owner.as_ref() == Some(&record.key);
        let clones: Vec<Record> =
            self.volume_records()?.sound.into_iter().filter(is_clone).collect();
        locks.extend(self.hold_clones(&record.key, &clones, act)?);
        Ok(Removal { record, clones, _locks: locks })
    }

    /// Removes a volume and the clones that are served in its place. The record, which belongs to the
    /// sharing groups of all of them, and their blocks.
    pub(crate) fn remove(&mut self, removal: Removal) -> Result<(Record, Destroyed)> {
        let Removal { mut record, clones, _locks } = removal;
        let mut destroyed = Destroyed {
            views: View::all_of(&self.dirs, &record)?,
            owned: record.own_top().into_iter().collect(),
            sole: record.sole.clone(),
            sole_maps: record.sole_maps.clone(),
            former_sole: Vec::new(),
            former_sole_maps: Vec::new(),
            was_written: record.read_write() || !clones.is_empty(),
            has_previous_tops: !record.previous_tops.is_empty(),
        };
        self.remove_record(&record)?;
        for clone in &clones {
            match View::all_of(&self.dirs, clone) {
                // The rest of a damaged one is freed by a collection.
                Err(error) if error.tells_damage() => destroyed.has_previous_tops = true,
                more => destroyed.views.extend(more?),
            }
            destroyed.owned.extend(clone.own_top());
            destroyed.sole.extend(&clone.sole);
            destroyed.sole_maps.extend(&clone.sole_maps);
            destroyed.has_previous_tops |= !clone.previous_tops.is_empty();
            record.join(clone);
            self.remove_record(clone)?;
        }
        Ok((record, destroyed))
    }

    /// Locks the clones that are served in the place of a volume.
    fn hold_clones(&self, key: &Name, clones: &[Record], act: &str) -> Result<Vec<Lock>> {
        let hold = |clone: &Record| {
            self.hold(&clone.key, act).map_err(|error| match error.kind() {
                ErrorKind::VolumeInUse => Error::new(
                    ErrorKind::VolumeInUse,
                    format!("volume {key} is active as a non-persistent disk: {error}"),
                ),
                _ => error,
            })
        };
        clones.iter().map(hold).collect()
    }

    fn destroy_damaged(mut self, key: &Name, live: &mut dyn Live) -> Result<()> {
        let served = self.hold(key, "destroyed")?;
        let mut clones = self.volume_records()?.sound;
        clones.retain(|other| other.owner.as_ref() == Some(key));
        let held = self.hold_clones(key, &clones, "destroyed")?;
        self.remove_known(key)?;
        drop((served, held));
        self.collect_unless_damaged(live)
    }

    pub(crate) fn collect_unless_damaged(self, live: &mut dyn Live) -> Result<()> {
        match self.collect(live) {
            // There is another one; it goes with that one.
            Err(error) if error.tells_damage() => Ok(()),
            collected => collected.map(drop),
        }
    }

    /// Destroys the data of a snapshot and keeps its map, by which changed blocks can still be told.
    ///
    /// # Errors
    /// As [`Self::destroy_volume`], and where there is no such volume; [`ErrorKind::BadArgument`] where it
    /// is no snapshot.
    pub fn destroy_volume_data(mut self, key: &str, live: &mut dyn Live) -> Result<()> {
        let key = Name::parse(key)?;
        let mut record = self.volume_record(&key)?;
        if !record.has_data {
            return Ok(());
        }
        if record.read_write() {
            return Err(Error::new(
                ErrorKind::BadArgument,
                format!(
                    "volume {key} is not a snapshot: its data cannot be destroyed while its map is \
                     kept; destroy the volume itself (xe vdi-destroy), or the data of a snapshot \
                     of it"
                ),
            ));
        }
        let served = self.hold(&key, "relieved of its data")?;
        let views = vec![View::of(&self.dirs, &record)?];
        self.begin();
        let sole = std::mem::take(&mut record.sole);
        record.has_data = false;
        record.clear_sole();
        self.write(&record)?;
        drop(served);
        let records = self.volume_records()?;
        let destroyed = Destroyed {
            views,
            owned: Vec::new(),
            sole,
            sole_maps: Vec::new(),
            former_sole: Vec::new(),
            former_sole_maps: Vec::new(),
            was_written: false,
            has_previous_tops: false,
        };
        self.release(&record, records, destroyed, live)
    }

    /// Frees the blocks and pages that only `destroyed` named, after the record of `record` was
    /// removed or changed; `records` are all that are left.
    pub(crate) fn release(
        mut self,
        record: &Record,
        records: Records,
        destroyed: Destroyed,
        live: &mut dyn Live,
    ) -> Result<()> {
        // Where no volume is left, everything is garbage, and a collection reads no map.
        let is_last = records.sound.is_empty() && records.damaged.is_empty();
        if destroyed.has_previous_tops || is_last {
            return self.collect_unless_damaged(live);
        }
        let (garbage, tops) = match self.garbage(record, records, &destroyed, live) {
            // The map of a damaged volume may name any block, except those of layers that another
            // volume owned until now.
            Err(error) if error.tells_damage() => (destroyed.whole(false), Vec::new()),
            found => found?,
        };
        self.unlock_and_free(garbage, &tops).map(drop)
    }

    /// Releases the lock and then frees: garbage will never be named again. It is freed in the
    /// directories that were opened under the lock. Should the SR be destroyed meanwhile, and
    /// another one be made with its UUID, there is nothing left to free, and nothing of the other
    /// one is touched. The bytes of data freed.
    pub(crate) fn unlock_and_free(mut self, garbage: Garbage, tops: &[Layer]) -> Result<u64> {
        self.done();
        if garbage.is_empty() {
            return Ok(0);
        }
        let dirs = self.dirs.clone();
        let mark = self.mark();
        drop(self);
        #[cfg(feature = "testing")]
        crate::files::hooks::unlocked();
        let freed = garbage.free(&dirs, tops)?;
        mark.end();
        Ok(freed)
    }

    /// The blocks and pages that only `destroyed` named, and the layers that other volumes write
    /// to.
    fn garbage(
        &mut self,
        record: &Record,
        records: Records,
        destroyed: &Destroyed,
        live: &mut dyn Live,
    ) -> Result<(Garbage, Vec<Layer>)> {
        let dirs = self.dirs.clone();
        let mut sharing = SharingVolumes::new(&dirs, record.sharing_with(records.all_sound()?));
        // The processes that serve them get the larger sole sets first. Only then may their maps be
        // read, or a block that they stop using meanwhile would be freed by neither side.
        let idle = self.hold_writers(&sharing);
        let told = if idle.is_some() {
            None
        } else {
            let live: &mut dyn Live = &mut *live;
            Some(live)
        };
        let left = self.share_out_without(&mut sharing, destroyed, told)?;
        sharing.refresh();
        let mut garbage = destroyed.whole(true);
        let mut parts = left.parts(&mut garbage, &dirs, &sharing, destroyed.was_written)?;
        if idle.is_none() {
            self.confirm_parts(&mut parts, &sharing, live)?;
        }
        for Part { layer, blocks, pages, .. } in parts {
            garbage.add_blocks(layer, blocks);
            garbage.add_pages(layer, pages);
        }
        garbage.add_views(&dirs, &destroyed.views, &sharing)?;
        Ok((garbage, sharing.owned()))
    }

    /// Sees to it that what is to be freed of layers that disks are served from is not freed by those disks
    /// too, and counted twice. A disk frees a block as soon as its map has let go of it, within one request:
    /// once the disk has answered another one, it frees none of those that are left. It frees a page
    /// later, but not before the lock on maps is released: pages are freed here.
    fn confirm_parts(
        &self,
        parts: &mut Vec<Part>,
        sharing: &SharingVolumes<'_>,
        live: &mut dyn Live,
    ) -> Result<()> {
        for part in parts.iter_mut().filter(|part| !part.pages.is_empty()) {
            let pages = std::mem::take(&mut part.pages);
            punch(&self.dirs, Entry::Map(part.layer), &pages, &mut Pace::hurried())?;
        }
        parts.retain(|part| !part.blocks.is_empty());
        let users: BTreeSet<usize> = parts.iter().map(|part| part.user).collect();
        for user in users {
            let key = &sharing.records[user].key;
            if let Some(serving) = served_by(&self.dirs, key)?
                && live.sole(key, &serving).is_err()
            {
                parts.retain(|part| part.user != user);
                self.collect_next();
            }
        }
        Ok(())
    }

    /// Locks all volumes that can be written, if none of them is served.
    fn hold_writers(&self, sharing: &SharingVolumes<'_>) -> Option<Vec<Lock>> {
        let writers = sharing.records.iter().filter(|record| record.read_write());
        writers.map(|record| self.hold_now(&record.key).ok()).collect()
    }

    /// Removes a volume's record, which commits, and its indexes.
    pub(crate) fn remove_record(&mut self, record: &Record) -> Result<()> {
        self.remove_known(&record.key)?;
        // Its views were read before: the index files are not needed to find its garbage.
        record
            .base
            .into_iter()
            .chain([record.index])
            .try_for_each(|number| self.dirs.remove(Entry::Index(number)))
    }

    fn remove_known(&mut self, key: &Name) -> Result<()> {
        self.remove_volume_record(key)?;
        self.dirs.remove(Entry::Serving(key))?;
        self.dirs.remove(Entry::State(key))
    }

    /// Keeps a volume from being served, for as long as the result lives.
    pub(crate) fn hold(&self, key: &Name, act: &str) -> Result<Lock> {
        // A damaged record does not name an external holder, and could not be written back to.
        if let Ok(record) = self.volume_record(key) {
            record.require_no_external_holder(act)?;
        }
        self.hold_within(key, PATIENCE)?.ok_or_else(|| {
            let by = match served_by(&self.dirs, key) {
                Ok(Some(serving)) => format!(", served by process {}", serving.pid),
                _ => String::new(),
            };
            Error::new(
                ErrorKind::VolumeInUse,
                format!("volume {key} is active{by}, and cannot be {act}: unplug it first (xe vbd-unplug)"),
            )
        })
    }

    /// Locks a volume, so that it is not served, if no process serves it now.
    pub(crate) fn hold_now(&self, key: &Name) -> Result<Lock> {
        self.hold_within(key, Duration::ZERO)?
            .ok_or_else(|| Error::new(ErrorKind::VolumeInUse, format!("volume {key} is active")))
    }

    /// Whether a process that did not answer does not serve the volume any more. The next one reads the record.
    pub(crate) fn has_let_go(&self, key: &Name) -> Result<bool> {
        Ok(self.hold_within(key, PATIENCE)?.is_some())
    }

    fn hold_within(&self, key: &Name, patience: Duration) -> Result<Option<Lock>> {
        let held = Lock::volume(&self.dirs, key, patience)?;
        if let Some(lock) = &held {
            self.collect_next_if_unswept(key, lock)?;
        }
        Ok(held)
    }

    /// What a killed process has left in the layers of a volume is found as long as only that volume needs
    /// them. Any operation may end that, so what it holds is swept after it.
    pub(crate) fn collect_next_if_unswept(&self, key: &Name, lock: &Lock) -> Result<()> {
        if is_unswept(&self.dirs, key, lock)? {
            self.collect_next();
        }
        Ok(())
    }

    /// The other volumes that may share something with this one.
    pub(crate) fn sharing(&self, record: &Record) -> Result<Vec<Record>> {
        let mut records = self.volume_records()?.sound;
        records.retain(|other| other.may_share(record) && other.key != record.key);
        Ok(records)
    }
}
