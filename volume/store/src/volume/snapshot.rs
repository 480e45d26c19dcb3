//! Snapshots and clones: an index is copied, the top is frozen, and nothing else moves.
//!
//! Order, for a kill at any moment: the new top exists; the volume's record names it and the one
//! it leaves; the volume is switched to it; the new volume's record is renamed into place, which
//! commits. Before that there is one frozen layer more than needed, and nothing else.

use std::{
    collections::HashSet,
    thread,
    time::{Duration, Instant},
};

use super::{Volume, content_id::CONTENT_ID};
use crate::{
    block::{BLOCK_BYTES, Layer, NEVER},
    error::{Context, Error, ErrorKind, Result},
    files::{Entry, allocated, lock::Lock},
    host::Name,
    live::{Inactive, Live, Switch},
    record::{Index, Record, Served, Serving, lock_or_served},
    sr::Exclusive,
};

/// How long a process that holds a volume may take to say who it is.
const OPENING: Duration = Duration::from_secs(2);

/// How many servers of a volume may die while it is branched, each one succeeded by another.
const SUCCESSORS_MAX: u32 = 3;

/// The sort of volume to be made from an existing volume's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over<'a> {
    /// Read-only. Changed block tracking stays on or off.
    Snapshot { hidden: bool },
    /// Writable.
    Clone,
    /// Writable, under a key that only a datapath knows.
    HiddenClone(&'a Name),
    /// An unfinished clone: the destination of a write-back.
    WriteBack,
}

/// Whether a process may write to a volume while its structure changes.
#[derive(Debug)]
enum Held {
    /// No process, as long as this lives.
    Idle { _lock: Option<Lock> },
    /// A process that has to be asked to switch.
    Served(Serving),
}

impl Exclusive<'_> {
    /// Makes a read-only volume with the contents that the volume has now.
    ///
    /// # Errors
    /// Those of [`Sr::volume`](crate::Sr::volume); [`ErrorKind::NoSpace`] without room for the map;
    /// [`ErrorKind::Unresponsive`] where the process that serves the volume does not answer.
    pub fn snapshot_volume(&mut self, key: &str, live: &mut dyn Live) -> Result<Volume> {
        self.branch(key, Over::Snapshot { hidden: false }, live)
    }

    /// A snapshot that is not listed: the source of a copy.
    pub(crate) fn snapshot_hidden(&mut self, key: &str, live: &mut dyn Live) -> Result<Volume> {
        self.branch(key, Over::Snapshot { hidden: true }, live)
    }

    /// Makes a writable volume with the contents that the volume has now.
    ///
    /// # Errors
    /// As [`Self::snapshot_volume`].
    pub fn clone_volume(&mut self, key: &str, live: &mut dyn Live) -> Result<Volume> {
        self.branch(key, Over::Clone, live)
    }

    /// Makes a clone that only a datapath knows of, under a key that the caller has chosen: the contents
    /// of a non-persistent disk. One that is there already is left as it is. It is there until
    /// [`Self::end_sessions`], goes with its volume, and is collected where no plugin remembers anything
    /// of the volume ([`PluginState`](crate::PluginState)), which has to be written first.
    ///
    /// # Errors
    /// As [`Self::snapshot_volume`].
    pub fn clone_hidden(&mut self, key: &str, clone: &Name, live: &mut dyn Live) -> Result<()> {
        match self.find_volume(clone)? {
            Some(_) => Ok(()),
            None => self.branch(key, Over::HiddenClone(clone), live).map(drop),
        }
    }

    /// The destination of a write-back.
    pub(crate) fn clone_unfinished(&mut self, key: &Name) -> Result<Name> {
        self.branch(key.as_str(), Over::WriteBack, &mut Inactive).map(|made| made.key)
    }

    /// Held: the SR's lock.
    fn branch(&mut self, key: &str, over: Over<'_>, live: &mut dyn Live) -> Result<Volume> {
        let key = Name::parse(key)?;
        for _ in 0..SUCCESSORS_MAX {
            let done = self.branch_once(&key, over, live);
            // The new one writes to the top that the record names. It freezes that at the next switch,
            // and what the one before wrote to is frozen with it.
            if done.is_ok() || !live.has_successor() {
                return self.branch_idle(&key, over, live, done);
            }
        }
        self.branch_once(&key, over, live)
    }

    /// Tries once more where no process serves the volume any more.
    fn branch_idle(
        &mut self,
        key: &Name,
        over: Over<'_>,
        live: &mut dyn Live,
        done: Result<Volume>,
    ) -> Result<Volume> {
        match done {
            // The process died during the request. Whether it had switched or not: no process
            // serves the volume now, and its data lies in one of the tops that the record names.
            Err(error) if error.kind() == ErrorKind::Unresponsive && self.hold(key, "").is_ok() => {
                self.branch_once(key, over, live)
            }
            done => done,
        }
    }

    fn branch_once(&mut self, key: &Name, over: Over<'_>, live: &mut dyn Live) -> Result<Volume> {
        let mut origin = self.volume_record(key)?;
        origin.require_data()?;
        let held = match over {
            Over::WriteBack => Held::Idle { _lock: Some(self.hold_now(key)?) },
            _ => self.hold_or_served(key)?,
        };
        let (is_clone, hidden, own_key) = match over {
            Over::Snapshot { hidden } => (false, hidden, self.new_key()),
            Over::Clone => (true, false, self.new_key()),
            Over::HiddenClone(clone) => (true, true, clone.clone()),
            Over::WriteBack => (true, true, self.new_key()),
        };
        // The index is there twice in a clone, which begins from one; and the record.
        let bytes = 2 * self.dirs.allocated(Entry::Index(origin.index)) + BLOCK_BYTES;
        let first = self.take_numbers(4, bytes)?;
        let (index, base, own_top, new_top) = (first, first + 1, first + 2, first + 3);
        let mut branch = Record {
            key: own_key,
            owner: matches!(over, Over::HiddenClone(_)).then(|| key.clone()),
            top: if is_clone { own_top } else { NEVER },
            previous_tops: Vec::new(),
            index,
            base: is_clone.then_some(base),
            sole: Vec::new(),
            sole_maps: Vec::new(),
            untold: false,
            cbt_enabled: origin.cbt_enabled && !is_clone,
            hidden,
            unfinished: over == Over::WriteBack,
            external_holder: None,
            keys: [(CONTENT_ID.to_owned(), origin.content_id())].into(),
            ..origin.clone()
        };
        if matches!(held, Held::Served(_)) {
            // What is written from now on is not in the branch.
            origin.renew_content_id();
        }
        let sole = (origin.sole.clone(), origin.sole_maps.clone());
        let made = self.freeze(&mut origin, held, index, new_top, live).and_then(|size| {
            // A disk that is served may have grown since its record was read.
            branch.size = size;
            if is_clone {
                self.copy_index(index, base, branch.size)?;
                self.make_layer(own_top, branch.size)?;
            }
            self.write(&branch)
        });
        if let Err(error) = made {
            // No record names the files that were made for the branch. Without its index a late
            // switch is refused.
            let made = [
                Entry::Index(index),
                Entry::Index(base),
                Entry::Layer(own_top),
                Entry::Map(own_top),
            ];
            made.into_iter().try_for_each(|entry| self.dirs.remove(entry))?;
            // And no other volume shares what only this one has needed.
            if sole != Default::default() {
                (origin.sole, origin.sole_maps) = sole;
                self.write(&origin)?;
            }
            self.done();
            return Err(error);
        }
        if !origin.previous_tops.is_empty() {
            origin.previous_tops.clear();
            // The branch exists even if this fails; the next operation on the volume removes the
            // old top.
            let _kept = self.write(&origin);
        }
        self.done();
        Ok(Volume::of(&self.dirs, branch))
    }

    /// Has the process that serves a volume switch once more, where an earlier switch was not
    /// acknowledged: after that it is certain which layer it writes to, and the others are frozen.
    pub(crate) fn confirm_top(&mut self, key: &Name, live: &mut dyn Live) -> Result<()> {
        let mut origin = self.volume_record(key)?;
        let held = self.hold_or_served(key)?;
        let index = self.take_numbers(2, 0)?;
        let frozen = self.freeze(&mut origin, held, index, index + 1, live);
        self.dirs.remove(Entry::Index(index))?;
        frozen?;
        origin.previous_tops.clear();
        self.write(&origin)?;
        self.done();
        Ok(())
    }

    /// Copies the index of a volume as it is at one moment, from which on the volume writes to
    /// `new_top`. The size at that moment.
    fn freeze(
        &mut self,
        origin: &mut Record,
        held: Held,
        index: u32,
        new_top: Layer,
        live: &mut dyn Live,
    ) -> Result<u64> {
        if !origin.read_write() {
            // Its sole layers are shared from now on.
            origin.clear_sole();
            self.write(origin)?;
            self.copy_index(origin.index, index, origin.size)?;
            return Ok(origin.size);
        }
        // Once they are not in a sole set any more, nothing finds those that are empty.
        self.tidy(&mut origin.sole, Entry::Layer)?;
        self.tidy(&mut origin.sole_maps, Entry::Map)?;
        let maps = origin.sole_maps.clone();
        if origin.untold {
            self.collect_next();
        }
        self.make_layer(new_top, origin.size)?;
        if matches!(held, Held::Idle { .. }) {
            origin.previous_tops.clear();
        }
        origin.previous_tops.push(origin.top);
        origin.top = new_top;
        origin.clear_sole();
        self.write(origin)?;
        let done = match &held {
            Held::Idle { .. } => self.copy_index(origin.index, index, origin.size),
            Held::Served(serving) => {
                let entry = Entry::Index(index);
                let switch = Switch { top: new_top, index: self.dirs.path(entry) };
                self.dirs
                    .create(entry)
                    .doing("creating", || self.dirs.path(entry))
                    .and_then(|_empty| live.switch(&origin.key, serving, &switch))
            }
        };
        // On an error the record keeps both tops, since the volume may be written to in either; the
        // next operation on it decides.
        done?;
        self.remove_unnamed_maps(&maps, index)?;
        for &layer in &origin.previous_tops {
            self.remove_if_empty(Entry::Layer(layer))?;
            self.remove_if_empty(Entry::Map(layer))?;
        }
        Ok(origin.size)
    }

    /// Removes those of the map `files` of which an index names no page: only this volume's index named
    /// pages of them, and `index` is a copy of it. A disk leaves such pages where it writes them anew while maps
    /// are locked, and is closed then.
    fn remove_unnamed_maps(&self, files: &[Layer], index: u32) -> Result<()> {
        if files.is_empty() {
            return Ok(());
        }
        let index = Index::read(&self.dirs, index)?;
        let named: HashSet<Layer> = index.pages().map(|(_, layer)| layer).collect();
        let mut unnamed = files.iter().filter(|layer| !named.contains(layer));
        unnamed.try_for_each(|&layer| self.dirs.remove(Entry::Map(layer)))
    }

    /// Removes the data or the map of a frozen layer that has none: no map names blocks of it, or no index pages.
    fn remove_if_empty(&self, entry: Entry<'_>) -> Result<()> {
        match self.dirs.stat(entry) {
            Ok(found) if allocated(&found) == 0 => {
                self.dirs.unlink_uncounted(entry).doing("removing", || self.dirs.path(entry))
            }
            _ => Ok(()),
        }
    }

    fn copy_index(&self, from: u32, to: u32, size: u64) -> Result<()> {
        Index::read(&self.dirs, from)?.write(&self.dirs, to, size)
    }

    /// Locks the volume, or finds the process that serves it.
    fn hold_or_served(&self, key: &Name) -> Result<Held> {
        let record = self.volume_record(key)?;
        if !record.living_holder()?.is_some_and(|holder| holder.read_only) {
            record.require_no_external_holder("copied")?;
        }
        let start = Instant::now();
        loop {
            match lock_or_served(&self.dirs, key)? {
                Ok(lock) => {
                    self.collect_next_if_unswept(key, &lock)?;
                    return Ok(Held::Idle { _lock: Some(lock) });
                }
                Err(Served { by: Some(by), unswept }) => {
                    if by.read_only {
                        // It does not write, and its lock keeps others from writing.
                        return Ok(Held::Idle { _lock: None });
                    }
                    if unswept {
                        // What it writes to is frozen, and can be swept then.
                        self.collect_next();
                    }
                    return Ok(Held::Served(by));
                }
                // It is just being opened or closed.
                _ if start.elapsed() < OPENING => thread::sleep(OPENING / 1000),
                _ => return self.hold(key, "changed").map(|lock| Held::Idle { _lock: Some(lock) }),
            }
        }
    }
}

impl Record {
    pub(crate) fn require_data(&self) -> Result<()> {
        if self.has_data {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::NoData,
            format!(
                "the data of volume {} was destroyed; only its changed blocks can be listed",
                self.key
            ),
        ))
    }
}
