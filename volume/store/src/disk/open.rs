//! Opening a volume for serving.

use std::{collections::HashSet, fs::File, path::Path, sync::atomic::AtomicBool, time::Duration};

use rustix::fs::{AtFlags, CWD, fstat, statat};

use super::{
    Disk, Loaded,
    erase::Found,
    layers::{Layers, Top},
    map::BlockMap,
    slots::Slots,
};
use crate::{
    block::{Layer, chunks},
    budget::Budget,
    error::{Context, Error, ErrorKind, Result},
    files::{Directory, Dirs, Entry, Layout, lock::Lock, parse_number},
    host::Name,
    live::Switch,
    record::{self, BlockCount, Record, Served, Serving, is_unswept},
};

/// How long opening waits for an operation on the volume that is just finishing.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a volume is to be opened, and by whom.
#[derive(Clone, Debug)]
pub struct Open {
    /// The process that serves it, and whether writes are to be refused.
    pub serving: Serving,
}

impl Disk {
    /// Opens what `path` names: the record of a volume, or any plain file, which is loaded into
    /// memory and never written back.
    ///
    /// # Errors
    /// [`ErrorKind::VolumeInUse`] where another process serves the volume; [`ErrorKind::ReadOnly`]
    /// for a snapshot that is to be written; [`ErrorKind::VolumeMissing`]; for a plain file an
    /// error of reading it, and [`ErrorKind::NoSpace`] where it does not fit into memory.
    pub fn open(path: &Path, open: &Open) -> Result<Self> {
        match Layout::of_volume(path) {
            Some((layout, key)) => Self::open_at(&layout, &key, open, PATIENCE),
            None => Loaded::read(path, open.serving.read_only, &AtomicBool::new(false))?.try_into(),
        }
    }

    /// Opens the volume whose record `path` is, without waiting: for an event loop, which tries again
    /// later where an operation on the volume is just finishing. Only a volume: `path` as for
    /// [`Layout::of_volume`].
    ///
    /// # Errors
    /// As [`Disk::open`]; [`ErrorKind::VolumeInUse`] also for a moment.
    pub fn try_open(path: &Path, open: &Open) -> Result<Self> {
        match Layout::of_volume(path) {
            Some((layout, key)) => Self::open_at(&layout, &key, open, Duration::ZERO),
            None => Err(no_volume(path)),
        }
    }

    /// Goes on with a volume that a process has served which has died since: opens it with the lock that
    /// this process had, [`lock`](Self::lock), and that a third process has kept.
    ///
    /// # Errors
    /// As [`Disk::try_open`].
    pub fn take_over(path: &Path, open: &Open, lock: File) -> Result<Self> {
        let found = Layout::of_volume(path);
        let (layout, key) = found.ok_or_else(|| no_volume(path))?;
        let dirs = Dirs::open(&layout)?.ok_or_else(|| missing(&key))?;
        if !dirs.exists(Entry::Volume(&key))? {
            return Err(missing(&key));
        }
        let lock = Lock::inherited_volume(&dirs, &key, lock)?;
        Self::open_locked(&dirs, &key, open, lock.ok_or_else(|| in_use(&dirs, &key))?)
    }

    /// The file that is locked as long as the volume is served; a loaded file has none.
    #[must_use]
    pub fn lock(&self) -> Option<&File> {
        self.serving.as_ref().map(Lock::file)
    }

    fn open_at(layout: &Layout, key: &Name, open: &Open, patience: Duration) -> Result<Self> {
        let dirs = Dirs::open(layout)?.ok_or_else(|| missing(key))?;
        Self::open_volume_within(&dirs, key, open, patience)
    }

    pub(crate) fn open_volume(dirs: &Dirs, key: &Name, open: &Open) -> Result<Self> {
        Self::open_volume_within(dirs, key, open, PATIENCE)
    }

    fn open_volume_within(
        dirs: &Dirs,
        key: &Name,
        open: &Open,
        patience: Duration,
    ) -> Result<Self> {
        if !dirs.exists(Entry::Volume(key))? {
            return Err(missing(key));
        }
        let lock = Lock::volume(dirs, key, patience)?;
        Self::open_locked(dirs, key, open, lock.ok_or_else(|| in_use(dirs, key))?)
    }

    fn open_locked(dirs: &Dirs, key: &Name, open: &Open, lock: Lock) -> Result<Self> {
        let lock_path = || dirs.path(Entry::Serving(key));
        // The text may be that of a dead process, which must not be asked for anything.
        let unswept = is_unswept(dirs, key, &lock)?;
        if unswept {
            Served { by: None, unswept }.write(dirs, &lock).doing("writing", lock_path)?;
        } else {
            Served::clear(dirs, key, &lock)?;
        }
        // From here on the lock keeps the volume from being destroyed or reverted.
        let record = Record::read(dirs, key)?.ok_or_else(|| missing(key))?;
        record.require_no_external_holder("served by another process")?;
        if !record.has_data {
            return Err(Error::new(
                ErrorKind::VolumeMissing,
                format!(
                    "the data of volume {key} was destroyed; only its changed blocks can be listed"
                ),
            ));
        }
        if !open.serving.read_only && !record.read_write() {
            return Err(Error::new(
                ErrorKind::ReadOnly,
                format!(
                    "volume {key} is a snapshot and cannot be written: clone it, or activate it read-only"
                ),
            ));
        }
        let served = Served { by: Some(open.serving.clone()), unswept };
        served.write(dirs, &lock).doing("writing", lock_path)?;
        let write = !open.serving.read_only;
        let map = open_map(dirs, &record, write)?;
        let top = write.then(|| open_top(dirs, record.top, record.size)).transpose()?;
        let sr = record::sr::Record::read(dirs)?.ok_or_else(|| missing(key))?;
        Ok(Self {
            key: Some(key.clone()),
            size: record.size,
            top: if write { record.top } else { 0 },
            map,
            budget: Budget::of_disk(dirs, sr.size)?,
            layers: Layers::new(Some(dirs.clone()), top),
            sole: HashSet::from_iter(record.sole),
            found: Found::default(),
            no_room: None,
            serving: Some(lock),
            unswept,
        })
    }

    /// Takes over the size that the volume's record says by now, or one on the way there.
    ///
    /// # Errors
    /// [`ErrorKind::BadSize`] where the disk would shrink, or become larger than its volume.
    pub fn resize(&mut self, size: u64) -> Result<()> {
        if size < self.size {
            return Err(Error::new(
                ErrorKind::BadSize,
                format!("a disk of {} bytes cannot shrink to {size}", self.size),
            ));
        }
        if let Some(record) = self.record()?.filter(|record| size > record.size) {
            return Err(Error::new(
                ErrorKind::BadSize,
                format!(
                    "volume {} has {} bytes, its disk cannot have {size}",
                    record.key, record.size
                ),
            ));
        }
        self.layers.grow(size)?;
        self.map.grow(chunks(size));
        self.size = size;
        Ok(())
    }

    /// Writes the index as it is now to `switch.index`, and writes to another top from then on.
    ///
    /// # Errors
    /// Then nothing has changed.
    pub fn switch(&mut self, switch: &Switch) -> Result<()> {
        self.writable()?;
        let Some(dirs) = self.layers.dirs().cloned() else {
            return Err(Error::new(ErrorKind::BadArgument, "a loaded file has no snapshots"));
        };
        if switch.top <= self.top {
            // Numbers only grow: a later switch has been obeyed already.
            return Err(Error::new(
                ErrorKind::Busy,
                format!("a switch to layer {:08x} comes too late", switch.top),
            ));
        }
        // The caller has written the new top into the record, and made an empty file for the index.
        // Any other top or file may belong to another volume.
        let is_recorded = self.record()?.is_some_and(|record| record.top == switch.top);
        let index = empty_index(&dirs, &switch.index).filter(|_| is_recorded);
        let Some(index) = index else {
            return Err(Error::new(
                ErrorKind::BadArgument,
                format!(
                    "a switch to layer {:08x} with the index {} does not match the volume's record",
                    switch.top,
                    switch.index.display()
                ),
            ));
        };
        let top = open_top(&dirs, switch.top, self.size)?;
        let file = dirs.edit(index)?;
        dirs.counted(&file, || self.map.save(&file)).doing("writing", || dirs.path(index))?;
        self.layers.freeze(top);
        self.top = switch.top;
        self.sole.clear();
        self.map.set_sole(Vec::new());
        self.leave_to_collection(&dirs);
        Ok(())
    }

    /// Says that nothing is to be swept in the layers that only this disk needs: there are none but a new top. The
    /// operation that had it switched has the others swept.
    fn leave_to_collection(&mut self, dirs: &Dirs) {
        let Some(lock) = self.serving.as_ref().filter(|_| self.unswept) else { return };
        let said = Served { unswept: false, ..Served::read(lock.file()) };
        // Where it stays, a later switch says so again.
        self.unswept = said.write(dirs, lock).is_err();
    }

    /// Reads the sole set from the volume's record again: blocks of those layers are freed when
    /// they are overwritten.
    ///
    /// # Errors
    /// Where the record cannot be read.
    pub fn reload_sole(&mut self) -> Result<()> {
        // A record that names another top is about a switch that is still to come.
        if let Some(record) = self.record()?.filter(|record| record.top == self.top) {
            self.sole = HashSet::from_iter(record.sole);
            self.map.set_sole(record.sole_maps);
        }
        Ok(())
    }

    /// The volume's record as it is now; a loaded file has none.
    fn record(&self) -> Result<Option<Record>> {
        match self.layers.dirs().zip(self.key.as_ref()) {
            Some((dirs, key)) => Record::read(dirs, key),
            None => Ok(None),
        }
    }
}

fn no_volume(path: &Path) -> Error {
    let message = format!("{} is no volume of an SR", path.display());
    Error::new(ErrorKind::BadArgument, message)
}

fn in_use(dirs: &Dirs, key: &Name) -> Error {
    let path = dirs.path(Entry::Serving(key));
    let message =
        format!("volume {key} is served by another process ({} is locked)", path.display());
    Error::new(ErrorKind::VolumeInUse, message)
}

fn missing(key: &Name) -> Error {
    Error::new(ErrorKind::VolumeMissing, format!("there is no volume {key} to be served"))
}

/// The empty index of this SR that a path names, however it is written.
fn empty_index(dirs: &Dirs, path: &Path) -> Option<Entry<'static>> {
    let index = Entry::Index(parse_number(path.file_name()?.to_str()?)?);
    let ours = fstat(dirs.directory(Directory::Indexes).ok()?).ok()?;
    let named = statat(CWD, path.parent()?, AtFlags::empty()).ok()?;
    let is_ours = (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino);
    (is_ours && dirs.stat(index).is_ok_and(|found| found.st_size == 0)).then_some(index)
}

/// The map of a volume that nothing else writes to.
fn open_map(dirs: &Dirs, record: &Record, write: bool) -> Result<BlockMap> {
    let (entry, chunks) = (Entry::Index(record.index), chunks(record.size));
    let index = record::Index::read(dirs, record.index)?;
    let file = if write { dirs.edit(entry)? } else { dirs.read(entry)? };
    let slots = index.said.has_slots.then(|| Slots::new(&file, chunks, write)).transpose();
    let slots = slots.doing("mapping", || dirs.path(entry))?;
    let (sole, blocks) = (record.sole_maps.clone(), BlockCount::new(index.said));
    let map = BlockMap::new(index.to_vec(chunks), write.then_some(file), sole, blocks);
    Ok(match slots {
        Some(slots) => map.with_slots(slots, index.deltas(chunks).map(|(chunk, _)| chunk)),
        None => map,
    })
}

fn open_top(dirs: &Dirs, layer: Layer, size: u64) -> Result<Top> {
    Top::new(layer, dirs.edit(Entry::Layer(layer))?, dirs.edit(Entry::Map(layer))?, size)
}
