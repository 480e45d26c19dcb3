//! Making the files of an SR from contents.

use std::{collections::BTreeSet, fs::File, os::unix::fs::FileExt};

use super::{Contents, SavedIndex, Unit, runs};
use crate::{
    block::{
        BLOCK_BYTES, CHUNK_BLOCKS, CHUNK_BYTES, LAYER_END, LAYER_FIRST, Layer, NEVER, PAGE_BYTES,
        VOLUME_BYTES_MAX, map_bytes,
    },
    budget::recount,
    error::{Context, Error, ErrorKind, Result},
    files::{self, Dirs, Entry, steps},
    host::{Host, Name},
    memory::human,
    record::{Attachment, Delta, Index, Named, Record, Restored, Said, sr},
};

/// What an SR whose memory was lost is made of.
pub struct Restore<'a> {
    /// Everything but the bytes of the blocks.
    pub contents: &'a Contents,
    /// What the SR says of it.
    pub restored: Restored,
    /// Writes the bytes of all units. An error of it leaves no SR behind.
    pub fill: &'a mut dyn FnMut(&Filler<'_>) -> Result<()>,
}

/// An SR that is being made, for the bytes of its blocks.
#[derive(Debug)]
pub struct Filler<'a> {
    dirs: &'a Dirs,
}

impl Filler<'_> {
    /// What writes the bytes. A thread needs one of its own.
    #[must_use]
    pub fn writer(&self) -> Writer<'_> {
        Writer { dirs: self.dirs, open: None }
    }
}

/// Writes blocks of layers.
#[derive(Debug)]
pub struct Writer<'a> {
    dirs: &'a Dirs,
    open: Option<(u32, File)>,
}

impl Writer<'_> {
    /// Writes the blocks of a unit that the mask names.
    ///
    /// # Errors
    /// Where the memory of the host does not suffice; [`ErrorKind::Corrupt`] where the bytes are not as many as
    /// the mask names.
    pub fn write(&mut self, unit: Unit, mask: u64, bytes: &[u8]) -> Result<()> {
        if bytes.len() as u64 != u64::from(mask.count_ones()) * BLOCK_BYTES {
            return Err(corrupt(format!("{} bytes are no {unit:?}", bytes.len())));
        }
        let entry = Entry::Layer(unit.layer);
        if self.open.as_ref().is_none_or(|(layer, _)| *layer != unit.layer) {
            self.open = Some((unit.layer, self.dirs.edit(entry)?));
        }
        let (_, file) = self.open.as_ref().expect("just opened");
        let mut rest = bytes;
        for (offset, length) in runs(unit, mask) {
            let (run, behind) = rest.split_at(length);
            steps::step();
            file.write_all_at(run, offset).doing("writing", || self.dirs.path(entry))?;
            rest = behind;
        }
        Ok(())
    }
}

impl Contents {
    /// What attaches an SR with these contents on a host, as it was attached when it was saved.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where the record of the SR makes no sense.
    pub fn attachment(&self, uuid: &Name, host: &Host) -> Result<Attachment> {
        let saved: sr::Record = parse(&self.sr, "the SR")?;
        Ok(Attachment {
            uuid: uuid.clone(),
            name: saved.name,
            description: saved.description,
            size: saved.size,
            host: host.uuid.clone(),
            provider: saved.provider,
            save_dir: saved.save_dir,
            swap: saved.swap,
        })
    }
}

impl Restore<'_> {
    /// Fills an SR that has its directories, and a record that says that it is being made. The record that it
    /// has from then on, to be written when all else is there.
    pub(crate) fn run(&mut self, dirs: &Dirs, size: u64) -> Result<sr::Record> {
        let contents = self.contents;
        let saved: sr::Record = parse(&contents.sr, "the SR")?;
        let mut volumes = Vec::with_capacity(contents.volumes.len());
        for text in &contents.volumes {
            volumes.push(parse::<Record>(text, "a volume")?);
        }
        let needed = contents.memory_bytes();
        if needed > size {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!(
                    "SR {} is to have {} (device-config:size), and its save needs {}: give it a larger \
                     size (xe pbd-destroy, xe pbd-create with another device-config:size)",
                    dirs.layout().uuid(),
                    human(size),
                    human(needed)
                ),
            ));
        }
        check(contents, &volumes)?;
        files::replace(dirs, Entry::Numbers, contents.next_number.to_string().as_bytes())?;
        make_files(dirs, contents, &volumes)?;
        (self.fill)(&Filler { dirs })?;
        for volume in &mut volumes {
            if self.restored.older.is_some() && volume.read_write() {
                // It may have had other contents under that identity before the host stopped.
                volume.renew_content_id();
            }
            volume.write(dirs)?;
        }
        recount(dirs)?;
        Ok(sr::Record { restored: Some(self.restored.clone()), ..saved })
    }
}

/// Makes the layers, maps and indexes.
fn make_files(dirs: &Dirs, contents: &Contents, volumes: &[Record]) -> Result<()> {
    let size = volumes.iter().map(|volume| volume.size).max().unwrap_or_default();
    let tops: BTreeSet<Layer> = volumes.iter().filter_map(Record::own_top).collect();
    let mut layers = tops.clone();
    layers.extend(contents.units.keys().map(|unit| unit.layer));
    for layer in layers {
        make(dirs, Entry::Layer(layer), size.next_multiple_of(BLOCK_BYTES))?;
    }
    let mut maps = tops;
    maps.extend(contents.pages.keys().map(|(layer, _)| *layer));
    for layer in maps {
        let entry = Entry::Map(layer);
        let file = make(dirs, entry, map_bytes(size))?;
        for (&(_, chunk), page) in contents.pages.range((layer, 0)..=(layer, u32::MAX)) {
            let bytes: Vec<u8> = page.iter().flat_map(|word| word.to_ne_bytes()).collect();
            steps::write_at(&file, &bytes, u64::from(chunk) * PAGE_BYTES)
                .doing("writing", || dirs.path(entry))?;
        }
    }
    for volume in volumes {
        for number in [Some(volume.index), volume.base].into_iter().flatten() {
            index(&contents.indexes[&number])?.write(dirs, number, volume.size)?;
        }
    }
    Ok(())
}

fn make(dirs: &Dirs, entry: Entry<'_>, length: u64) -> Result<File> {
    let make = || {
        let file = dirs.create(entry)?;
        steps::set_len(&file, length)?;
        Ok::<_, std::io::Error>(file)
    };
    make().doing("creating", || dirs.path(entry))
}

fn index(saved: &SavedIndex) -> Result<Index> {
    let mut index = Index::new(Said { blocks: saved.blocks, has_slots: saved.blocks.is_some() });
    let mut entries = saved.entries.iter().copied().peekable();
    for (chunk, blocks) in &saved.deltas {
        while let Some((before, base)) = entries.next_if(|(entry, _)| entry < chunk) {
            index.push(before as usize, Named { base, delta: None });
        }
        let base = entries.next_if(|(entry, _)| entry == chunk).map_or(NEVER, |(_, base)| base);
        index.push(*chunk as usize, Named { base, delta: Some(&delta(blocks)?) });
    }
    entries.for_each(|(chunk, base)| index.push(chunk as usize, Named { base, delta: None }));
    Ok(index)
}

fn delta(blocks: &[(u32, u32)]) -> Result<Delta> {
    let mut delta = Delta::default();
    let mut last = None;
    for &(position, entry) in blocks {
        let is_next = last.replace(position).is_none_or(|last| last < position);
        let is_possible = is_next && u64::from(position) < CHUNK_BLOCKS && entry != NEVER;
        let more = is_possible.then(|| delta.with(position as usize, entry)).flatten();
        delta = more.ok_or_else(|| corrupt("an index names impossible blocks".to_owned()))?;
    }
    Ok(delta)
}

/// Refuses contents that contradict themselves: no disk could be served from them.
fn check(contents: &Contents, volumes: &[Record]) -> Result<()> {
    let number = |number: u32| (LAYER_FIRST..contents.next_number.min(LAYER_END)).contains(&number);
    for volume in volumes {
        let own = [Some(volume.index), volume.base].into_iter().flatten();
        let wrong = |what: &str| Err(corrupt(format!("volume {} {what}", volume.key)));
        if volume.size == 0 || volume.size > VOLUME_BYTES_MAX {
            return wrong("has no possible size");
        }
        if !own.clone().chain(volume.own_top()).all(number) {
            return wrong("names a number that was never given out");
        }
        for named in own {
            let Some(index) = contents.indexes.get(&named) else {
                return wrong("has no index");
            };
            let chunks = || index.entries.iter().map(|entry| entry.0);
            let deltas = || index.deltas.iter().map(|delta| delta.0);
            let last = chunks().chain(deltas()).max();
            let end = VOLUME_BYTES_MAX / CHUNK_BYTES;
            if !chunks().is_sorted_by(|one, next| one < next)
                || !deltas().is_sorted_by(|one, next| one < next)
                || index.blocks.is_none() && !index.deltas.is_empty()
                || last.is_some_and(|last| u64::from(last) >= end)
            {
                return wrong("has an index that makes no sense");
            }
        }
    }
    let layers = contents.units.keys().map(|unit| unit.layer);
    let unknown = layers.chain(contents.pages.keys().map(|page| page.0)).find(|it| !number(*it));
    match unknown {
        Some(layer) => Err(corrupt(format!("layer {layer:08x} was never given out"))),
        None => Ok(()),
    }
}

fn parse<T: serde::de::DeserializeOwned>(text: &str, what: &str) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|error| corrupt(format!("the record of {what} makes no sense ({error})")))
}

fn corrupt(what: String) -> Error {
    Error::new(ErrorKind::Corrupt, format!("saved contents contradict themselves: {what}"))
}

impl std::fmt::Debug for Restore<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Restore").field("restored", &self.restored).finish_non_exhaustive()
    }
}
