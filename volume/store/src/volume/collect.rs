//! Collecting garbage: whatever no record, index or map names is freed. Nothing is copied, and
//! nothing that can be read changes.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::ErrorKind,
    path::Path,
};

use super::{
    Live, Record, Records,
    family::Family,
    free::{Garbage, Pace, Ranges, punch},
    view::{Pages, View, for_data},
};
use crate::{
    block::{BLOCK_BYTES, CHUNK_BLOCKS, Layer, NEVER, PAGE_BYTES, is_data},
    error::{Context, Result},
    host::Name,
    sr::{
        self, DATAPATH_LOCK_SUFFIX, Layout, Sr, files,
        layout::parse_number,
        lock::{Lock, try_lock},
    },
};

/// A bit for each block of a chunk.
type Bits = [u64; (CHUNK_BLOCKS / 64) as usize];

/// What volumes need of an SR.
#[derive(Debug, Default)]
struct Needed {
    indexes: HashSet<u32>,
    pages: HashSet<(Layer, u64)>,
    blocks: HashMap<(Layer, u64), Bits>,
    layers: HashSet<Layer>,
    maps: HashSet<Layer>,
}

impl Sr {
    /// Frees everything that no volume needs: what operations left that were killed, and blocks
    /// that volumes let go of while others still shared their layer. The bytes of data freed.
    ///
    /// # Errors
    /// Where a record or a map cannot be read: what it names is not known, so nothing is freed then.
    pub fn collect(&self, live: &mut dyn Live) -> Result<u64> {
        let lock = self.lock()?;
        self.sr_attached()?;
        self.collect_locked(lock, live)
    }

    /// Finds under the lock what is to be freed, lets go of it, and frees.
    pub(crate) fn collect_locked(&self, lock: Lock, live: &mut dyn Live) -> Result<u64> {
        for name in sr::names(&self.layout.tmp())? {
            files::remove(&self.layout.tmp().join(name.as_str()))?;
        }
        self.remove_copies()?;
        self.remove_orphans(None)?;
        let found = self.volume_records()?;
        self.remove_strays(&found)?;
        let mut family = Family::new(&self.layout, found.all_sound()?);
        self.share_out(&mut family, live)?;
        let mut records = family.records;
        let mut idle = Vec::new();
        for record in &mut records {
            // What nobody serves is held here, so that its top can be looked at too.
            let key = Name::parse(&record.key)?;
            if let Ok(held) = self.hold_now(&key) {
                idle.push((record.top, held));
                if !record.leaving.is_empty() {
                    record.leaving.clear();
                    record.write(&self.layout)?;
                }
            }
        }
        let needed = Needed::of(&self.layout, &records)?;
        let owned: HashSet<Layer> = records.iter().flat_map(Record::owned).collect();
        let still: HashSet<Layer> = idle.iter().map(|&(top, _)| top).collect();
        let in_tops = self.sweep_tops(&still, &needed)?;
        let garbage = self.unnamed(&needed, &owned)?;
        for_numbers(&self.layout.indexes(), |number, path| {
            if needed.indexes.contains(&number) { Ok(()) } else { files::remove(path) }
        })?;
        if idle.len() == records.len() {
            sr::recount(&self.layout)?;
        } else {
            self.give_back(in_tops)?;
        }
        drop((idle, lock));
        // What nobody names will never be named again.
        let owned: Vec<Layer> = owned.into_iter().collect();
        let freed = garbage.free(&self.layout, &owned)?;
        self.give_back(freed)?;
        Ok(in_tops + freed)
    }

    /// Frees what lies in tops that nobody writes to now, and is not named: what writes left that
    /// were killed. Held: the locks of those who could write. The bytes of data freed.
    fn sweep_tops(&self, tops: &HashSet<Layer>, needed: &Needed) -> Result<u64> {
        let mut freed = 0;
        for &top in tops.iter().filter(|&&top| top != NEVER) {
            freed += sweep(&self.layout.layer(top), BLOCK_BYTES, |block| needed.block(top, block))?;
            sweep(&self.layout.map(top), PAGE_BYTES, |chunk| needed.pages.contains(&(top, chunk)))?;
        }
        Ok(freed)
    }

    /// What nobody names in all layers but those that are owned.
    fn unnamed(&self, needed: &Needed, owned: &HashSet<Layer>) -> Result<Garbage> {
        let mut garbage = Garbage::default();
        for_numbers(&self.layout.data(), |layer, path| {
            if needed.layers.contains(&layer) && !owned.contains(&layer) {
                let free = unneeded(path, BLOCK_BYTES, |block| needed.block(layer, block))?;
                garbage.blocks.insert(layer, free);
            } else if !owned.contains(&layer) {
                garbage.layers.push(layer);
            }
            Ok(())
        })?;
        for_numbers(&self.layout.maps(), |layer, path| {
            if needed.maps.contains(&layer) && !owned.contains(&layer) {
                let page = |chunk| needed.pages.contains(&(layer, chunk));
                garbage.pages.insert(layer, unneeded(path, PAGE_BYTES, page)?);
            } else if !owned.contains(&layer) {
                garbage.maps.push(layer);
            }
            Ok(())
        })?;
        garbage.blocks.retain(|_, ranges| !ranges.is_empty());
        garbage.pages.retain(|_, ranges| !ranges.is_empty());
        Ok(garbage)
    }
}

impl Sr {
    /// Removes what a copy left that was killed: hidden snapshots that nobody reads, and copies that
    /// nobody will finish.
    fn remove_copies(&self) -> Result<()> {
        for record in self.volume_records()?.sound {
            if record.hidden && !record.read_write() || record.unfinished {
                let key = Name::parse(&record.key)?;
                if let Ok(_held) = self.hold_now(&key) {
                    self.remove_record(&record)?;
                }
            }
        }
        Ok(())
    }
}

impl Sr {
    /// Removes the clones of non-persistent disks that nobody will ever ask for, of one volume or of
    /// all: the volume is gone, or the session, and the call was killed that should have seen to it.
    /// What they held is garbage from then on. Whether there were any.
    pub(crate) fn remove_orphans(&self, of: Option<&Name>) -> Result<bool> {
        let mut any = false;
        for record in self.volume_records()?.sound {
            let is_meant = of.is_none_or(|of| record.owner.as_deref() == Some(of.as_str()));
            if is_meant && record.is_orphan(&self.layout)? && record.borrower()?.is_none() {
                let key = Name::parse(&record.key)?;
                if let Ok(_held) = self.hold_now(&key) {
                    self.remove_record(&record)?;
                    any = true;
                }
            }
        }
        Ok(any)
    }

    /// Drops the clones that were served in the place of a volume and that its datapath does not
    /// name any more; never one that is served.
    ///
    /// # Errors
    /// [`Kind::SrNotAttached`](crate::Kind), or what [`Sr::collect`] gives.
    pub fn drop_orphans(&self, key: &Name, live: &mut dyn Live) -> Result<()> {
        let lock = self.lock()?;
        self.sr_attached()?;
        if self.remove_orphans(Some(key))? {
            self.collect_locked(lock, live)?;
        }
        Ok(())
    }

    /// Removes what is known of volumes that are gone: what a destruction left that was killed.
    fn remove_strays(&self, found: &Records) -> Result<()> {
        let sound = found.sound.iter().map(|record| record.key.as_str());
        let damaged = found.damaged.iter().map(|damaged| damaged.key.as_str());
        let known: HashSet<&str> = sound.chain(damaged).collect();
        for directory in [self.layout.servings(), self.layout.datapaths()] {
            for name in sr::names(&directory)? {
                let path = directory.join(name.as_str());
                let Some(key) = name.as_str().strip_suffix(DATAPATH_LOCK_SUFFIX) else {
                    if !known.contains(name.as_str()) {
                        files::remove(&path)?;
                    }
                    continue;
                };
                // A call may hold it; without its name a second one would not wait for that.
                if !known.contains(key) {
                    remove_unlocked(&path)?;
                }
            }
        }
        Ok(())
    }
}

/// Removes a lock file, unless somebody holds it.
fn remove_unlocked(path: &Path) -> Result<()> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        file => file.while_doing(|| format!("opening {}", path.display()))?,
    };
    if try_lock(&file)
        .map_err(std::io::Error::from)
        .while_doing(|| format!("locking {}", path.display()))?
    {
        files::remove(path)?;
    }
    Ok(())
}

impl Needed {
    fn of(layout: &Layout, records: &[Record]) -> Result<Self> {
        let mut needed = Self::default();
        let mut pages = Pages::new(layout);
        let mut seen = HashSet::new();
        for record in records {
            needed.indexes.extend(record.base.into_iter().chain([record.index]));
            for view in View::all_of(layout, record)? {
                for (chunk, layer) in view.pages() {
                    let place = (layer, chunk as u64);
                    needed.maps.insert(layer);
                    needed.pages.insert(place);
                    if view.has_data && seen.insert(place) {
                        let page = pages.get(layer, chunk).map_err(|error| {
                            if error.tells_damage() {
                                record.damaged(layout, &error)
                            } else {
                                error
                            }
                        })?;
                        needed.add(chunk as u64, page.as_slice());
                        pages.forget();
                    }
                }
            }
        }
        Ok(needed)
    }

    fn add(&mut self, chunk: u64, page: &[Layer]) {
        let mut position = 0;
        for run in page.chunk_by(|one, other| one == other) {
            let blocks = position..position + run.len();
            position = blocks.end;
            if is_data(run[0]) {
                let bits = self.blocks.entry((run[0], chunk)).or_default();
                blocks.for_each(|block| bits[block / 64] |= 1 << (block % 64));
                self.layers.insert(run[0]);
            }
        }
    }

    fn block(&self, layer: Layer, block: u64) -> bool {
        let position = block % CHUNK_BLOCKS;
        let bits = self.blocks.get(&(layer, block / CHUNK_BLOCKS));
        bits.is_some_and(|bits| {
            bits[usize::try_from(position / 64).expect("in a chunk")] & 1 << (position % 64) != 0
        })
    }
}

/// Punches the allocated units of a file that are not needed. The bytes freed.
fn sweep(path: &Path, unit: u64, needed: impl Fn(u64) -> bool) -> Result<u64> {
    let garbage = unneeded(path, unit, needed)?;
    if garbage.is_empty() { Ok(0) } else { punch(path, &garbage, &mut Pace::hurried()) }
}

/// The allocated units of a file that are not needed, as ranges of bytes.
fn unneeded(path: &Path, unit: u64, needed: impl Fn(u64) -> bool) -> Result<Ranges> {
    let mut garbage = Ranges::new();
    for_allocated(path, |start, end| {
        for number in (start / unit..end.div_ceil(unit)).filter(|&number| !needed(number)) {
            match garbage.last_mut() {
                Some((from, length)) if *from + *length == number * unit => *length += unit,
                _ => garbage.push((number * unit, unit)),
            }
        }
    })?;
    Ok(garbage)
}

/// Calls `each` with the ranges of a file that are allocated: start and end, bytes.
pub(crate) fn for_allocated(path: &Path, mut each: impl FnMut(u64, u64)) -> Result<()> {
    let file = File::open(path).while_doing(|| format!("looking into {}", path.display()))?;
    for_data(&file, path, |start, end| {
        each(start, end);
        Ok(())
    })
}

/// Calls `each` with the files of a directory that are named by numbers.
pub(crate) fn for_numbers(
    directory: &Path,
    mut each: impl FnMut(u32, &Path) -> Result<()>,
) -> Result<()> {
    let entries =
        fs::read_dir(directory).while_doing(|| format!("reading {}", directory.display()))?;
    for entry in entries.flatten() {
        if let Some(number) = entry.file_name().to_str().and_then(parse_number) {
            each(number, &entry.path())?;
        }
    }
    Ok(())
}
