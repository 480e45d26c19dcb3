//! Snapshots and clones: an index is copied, the top is frozen, and nothing else moves.
//!
//! Order, for a kill at any moment: the new top exists; the volume's record names it and the one
//! it leaves; the volume is switched to it; the new volume's record is renamed into place, which
//! commits. Before that there is one frozen layer more than needed, and nothing else.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use super::{
    Record, Volume,
    create::new_key,
    live::{Inactive, Live, Switch},
    view::Index,
};
use crate::{
    block::{Layer, NEVER},
    error::{Context, Error, Kind, Result},
    host::Name,
    sr::{Serving, Sr, allocated, files, lock::Lock, record::take_numbers, steps},
};

/// How long a process that holds a volume may take to say who it is.
const OPENING: Duration = Duration::from_secs(2);

/// What a new volume over an existing one's data is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over<'a> {
    /// Read-only, keeping whether changed block tracking is on.
    Snapshot { hidden: bool },
    /// Writable.
    Clone,
    /// Writable, under a key that only a datapath knows.
    HiddenClone(&'a Name),
    /// A clone that is of no use before it is finished: what comes back of a lent volume.
    Return,
}

/// Who may write to a volume while its structure changes.
#[derive(Debug)]
enum Held {
    /// Nobody, as long as this lives.
    Idle { _lock: Option<Lock> },
    /// A process that has to be told.
    Served(Serving),
}

impl Sr {
    /// Makes a read-only volume that keeps what the volume reads now.
    ///
    /// # Errors
    /// Those of [`Sr::volume`]; [`Kind::NoSpace`] without room for the map;
    /// [`Kind::Unresponsive`] where the process that serves the volume does not answer.
    pub fn snapshot(&self, key: &str, live: &mut dyn Live) -> Result<Volume> {
        let _lock = self.lock()?;
        self.branch(key, Over::Snapshot { hidden: false }, live)
    }

    /// A snapshot that nobody is to see: what is copied from.
    pub(crate) fn snapshot_hidden(
        &self,
        _lock: &Lock,
        key: &str,
        live: &mut dyn Live,
    ) -> Result<Volume> {
        self.branch(key, Over::Snapshot { hidden: true }, live)
    }

    /// Makes a writable volume that reads what the volume reads now.
    ///
    /// # Errors
    /// As [`Sr::snapshot`].
    pub fn clone_volume(&self, key: &str, live: &mut dyn Live) -> Result<Volume> {
        let _lock = self.lock()?;
        self.branch(key, Over::Clone, live)
    }

    /// A key for [`Sr::clone_hidden`], which no volume has.
    ///
    /// # Errors
    /// [`Kind::SrNotAttached`].
    pub fn new_key(&self) -> Result<Name> {
        Name::parse(&new_key(&self.record()?.generation))
    }

    /// Makes a clone that only a datapath knows of: the contents of a non-persistent disk. One that
    /// is there already is left as it is.
    ///
    /// The caller chooses the clone's key and writes it into the file [`Layout::datapath`] of `key`
    /// first: a collection takes away what that file does not name (any more), and the clone goes
    /// with the volume.
    ///
    /// [`Layout::datapath`]: crate::Layout::datapath
    ///
    /// # Errors
    /// As [`Sr::snapshot`].
    pub fn clone_hidden(&self, key: &str, clone: &Name, live: &mut dyn Live) -> Result<()> {
        let _lock = self.lock()?;
        match Record::read(&self.layout, clone)? {
            Some(_) => self.sr_attached(),
            None => self.branch(key, Over::HiddenClone(clone), live).map(drop),
        }
    }

    /// A clone of a lent volume, into which its contents come back.
    pub(crate) fn clone_unfinished(&self, _lock: &Lock, key: &Name) -> Result<Name> {
        self.branch(key.as_str(), Over::Return, &mut Inactive).map(|made| made.key)
    }

    /// Held: the SR's lock.
    fn branch(&self, key: &str, over: Over<'_>, live: &mut dyn Live) -> Result<Volume> {
        let key = Name::parse(key)?;
        match self.branch_once(&key, over, live) {
            // It died over the question. Whether it had obeyed or not: by now nobody serves the
            // volume, and what was written lies in one of the tops that the record names.
            Err(error) if error.kind() == Kind::Unresponsive && self.hold(&key, "").is_ok() => {
                self.branch_once(&key, over, live)
            }
            done => done,
        }
    }

    fn branch_once(&self, key: &Name, over: Over<'_>, live: &mut dyn Live) -> Result<Volume> {
        let generation = self.record()?.generation;
        let mut origin = self.volume_record(key)?;
        origin.require_data()?;
        let held = match over {
            Over::Return => Held::Idle { _lock: Some(self.hold_now(key)?) },
            _ => self.hold_or_served(key)?,
        };
        let (is_clone, hidden, own_key) = match over {
            Over::Snapshot { hidden } => (false, hidden, new_key(&generation)),
            Over::Clone => (true, false, new_key(&generation)),
            Over::HiddenClone(clone) => (true, true, clone.to_string()),
            Over::Return => (true, true, new_key(&generation)),
        };
        let first = take_numbers(&self.layout, 4)?;
        let (index, base, own_top, new_top) = (first, first + 1, first + 2, first + 3);
        let mut branch = Record {
            key: own_key,
            owner: matches!(over, Over::HiddenClone(_)).then(|| key.to_string()),
            top: if is_clone { own_top } else { NEVER },
            leaving: Vec::new(),
            index,
            base: is_clone.then_some(base),
            sole: Vec::new(),
            cbt_enabled: origin.cbt_enabled && !is_clone,
            hidden,
            unfinished: over == Over::Return,
            loan: None,
            keys: [].into(),
            ..origin.clone()
        };
        let made = self.freeze(&mut origin, held, index, new_top, live).and_then(|size| {
            // A disk that is served may have grown since its record was read.
            branch.size = size;
            if is_clone {
                self.copy_index(index, base, branch.size)?;
                self.make_layer(own_top, branch.size)?;
            }
            branch.write(&self.layout)
        });
        if let Err(error) = made {
            // What was made for the branch is named by nobody. Without its index a switch that
            // comes late is refused.
            let (layer, map) = (self.layout.layer(own_top), self.layout.map(own_top));
            for path in [self.layout.index(index), self.layout.index(base), layer, map] {
                files::remove(&path)?;
            }
            return Err(error);
        }
        if !origin.leaving.is_empty() {
            origin.leaving.clear();
            // The branch is there, whatever comes of this; the next operation brings it to rest.
            let _kept = origin.write(&self.layout);
        }
        Ok(self.describe(branch))
    }

    /// Copies the index of a volume as it is at one moment, from which on the volume writes to
    /// `new_top`. The size at that moment.
    fn freeze(
        &self,
        origin: &mut Record,
        held: Held,
        index: u32,
        new_top: Layer,
        live: &mut dyn Live,
    ) -> Result<u64> {
        if !origin.read_write() {
            // Whatever it was the only one to need, is shared now.
            origin.sole.clear();
            origin.write(&self.layout)?;
            self.copy_index(origin.index, index, origin.size)?;
            return Ok(origin.size);
        }
        self.make_layer(new_top, origin.size)?;
        if matches!(held, Held::Idle { .. }) {
            origin.leaving.clear();
        }
        origin.leaving.push(origin.top);
        origin.top = new_top;
        origin.sole.clear();
        origin.write(&self.layout)?;
        let done = match &held {
            Held::Idle { .. } => self.copy_index(origin.index, index, origin.size),
            Held::Served(serving) => {
                let switch = Switch { top: new_top, index: self.layout.index(index) };
                make_empty(&switch.index)
                    .and_then(|()| live.switch(&Name::parse(&origin.key)?, serving, &switch))
            }
        };
        // An error leaves the record as it is: whether the volume is written to in its old top or
        // in the new one, both are kept, and the next operation on it brings it to rest.
        done?;
        for layer in &origin.leaving {
            self.remove_empty_layer(*layer)?;
        }
        Ok(origin.size)
    }

    /// A layer in which nothing lies is named by nobody once it is frozen.
    fn remove_empty_layer(&self, layer: Layer) -> Result<()> {
        let (data, map) = (self.layout.layer(layer), self.layout.map(layer));
        let is_empty = |path| fs::metadata(path).is_ok_and(|found| allocated(&found) == 0);
        if is_empty(&data) && is_empty(&map) {
            files::remove(&data)?;
            files::remove(&map)?;
        }
        Ok(())
    }

    fn copy_index(&self, from: u32, to: u32, size: u64) -> Result<()> {
        Index::read(&self.layout, from)?.write(&self.layout, to, size)
    }

    /// Sees to it that nobody writes to the volume, or knows who does.
    fn hold_or_served(&self, key: &Name) -> Result<Held> {
        let record = self.volume_record(key)?;
        if !record.borrower()?.is_some_and(|borrower| borrower.read_only) {
            record.require_home("copied")?;
        }
        let start = Instant::now();
        loop {
            if let Ok(lock) = self.hold_now(key) {
                return Ok(Held::Idle { _lock: Some(lock) });
            }
            match self.serving(key)? {
                // Nobody writes, and the lock that it holds keeps everybody from doing so.
                Some(serving) if serving.read_only => return Ok(Held::Idle { _lock: None }),
                Some(serving) if serving.pid != 0 => return Ok(Held::Served(serving)),
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
            Kind::NoData,
            format!("the data of volume {} was destroyed; only what changed can be told", self.key),
        ))
    }
}

fn make_empty(path: &std::path::Path) -> Result<()> {
    steps::create(path).map(drop).while_doing(|| format!("creating {}", path.display()))
}
