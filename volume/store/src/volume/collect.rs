//! Collecting garbage: blocks, pages and files that no record, index or map names are freed.
//! Nothing is copied, and nothing that can be read changes.

use std::{
    collections::{HashMap, HashSet},
    fs::TryLockError,
};

use super::{
    free::{Garbage, Pace, Ranges, punch},
    sharing::SharingVolumes,
};
use crate::{
    block::{BLOCK_BYTES, CHUNK_BLOCKS, Layer, NEVER, PAGE_BYTES, is_data},
    budget::recount,
    error::{Context, Result},
    files::{Directory, Dirs, Entry, Mark, STATE_LOCK_SUFFIX},
    host::Name,
    live::Live,
    record::{Pages, Record, Records, Served, View, blocks_in, for_data, set_blocks},
    sr::Exclusive,
};

/// A bit for each block of a chunk.
type Bits = [u64; (CHUNK_BLOCKS / 64) as usize];

/// What a collection has found.
#[derive(Debug)]
struct Collected {
    /// Bytes of data that it has freed already, in layers that volumes write to.
    in_tops: u64,
    garbage: Garbage,
    /// Layers that volumes write to.
    owned: Vec<Layer>,
}

/// Everything that the volumes of an SR need.
#[derive(Debug, Default)]
struct Needed {
    indexes: HashSet<u32>,
    pages: HashSet<(Layer, u64)>,
    blocks: HashMap<(Layer, u64), Bits>,
    /// How many blocks of data each page names, and each index of a volume with data, by its number.
    in_page: HashMap<(Layer, u64), u64>,
    in_index: HashMap<u32, u64>,
    layers: HashSet<Layer>,
    maps: HashSet<Layer>,
}

impl Exclusive<'_> {
    /// Frees everything that no volume needs: the leftovers of killed operations, and blocks that a
    /// volume stopped using while others still shared their layer. Returns the bytes of data freed.
    ///
    /// # Errors
    /// If a record or a map cannot be read. Nothing is freed then, as the blocks that it names are
    /// not known.
    pub fn collect(mut self, live: &mut dyn Live) -> Result<u64> {
        let dirs = self.dirs.clone();
        let found = self.collect_locked(live);
        // Where it fails, the next operation would fail in the same way.
        self.collected();
        let Collected { in_tops, garbage, owned } = found?;
        let freed = in_tops + self.unlock_and_free(garbage, &owned)?;
        recount(&dirs)?;
        Ok(freed)
    }

    /// Finds what no volume needs, and frees what only the SR's lock protects.
    fn collect_locked(&mut self, live: &mut dyn Live) -> Result<Collected> {
        self.begin();
        let dirs = self.dirs.clone();
        Mark::remove_temporary(&dirs)?;
        self.remove_copies()?;
        self.remove_session_clones(None)?;
        let found = self.volume_records()?;
        self.remove_leftovers(&found)?;
        let uncertain = |record: &&Record| !record.previous_tops.is_empty();
        if live.reaches() {
            for record in found.sound.iter().filter(uncertain) {
                // On an error all tops that it may write to are kept.
                let _unconfirmed = self.confirm_top(&record.key, live);
            }
        }
        let found = self.volume_records()?;
        let mut sharing = SharingVolumes::new(&dirs, found.all_sound()?);
        self.share_out(&mut sharing, live)?;
        let mut records = sharing.records;
        let mut idle = Vec::new();
        for record in &mut records {
            // Volumes that are not served are locked here, so that their tops can be examined too.
            if let Ok(held) = self.hold_now(&record.key) {
                idle.push((record.key.clone(), record.top, record.index, held));
                if !record.previous_tops.is_empty() || record.untold {
                    record.previous_tops.clear();
                    record.untold = false;
                    self.write(record)?;
                }
            }
        }
        let needed = Needed::of(&dirs, &records)?;
        let owned: HashSet<Layer> = records.iter().flat_map(Record::owned).collect();
        let still: HashSet<Layer> = idle.iter().map(|&(_, top, ..)| top).collect();
        for &(_, _, index, _) in &idle {
            self.count_again(index, &needed)?;
        }
        let in_tops = self.sweep_tops(&still, &needed)?;
        let garbage = self.unnamed(&needed, &owned)?;
        for number in dirs.numbers(Directory::Indexes)? {
            if !needed.indexes.contains(&number) {
                dirs.remove(Entry::Index(number))?;
            }
        }
        for (key, .., held) in &idle {
            Served::clear(&dirs, key, held)?;
        }
        Ok(Collected { in_tops, garbage, owned: owned.into_iter().collect() })
    }

    /// Corrects what an index says of its blocks: a disk that was killed may have left it behind.
    fn count_again(&self, index: u32, needed: &Needed) -> Result<()> {
        match needed.in_index.get(&index) {
            Some(&blocks) if blocks_in(&self.dirs, index) != Some(blocks) => {
                let entry = Entry::Index(index);
                let path = || self.dirs.path(entry);
                set_blocks(&self.dirs.edit(entry)?, blocks).doing("counting the blocks of", path)
            }
            _ => Ok(()),
        }
    }

    /// Frees blocks and pages of tops that no map names: leftovers of killed writes. The locks of
    /// these volumes are held. Returns the bytes of data freed.
    fn sweep_tops(&self, tops: &HashSet<Layer>, needed: &Needed) -> Result<u64> {
        let mut freed = 0;
        for &top in tops.iter().filter(|&&top| top != NEVER) {
            freed +=
                self.sweep(Entry::Layer(top), BLOCK_BYTES, |block| needed.block(top, block))?;
            self.sweep(Entry::Map(top), PAGE_BYTES, |chunk| needed.pages.contains(&(top, chunk)))?;
        }
        Ok(freed)
    }

    /// The blocks and pages without a name in all layers that no volume owns.
    fn unnamed(&self, needed: &Needed, owned: &HashSet<Layer>) -> Result<Garbage> {
        let mut garbage = Garbage::default();
        for layer in self.dirs.numbers(Directory::Data)? {
            if needed.layers.contains(&layer) && !owned.contains(&layer) {
                let block = |block| needed.block(layer, block);
                let free = unneeded(&self.dirs, Entry::Layer(layer), BLOCK_BYTES, block)?;
                garbage.blocks.insert(layer, free);
            } else if !owned.contains(&layer) {
                garbage.layers.push(layer);
            }
        }
        for layer in self.dirs.numbers(Directory::Maps)? {
            if needed.maps.contains(&layer) && !owned.contains(&layer) {
                let page = |chunk| needed.pages.contains(&(layer, chunk));
                let free = unneeded(&self.dirs, Entry::Map(layer), PAGE_BYTES, page)?;
                garbage.pages.insert(layer, free);
            } else if !owned.contains(&layer) {
                garbage.maps.push(layer);
            }
        }
        garbage.blocks.retain(|_, ranges| !ranges.is_empty());
        garbage.pages.retain(|_, ranges| !ranges.is_empty());
        Ok(garbage)
    }

    /// Punches the allocated units of a file that are not needed. The bytes freed.
    fn sweep(&self, entry: Entry<'_>, unit: u64, needed: impl Fn(u64) -> bool) -> Result<u64> {
        let garbage = unneeded(&self.dirs, entry, unit, needed)?;
        if garbage.is_empty() {
            return Ok(0);
        }
        punch(&self.dirs, entry, &garbage, &mut Pace::hurried())
    }
}

impl Exclusive<'_> {
    /// Removes the leftovers of killed copies: hidden snapshots that no process reads, and
    /// unfinished copies that no process holds.
    fn remove_copies(&mut self) -> Result<()> {
        for record in self.volume_records()?.sound {
            if (record.hidden && !record.read_write() || record.unfinished)
                && let Ok(_held) = self.hold_now(&record.key)
            {
                self.remove_record(&record)?;
            }
        }
        Ok(())
    }
}

impl Exclusive<'_> {
    /// Removes the clones of non-persistent disks that no call will ask for any more, or those of
    /// the volume `of`. Their blocks are garbage from then on. Returns whether there were any.
    pub(crate) fn remove_session_clones(&mut self, of: Option<&Name>) -> Result<bool> {
        let mut any = false;
        for record in self.volume_records()?.sound {
            let is_meant = match of {
                Some(of) => record.owner.as_ref() == Some(of),
                None => record.is_orphan(&self.dirs)?,
            };
            if is_meant
                && record.living_holder()?.is_none()
                && let Ok(_held) = self.hold_now(&record.key)
            {
                self.remove_record(&record)?;
                any = true;
            }
        }
        Ok(any)
    }

    /// Ends the non-persistent sessions of a volume: their clones are destroyed, except one that is
    /// served at this moment.
    ///
    /// # Errors
    /// Those of [`Self::collect`].
    pub fn end_sessions(mut self, key: &Name, live: &mut dyn Live) -> Result<()> {
        if self.remove_session_clones(Some(key))? {
            self.collect(live)?;
        }
        Ok(())
    }

    /// Removes lock files and plugin states of volumes that do not exist: leftovers of killed
    /// destructions.
    fn remove_leftovers(&self, found: &Records) -> Result<()> {
        let sound = found.sound.iter().map(|record| record.key.as_str());
        let damaged = found.damaged.iter().map(|damaged| damaged.key.as_str());
        let known: HashSet<&str> = sound.chain(damaged).collect();
        for directory in [Directory::Servings, Directory::States] {
            for name in self.dirs.names(directory)? {
                let entry = Entry::Named(directory, name.as_str());
                let Some(key) = name.as_str().strip_suffix(STATE_LOCK_SUFFIX) else {
                    if !known.contains(name.as_str()) {
                        self.dirs.remove(entry)?;
                    }
                    continue;
                };
                // A call may hold it. If its name were removed, a second call would make another
                // file and not wait.
                if !known.contains(key) {
                    self.remove_unlocked(entry)?;
                }
            }
        }
        Ok(())
    }

    /// Removes a lock file, unless it is held.
    fn remove_unlocked(&self, entry: Entry<'_>) -> Result<()> {
        let file = match self.dirs.read(entry) {
            Err(error) if error.is_missing_file() => return Ok(()),
            file => file?,
        };
        match file.try_lock() {
            Ok(()) => self.dirs.remove(entry),
            Err(TryLockError::WouldBlock) => Ok(()),
            Err(TryLockError::Error(error)) => {
                Err(error).doing("locking", || self.dirs.path(entry))
            }
        }
    }
}

impl Needed {
    fn of(dirs: &Dirs, records: &[Record]) -> Result<Self> {
        let mut needed = Self::default();
        let mut pages = Pages::new(dirs);
        for record in records {
            needed.indexes.extend(record.base.into_iter().chain([record.index]));
            for view in View::all_of(dirs, record)? {
                let mut blocks = 0;
                for (chunk, named) in view.chunks() {
                    if let Some(layer) = named.page() {
                        needed.maps.insert(layer);
                        needed.pages.insert((layer, chunk as u64));
                    }
                    if !view.has_data {
                        continue;
                    }
                    // What an index says of single blocks no other one says, but for copies of it.
                    let page = named.page().filter(|_| named.delta.is_none());
                    let place = page.map(|layer| (layer, chunk as u64));
                    if let Some(known) = place.and_then(|place| needed.in_page.get(&place)) {
                        blocks += known;
                        continue;
                    }
                    let page = pages.of(named, chunk).map_err(|error| {
                        if error.tells_damage() { record.damaged(dirs, &error) } else { error }
                    })?;
                    let data = needed.add(chunk as u64, page.as_slice());
                    pages.forget();
                    blocks += data;
                    needed.in_page.extend(place.map(|place| (place, data)));
                }
                if view.has_data {
                    needed.in_index.insert(view.number, blocks);
                }
            }
        }
        Ok(needed)
    }

    /// Adds the blocks of a chunk; how many of them hold data.
    fn add(&mut self, chunk: u64, page: &[Layer]) -> u64 {
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
        page.iter().filter(|it| is_data(**it)).count() as u64
    }

    fn block(&self, layer: Layer, block: u64) -> bool {
        let position = block % CHUNK_BLOCKS;
        let bits = self.blocks.get(&(layer, block / CHUNK_BLOCKS));
        bits.is_some_and(|bits| {
            bits[usize::try_from(position / 64).expect("in a chunk")] & 1 << (position % 64) != 0
        })
    }
}

/// The allocated units of a file that are not needed, as ranges of bytes.
pub(crate) fn unneeded(
    dirs: &Dirs,
    entry: Entry<'_>,
    unit: u64,
    mut needed: impl FnMut(u64) -> bool,
) -> Result<Ranges> {
    let mut garbage = Ranges::new();
    for_allocated(dirs, entry, |start, end| {
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
pub(crate) fn for_allocated(
    dirs: &Dirs,
    entry: Entry<'_>,
    mut each: impl FnMut(u64, u64),
) -> Result<()> {
    for_data(
        &dirs.read(entry)?,
        || dirs.path(entry),
        |start, end| {
            each(start, end);
            Ok(())
        },
    )
}
