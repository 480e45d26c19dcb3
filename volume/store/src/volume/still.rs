//! Taking the contents of an SR out of its files.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    marker::PhantomData,
    os::unix::fs::FileExt,
    time::Duration,
};

use crate::{
    block::{BLOCK_BYTES, CHUNK_BLOCKS, NEVER, is_data},
    contents::{Contents, SavedIndex, UNIT_BLOCKS, Unit, runs},
    error::{Context, ErrorKind, Result},
    files::{Dirs, Entry, Mark, lock::Lock},
    host::Name,
    live::Live,
    record::{
        Delta, Index, Named, Pages, Record, Records, Serving, View, served_by, sr::next_number,
    },
    sr::{Exclusive, Sr, check_idle},
};

/// How long disks are held at most while a snapshot is taken of each, which takes milliseconds.
const HOLD: Duration = Duration::from_secs(5);

/// Locks of hidden snapshots, and their sizes and indexes.
type Snapshots = (Vec<Lock>, HashMap<Name, u64>, HashMap<Name, u32>);

/// The contents of an SR as they were at one moment, and their bytes, which no process changes or frees as long
/// as this lives.
#[derive(Debug)]
pub struct Still<'a> {
    dirs: Dirs,
    contents: Contents,
    /// Damaged volumes that were left out, each with why.
    left_out: Vec<String>,
    /// Of an idle SR, keep its volumes from being served; of a running one, keep the hidden snapshots from being
    /// collected.
    locks: Vec<Lock>,
    /// Has those of a process that dies collected by the next operation.
    mark: Option<Mark>,
    _locked: PhantomData<&'a ()>,
}

impl Still<'_> {
    /// The contents.
    #[must_use]
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Volumes that are not among them because their records or maps are damaged, each with why.
    #[must_use]
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// Ends what a running SR was held by: from then on blocks are freed that only this has needed.
    ///
    /// # Errors
    /// Where the SR cannot be locked, or what is not needed not freed; a later collection does that then.
    pub fn end(self, sr: &Sr, live: &mut dyn Live) -> Result<()> {
        drop(self.locks);
        sr.lock()?.collect(live)?;
        if let Some(mark) = self.mark {
            mark.end();
        }
        Ok(())
    }

    /// The bytes.
    #[must_use]
    pub fn blocks(&self) -> Blocks<'_> {
        Blocks { dirs: &self.dirs }
    }
}

/// The bytes of blocks, for several threads.
#[derive(Clone, Copy, Debug)]
pub struct Blocks<'a> {
    dirs: &'a Dirs,
}

impl<'a> Blocks<'a> {
    /// What reads them. A thread needs one of its own.
    #[must_use]
    pub fn reader(self) -> Reader<'a> {
        Reader { dirs: self.dirs, open: None }
    }
}

/// Reads blocks of layers.
#[derive(Debug)]
pub struct Reader<'a> {
    dirs: &'a Dirs,
    open: Option<(u32, File)>,
}

impl Reader<'_> {
    /// Replaces `bytes` by the blocks of a unit that the mask names, in order.
    ///
    /// # Errors
    /// Where the layer cannot be read.
    pub fn read(&mut self, unit: Unit, mask: u64, bytes: &mut Vec<u8>) -> Result<()> {
        let entry = Entry::Layer(unit.layer);
        if self.open.as_ref().is_none_or(|(layer, _)| *layer != unit.layer) {
            self.open = Some((unit.layer, self.dirs.read(entry)?));
        }
        let (_, file) = self.open.as_ref().expect("just opened");
        bytes.resize(mask.count_ones() as usize * BLOCK_BYTES as usize, 0);
        let mut rest = bytes.as_mut_slice();
        for (offset, length) in runs(unit, mask) {
            let (run, behind) = rest.split_at_mut(length);
            file.read_exact_at(run, offset).doing("reading", || self.dirs.path(entry))?;
            rest = behind;
        }
        Ok(())
    }
}

impl Exclusive<'_> {
    /// The contents of an SR of which no disk is active; none becomes active as long as they are held.
    /// `incomplete`: damaged volumes are left out; else there must be none.
    ///
    /// # Errors
    /// [`ErrorKind::SrInUse`] where a disk is active; [`ErrorKind::Corrupt`] where a volume is damaged.
    pub fn still(&self, incomplete: bool) -> Result<Still<'_>> {
        check_idle(&self.dirs, "saved")?;
        let (records, left_out) = self.to_save(incomplete)?;
        let mut locks = Vec::new();
        for record in records.iter().filter(|record| record.read_write()) {
            locks.push(self.hold(&record.key, "saved")?);
        }
        let (contents, more) = self.gather(&records, &HashMap::new(), incomplete)?;
        Ok(Still {
            dirs: self.dirs.clone(),
            contents,
            left_out: [left_out, more].concat(),
            locks,
            mark: None,
            _locked: PhantomData,
        })
    }

    /// The contents of an SR whose disks may be active, as they are at one moment, at which no disk takes a request. After it disks are written to and
    /// volumes come and go while they are held, which is by a hidden snapshot of each volume: a process that dies
    /// leaves those to the next collection. [`Still::end`] ends them.
    ///
    /// # Errors
    /// As [`Self::still`] and [`Self::snapshot_volume`].
    pub fn still_running(
        mut self,
        live: &mut dyn Live,
        incomplete: bool,
    ) -> Result<Still<'static>> {
        // Where one of the snapshots fails, those before it are collected, too.
        let mark = Some(self.mark());
        let (records, left_out) = self.to_save(incomplete)?;
        let held = self.hold_served(&records, live)?;
        let made = self.snapshot_all(&records, live);
        // In any case: no disk stands still for longer than it has to.
        let released = release(&held, live);
        let (locks, sizes, indexes) = made?;
        released?;
        let (mut records, _) = self.to_save(incomplete)?;
        for record in &mut records {
            // A disk may have grown just before.
            record.size = sizes.get(&record.key).copied().unwrap_or(record.size);
        }
        let (contents, more) = self.gather(&records, &indexes, incomplete)?;
        let dirs = self.dirs.clone();
        let left_out = [left_out, more].concat();
        Ok(Still { dirs, contents, left_out, locks, mark, _locked: PhantomData })
    }

    /// Has no request taken of any disk, so that what is written to one of them after an answer from another is
    /// not saved without that: file systems and databases that span disks rely on the order.
    fn hold_served(&self, records: &[Record], live: &mut dyn Live) -> Result<Vec<(Name, Serving)>> {
        let mut held = Vec::new();
        for record in records.iter().filter(|record| record.read_write()) {
            let Some(serving) = served_by(&self.dirs, &record.key)? else { continue };
            if serving.read_only {
                continue;
            }
            if let Err(error) = live.hold(&record.key, &serving, HOLD) {
                // Those that are not reached go on by themselves.
                let _released = release(&held, live);
                return Err(error);
            }
            held.push((record.key.clone(), serving));
        }
        Ok(held)
    }

    /// A hidden snapshot of each volume with data: what keeps it from being collected, and its size and index by
    /// the key of the volume.
    fn snapshot_all(&mut self, records: &[Record], live: &mut dyn Live) -> Result<Snapshots> {
        let (mut locks, mut sizes, mut indexes) = Snapshots::default();
        for record in records.iter().filter(|record| record.has_data) {
            let made = self.snapshot_hidden(record.key.as_str(), live)?;
            locks.push(self.hold_now(&made.key)?);
            sizes.insert(record.key.clone(), made.size);
            indexes.insert(record.key.clone(), self.volume_record(&made.key)?.index);
        }
        Ok((locks, sizes, indexes))
    }

    /// The records that are saved, and why others are not.
    fn to_save(&self, incomplete: bool) -> Result<(Vec<Record>, Vec<String>)> {
        let found = self.volume_records()?;
        let (mut records, left_out) = if incomplete {
            let Records { sound, damaged } = found;
            (sound, damaged.iter().map(|it| it.error.chain()).collect())
        } else {
            (found.all_sound()?, Vec::new())
        };
        records.retain(|record| !record.hidden && !record.unfinished);
        Ok((records, left_out))
    }

    /// The contents, with those indexes in place of the volumes' own.
    fn gather(
        &self,
        records: &[Record],
        indexes: &HashMap<Name, u32>,
        incomplete: bool,
    ) -> Result<(Contents, Vec<String>)> {
        let mut contents = Contents {
            sr: json(self.record()),
            next_number: next_number(&self.dirs)?,
            ..Contents::default()
        };
        let mut left_out = Vec::new();
        let mut pages = Pages::new(&self.dirs);
        for record in records {
            let frozen = indexes.get(&record.key).copied().unwrap_or(record.index);
            match views(&self.dirs, record, frozen)
                .and_then(|views| add(&mut contents, &views, record, &mut pages))
            {
                Ok(()) => contents.volumes.push(json(&lasting(record))),
                Err(error) if incomplete && error.kind() == ErrorKind::Corrupt => {
                    left_out.push(error.chain());
                }
                Err(error) => return Err(error),
            }
            pages.forget();
        }
        Ok((contents, left_out))
    }
}

/// Has disks go on. The first error is that of a disk that went on before.
fn release(held: &[(Name, Serving)], live: &mut dyn Live) -> Result<()> {
    let mut outcome = Ok(());
    for (key, serving) in held {
        let released = live.release(key, serving);
        outcome = outcome.and(released);
    }
    outcome
}

/// The indexes of a volume, `frozen` in place of its own.
fn views(dirs: &Dirs, record: &Record, frozen: u32) -> Result<Vec<View>> {
    let index = View::index(dirs, record, frozen)?;
    let mut views = vec![View { index, has_data: record.has_data, number: record.index }];
    if let Some(base) = record.base {
        let index = View::index(dirs, record, base)?;
        views.push(View { index, has_data: false, number: base });
    }
    Ok(views)
}

/// Adds what the views of a volume name.
fn add(
    contents: &mut Contents,
    views: &[View],
    record: &Record,
    pages: &mut Pages<'_>,
) -> Result<()> {
    for view in views {
        for (chunk, named) in view.chunks() {
            let chunk_number = u32::try_from(chunk).expect("within the largest volume");
            let dirs = pages.dirs();
            let mut read = |named| {
                pages.of(named, chunk).map_err(|error| {
                    if error.tells_damage() { record.damaged(dirs, &error) } else { error }
                })
            };
            if let Some(layer) = named.page() {
                let page = read(Named { delta: None, ..named })?;
                contents.pages.entry((layer, chunk_number)).or_insert_with(|| Box::new(*page));
            }
            if view.has_data {
                name_blocks(&mut contents.units, chunk_number, read(named)?.as_slice());
            }
        }
        contents.indexes.insert(view.number, saved(&view.index));
    }
    Ok(())
}

fn saved(index: &Index) -> SavedIndex {
    let number = |chunk: usize| u32::try_from(chunk).expect("within the largest volume");
    let entries = index.all().filter(|(_, named)| named.base != NEVER);
    let blocks = |delta: &Delta| delta.pairs().map(|(at, entry)| (number(at), entry)).collect();
    let deltas = index.all().filter_map(|(chunk, it)| Some((number(chunk), blocks(it.delta?))));
    SavedIndex {
        blocks: index.said.blocks,
        entries: entries.map(|(chunk, named)| (number(chunk), named.base)).collect(),
        deltas: deltas.collect(),
    }
}

/// Sets the bits of the blocks that a page names.
fn name_blocks(units: &mut BTreeMap<Unit, u64>, chunk: u32, page: &[u32]) {
    const UNITS: u32 = (CHUNK_BLOCKS / UNIT_BLOCKS) as u32;
    for (position, blocks) in (0..).zip(page.chunks(UNIT_BLOCKS as usize)) {
        let mut at = 0;
        for run in blocks.chunk_by(|one, other| one == other) {
            let length = u32::try_from(run.len()).expect("at most 64");
            if is_data(run[0]) {
                let unit = Unit { layer: run[0], number: chunk * UNITS + position };
                *units.entry(unit).or_default() |= (u64::MAX >> (64 - length)) << at;
            }
            at += length;
        }
    }
}

/// A record without what only a running host has.
fn lasting(record: &Record) -> Record {
    Record {
        previous_tops: Vec::new(),
        external_holder: None,
        untold: false,
        // They are found again where the SR is attached.
        sole: Vec::new(),
        sole_maps: Vec::new(),
        ..record.clone()
    }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("records have string keys and no failing fields")
}
