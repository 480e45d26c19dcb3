//! Opening a volume for serving.

use std::{
    collections::HashSet,
    fs::{self, OpenOptions},
    path::Path,
    time::Duration,
};

use super::{
    Disk,
    layers::{Layers, Top, open_layer},
    map::BlockMap,
};
use crate::{
    block::{Layer, chunks},
    error::{Context, Error, Kind, Result},
    host::Name,
    sr::{self, Layout, Serving, files, lock::Lock, steps},
    volume::{self, Record, Switch},
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
    /// [`Kind::VolumeInUse`] where another process serves the volume; [`Kind::ReadOnly`] for a
    /// snapshot that is to be written; [`Kind::VolumeMissing`]; for a plain file what reading it
    /// gives, and [`Kind::NoSpace`] where it does not fit into memory.
    pub fn open(path: &Path, open: &Open) -> Result<Self> {
        match Layout::of_volume(path) {
            Some((layout, key)) => Self::open_volume(layout, &key, open),
            None => Self::load(path, open.serving.read_only),
        }
    }

    fn open_volume(layout: Layout, key: &Name, open: &Open) -> Result<Self> {
        let missing =
            || Error::new(Kind::VolumeMissing, format!("there is no volume {key} to be served"));
        if !layout.volume(key).exists() {
            return Err(missing());
        }
        let lock_path = layout.serving(key);
        let Some(lock) = Lock::wait(&lock_path, PATIENCE)? else {
            return Err(Error::new(
                Kind::VolumeInUse,
                format!(
                    "volume {key} is served by another process ({} is locked)",
                    lock_path.display()
                ),
            ));
        };
        // What a dead process said of itself is not true any more.
        lock.clear().while_doing(|| format!("clearing {}", lock_path.display()))?;
        // Only now is it sure that nobody destroys or reverts it.
        let record = Record::read(&layout, key)?.ok_or_else(missing)?;
        record.require_home("served by another process")?;
        if !record.has_data {
            return Err(Error::new(
                Kind::VolumeMissing,
                format!("the data of volume {key} was destroyed; only what changed can be told"),
            ));
        }
        if !open.serving.read_only && !record.read_write() {
            return Err(Error::new(
                Kind::ReadOnly,
                format!(
                    "volume {key} is a snapshot and cannot be written: clone it, or activate it read-only"
                ),
            ));
        }
        say_who(&layout, &lock_path, &open.serving)?;
        let index = volume::Index::read(&layout, record.index)?.to_vec(chunks(record.size));
        let index_path = layout.index(record.index);
        let index_file = OpenOptions::new()
            .write(!open.serving.read_only)
            .read(true)
            .open(&index_path)
            .while_doing(|| format!("opening {}", index_path.display()))?;
        let write = !open.serving.read_only;
        let top = write.then(|| open_top(&layout, record.top, record.size)).transpose()?;
        Ok(Self {
            key: Some(key.clone()),
            size: record.size,
            top: if write { record.top } else { 0 },
            map: BlockMap::new(index, write.then_some(index_file)),
            budget: sr::budget(&layout)?,
            layers: Layers::new(Some(layout), top),
            sole: HashSet::from_iter(record.sole),
            _serving: Some(lock),
        })
    }

    /// Takes over the size that the volume's record says by now, or one on the way there.
    ///
    /// # Errors
    /// [`Kind::BadSize`] where the disk would shrink, or become larger than its volume.
    pub fn resize(&mut self, size: u64) -> Result<()> {
        if size < self.size {
            return Err(Error::new(
                Kind::BadSize,
                format!("a disk of {} bytes cannot shrink to {size}", self.size),
            ));
        }
        if let Some(record) = self.record()?.filter(|record| size > record.size) {
            return Err(Error::new(
                Kind::BadSize,
                format!("volume {} has {} bytes and not {size}", record.key, record.size),
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
        let Some(layout) = self.layers.layout().cloned() else {
            return Err(Error::new(Kind::BadArgument, "a loaded file has no snapshots"));
        };
        if switch.top <= self.top {
            // Numbers only grow: a later switch has been obeyed already.
            return Err(Error::new(
                Kind::Busy,
                format!("a switch to layer {:08x} comes too late", switch.top),
            ));
        }
        let path = &switch.index;
        // Whoever asks has written the new top into the record, and made the file for the index.
        // Anything else would write over what belongs to others.
        let is_recorded = self.record()?.is_some_and(|record| record.top == switch.top);
        let is_index = lies_in(path, &layout.indexes()) && is_empty(path);
        if !is_recorded || !is_index {
            return Err(Error::new(
                Kind::BadArgument,
                format!(
                    "a switch to layer {:08x} with the index {} is none that the volume's record \
                     knows of",
                    switch.top,
                    path.display()
                ),
            ));
        }
        let top = open_top(&layout, switch.top, self.size)?;
        OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|file| self.map.save(&file))
            .while_doing(|| format!("writing {}", path.display()))?;
        self.layers.freeze(top);
        self.top = switch.top;
        self.sole.clear();
        Ok(())
    }

    /// Takes over the sole set that the volume's record says by now: what is overwritten in those
    /// layers is freed.
    ///
    /// # Errors
    /// Where the record cannot be read.
    pub fn reload_sole(&mut self) -> Result<()> {
        // A record that names another top is about a switch that is still to come.
        if let Some(record) = self.record()?.filter(|record| record.top == self.top) {
            self.sole = HashSet::from_iter(record.sole);
        }
        Ok(())
    }

    /// What the volume's record says by now; a loaded file has none.
    fn record(&self) -> Result<Option<Record>> {
        match self.layers.layout().zip(self.key.as_ref()) {
            Some((layout, key)) => Record::read(layout, key),
            None => Ok(None),
        }
    }
}

/// Whether a file lies in a directory, whatever the two are called.
fn lies_in(path: &Path, directory: &Path) -> bool {
    let place = |path: &Path| fs::canonicalize(path).ok();
    let found = path.parent().and_then(place);
    found.is_some() && found == place(directory)
}

fn is_empty(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() == 0)
}

fn open_top(layout: &Layout, layer: Layer, size: u64) -> Result<Top> {
    let open = |path: fn(&Layout, Layer) -> std::path::PathBuf| {
        open_layer(Some(layout), layer, path, true)
    };
    Top::new(layer, open(Layout::layer)?, open(Layout::map)?, size)
}

/// Writes into the lock file who holds it.
fn say_who(layout: &Layout, path: &Path, serving: &Serving) -> Result<()> {
    let text = serde_json::to_vec(serving).expect("a plain structure");
    // Written in place: a rename would leave the lock on a file that nobody finds any more.
    files::with_ballast(layout, || steps::write_at(&steps::create(path)?, &text, 0))
        .while_doing(|| format!("writing {}", path.display()))
}
