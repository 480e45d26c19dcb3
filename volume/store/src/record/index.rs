//! Reading and writing the indexes of volumes, by positioned reads and writes, so that holes stay holes.

use std::{fs::File, io, ops::ControlFlow, os::unix::fs::FileExt, path::PathBuf};

use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};

use super::{
    Record,
    blocks::{SLOTS_AT, Said},
    delta::{Delta, SLOT_BYTES, SLOT_WORDS, SlotWords},
};
use crate::{
    block::{CHUNK_BLOCKS, Layer, NEVER, PAGE_BYTES, chunks, is_data},
    error::{Context, Error, ErrorKind, Result},
    files::{self, Dirs, Entry, steps},
};

/// Entries in a page of the file.
const ENTRIES: usize = CHUNK_BLOCKS as usize;

/// Bytes of an index that are passed over at once where they are these.
static ZEROES: [u8; SLOT_BYTES] = [0; SLOT_BYTES];

/// Slots in a page of the file.
const SLOTS: usize = PAGE_BYTES as usize / SLOT_BYTES;

/// How many bytes of slots are written at once.
const WRITE_BYTES: usize = 64 << 10;

/// A slot as it is in the file, with its chunk.
type Slot = (usize, SlotWords);

/// What an index says of a chunk. Where it is the same of two, they are the same; where it differs, they may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Named<'a> {
    /// The layer whose map has the page of the chunk, or the value of all entries.
    pub(crate) base: Layer,
    /// Blocks of which it says something else.
    pub(crate) delta: Option<&'a Delta>,
}

impl Named<'_> {
    /// The layer whose map has the page.
    pub(crate) fn page(self) -> Option<Layer> {
        Some(self.base).filter(|&base| is_data(base))
    }

    /// Whether blocks of the chunk may lie in a layer: a page of an older one cannot name a newer one.
    pub(crate) fn may_name(self, layer: Layer) -> bool {
        let is_in = |delta: &Delta| delta.pairs().any(|(_, entry)| entry == layer);
        is_data(self.base) && self.base >= layer || self.delta.is_some_and(is_in)
    }
}

/// The entries of an index, in ascending order of chunks, without those of chunks that were never
/// written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    items: Vec<Item>,
    deltas: Vec<Delta>,
    /// What its length says.
    pub(crate) said: Said,
    /// A chunk whose slot does not count for what the index says of the chunk.
    pub(crate) stale: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Item {
    chunk: usize,
    base: Layer,
    /// Which of the deltas is about it, or [`NO_DELTA`].
    delta: u32,
}

const NO_DELTA: u32 = u32::MAX;

impl Index {
    /// An index without entries that may get deltas or not.
    pub(crate) fn new(said: Said) -> Self {
        Self { said, ..Self::default() }
    }

    /// Reads an index, its slots before its entries: see [`Delta`].
    pub(crate) fn read(dirs: &Dirs, number: u32) -> Result<Self> {
        let path = || dirs.path(Entry::Index(number));
        let file = dirs.read(Entry::Index(number))?;
        let length = file.metadata().doing("reading", path)?.len();
        let said = Said::of(length);
        let mut slots = Vec::new();
        let mut bytes = Vec::new();
        let mut read = |start: u64, end: u64, parse: &mut dyn FnMut(u64, &[u8])| -> Result<()> {
            bytes.resize(usize::try_from(end - start).expect("64-bit host"), 0);
            file.read_exact_at(&mut bytes, start).doing("reading", path)?;
            parse(start, &bytes);
            Ok(())
        };
        if said.has_slots {
            for_data_from(&file, SLOTS_AT, path, |start, end| {
                read(start, end, &mut |start, bytes| parse_slots(start, bytes, &mut slots))?;
                Ok(ControlFlow::Continue(()))
            })?;
        }
        let mut index = Self::new(said);
        for_data_until(&file, path, |start, end| {
            let end = end.min(length).min(SLOTS_AT);
            if start >= end {
                return Ok(ControlFlow::Break(()));
            }
            read(start, end, &mut |start, bytes| {
                index.parse(usize::try_from(start / 4).expect("64-bit host"), bytes);
            })?;
            Ok(ControlFlow::Continue(()))
        })?;
        if !slots.is_empty() {
            index.add_slots(&slots).map_err(|chunk| {
                let path = path();
                let text = format!(
                    "{} is damaged (what it says of single blocks of chunk {chunk} makes no sense)",
                    path.display()
                );
                Error::new(ErrorKind::Corrupt, text)
            })?;
        }
        Ok(index)
    }

    fn parse(&mut self, first: usize, bytes: &[u8]) {
        for (at, run) in bytes.chunks(ZEROES.len()).enumerate() {
            // Huge disks are mostly empty, and so are their indexes.
            if *run != ZEROES[..run.len()] {
                let chunks = first + at * ZEROES.len() / 4..;
                let items = chunks.zip(words(run)).filter(|&(_, base)| base != NEVER);
                self.items.extend(items.map(|(chunk, base)| Item { chunk, base, delta: NO_DELTA }));
            }
        }
    }

    /// Adds the deltas that count; `Err`: the chunk of one that makes no sense.
    fn add_slots(&mut self, slots: &[Slot]) -> std::result::Result<(), usize> {
        let known = std::mem::take(&mut self.items);
        let mut known = known.into_iter().peekable();
        for (chunk, slot) in slots {
            while let Some(item) = known.next_if(|item| item.chunk < *chunk) {
                self.items.push(item);
            }
            let item = known.next_if(|item| item.chunk == *chunk);
            let base = item.map_or(NEVER, |item| item.base);
            let delta = Delta::parse(slot, base).map_err(|_senseless| *chunk)?;
            if delta.is_none() {
                self.stale.get_or_insert(*chunk);
            }
            self.push(*chunk, Named { base, delta: delta.as_ref() });
        }
        self.items.extend(known);
        Ok(())
    }

    /// What it says of a chunk.
    pub(crate) fn at(&self, chunk: usize) -> Named<'_> {
        self.find(chunk).map_or(Named::default(), |item| self.named(item))
    }

    fn find(&self, chunk: usize) -> Option<Item> {
        // Where there are no gaps, it is where it would be looked for first.
        let found = match self.items.get(chunk) {
            Some(item) if item.chunk == chunk => Ok(chunk),
            _ => self.items.binary_search_by_key(&chunk, |item| item.chunk),
        };
        found.ok().map(|position| self.items[position])
    }

    fn named(&self, item: Item) -> Named<'_> {
        Named { base: item.base, delta: self.deltas.get(item.delta as usize) }
    }

    /// The chunks that have pages, and the layers whose maps have them.
    pub(crate) fn pages(&self) -> impl Iterator<Item = (usize, Layer)> {
        self.items.iter().map(|item| (item.chunk, item.base)).filter(|&(_, base)| is_data(base))
    }

    /// The chunks of which some blocks may hold data.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = (usize, Named<'_>)> {
        self.all().filter(|(_, named)| named.page().is_some() || named.delta.is_some())
    }

    /// All chunks of which it says anything.
    pub(crate) fn all(&self) -> impl Iterator<Item = (usize, Named<'_>)> {
        self.items.iter().map(|&item| (item.chunk, self.named(item)))
    }

    /// Adds a chunk behind all others.
    pub(crate) fn push(&mut self, chunk: usize, named: Named<'_>) {
        debug_assert!(self.items.last().is_none_or(|last| last.chunk < chunk));
        debug_assert!(self.said.has_slots || named.delta.is_none());
        let mut item = Item { chunk, base: named.base, delta: NO_DELTA };
        if let Some(delta) = named.delta {
            item.delta = u32::try_from(self.deltas.len()).expect("less than there are chunks");
            self.deltas.push(*delta);
        }
        if named != Named::default() {
            self.items.push(item);
        }
    }

    /// All entries of a volume of so many chunks.
    pub(crate) fn to_vec(&self, chunks: usize) -> Vec<Layer> {
        let mut all = vec![NEVER; chunks];
        for item in self.items.iter().take_while(|item| item.chunk < chunks) {
            all[item.chunk] = item.base;
        }
        all
    }

    /// The deltas of a volume of so many chunks.
    pub(crate) fn deltas(&self, chunks: usize) -> impl Iterator<Item = (usize, Delta)> {
        let all = self.all().take_while(move |&(chunk, _)| chunk < chunks);
        all.filter_map(|(chunk, named)| Some((chunk, *named.delta?)))
    }

    /// Makes an index file of a volume of `size` bytes.
    pub(crate) fn write(&self, dirs: &Dirs, number: u32, size: u64) -> Result<()> {
        let entry = Entry::Index(number);
        let chunks = chunks(size);
        let all = self.to_vec(chunks);
        let slots = || self.deltas(chunks).map(|(chunk, delta)| (chunk, delta.to_slot(all[chunk])));
        files::with_ballast(dirs, || {
            let file = dirs.create(entry)?;
            dirs.counted_new(&file, || write_index(&file, &all, slots(), self.said))
        })
        .doing("writing", || dirs.path(entry))
    }
}

/// Adds the slots of a part of an index that say anything.
fn parse_slots(start: u64, bytes: &[u8], slots: &mut Vec<Slot>) {
    let first = usize::try_from(start - SLOTS_AT).expect("64-bit host") / SLOT_BYTES;
    for (chunk, run) in (first..).zip(bytes.chunks_exact(SLOT_BYTES)) {
        if *run != ZEROES {
            let mut slot = [0; SLOT_WORDS];
            slot.iter_mut().zip(words(run)).for_each(|(to, word)| *to = word);
            slots.push((chunk, slot));
        }
    }
}

/// Writes an index into an empty file, with slots in the order of their chunks; pages of it that say nothing stay
/// holes.
pub(crate) fn write_index(
    file: &File,
    index: &[Layer],
    slots: impl Iterator<Item = Slot>,
    said: Said,
) -> io::Result<()> {
    steps::set_len(file, said.length(index.len()))?;
    for (page, entries) in index.chunks(ENTRIES).enumerate() {
        if *entries != [NEVER; ENTRIES][..entries.len()] {
            let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_ne_bytes()).collect();
            steps::write_at(file, &bytes, page as u64 * PAGE_BYTES)?;
        }
    }
    let mut slots = slots.peekable();
    let mut bytes = Vec::new();
    while let Some(&(chunk, _)) = slots.peek() {
        let first = chunk / SLOTS * SLOTS;
        bytes.clear();
        // Those of this page, and of the next ones while there are any.
        while let Some((chunk, slot)) = slots.next_if(|(chunk, _)| {
            let at = (chunk - first) * SLOT_BYTES;
            at < WRITE_BYTES && at < bytes.len() + PAGE_BYTES as usize
        }) {
            let at = (chunk - first) * SLOT_BYTES;
            if at >= bytes.len() {
                bytes.resize(bytes.len() + PAGE_BYTES as usize, 0);
            }
            for (to, word) in bytes[at..].chunks_exact_mut(4).zip(slot) {
                to.copy_from_slice(&word.to_ne_bytes());
            }
        }
        steps::write_at(file, &bytes, SLOTS_AT + (first * SLOT_BYTES) as u64)?;
    }
    Ok(())
}

/// The index of one volume at one moment.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) index: Index,
    /// Whether the blocks that its pages name are needed, and not only the pages.
    pub(crate) has_data: bool,
    /// The number of the index.
    pub(crate) number: u32,
}

impl View {
    /// The current index of a volume, and the one that it started from.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`](crate::ErrorKind) where an index is missing. So for those that follow.
    pub(crate) fn all_of(dirs: &Dirs, record: &Record) -> Result<Vec<Self>> {
        let mut views = vec![Self::of(dirs, record)?];
        if let Some(base) = record.base {
            let index = Self::index(dirs, record, base)?;
            views.push(Self { index, has_data: false, number: base });
        }
        Ok(views)
    }

    /// The current index of a volume.
    pub(crate) fn of(dirs: &Dirs, record: &Record) -> Result<Self> {
        let index = Self::index(dirs, record, record.index)?;
        Ok(Self { index, has_data: record.has_data, number: record.index })
    }

    /// One of the indexes of a volume.
    pub(crate) fn index(dirs: &Dirs, record: &Record, number: u32) -> Result<Index> {
        Index::read(dirs, number).map_err(|error| {
            if error.tells_damage() { record.damaged(dirs, &error) } else { error }
        })
    }

    /// What it says of a chunk.
    pub(crate) fn at(&self, chunk: usize) -> Named<'_> {
        self.index.at(chunk)
    }

    /// The chunks that have pages, and the layers whose maps have them.
    pub(crate) fn pages(&self) -> impl Iterator<Item = (usize, Layer)> {
        self.index.pages()
    }

    /// The chunks of which some blocks may hold data.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = (usize, Named<'_>)> {
        self.index.chunks()
    }
}

/// Calls `each` with the ranges of a file that are allocated: start and end, bytes.
pub(crate) fn for_data(
    file: &File,
    path: impl Fn() -> PathBuf,
    mut each: impl FnMut(u64, u64) -> Result<()>,
) -> Result<()> {
    for_data_until(file, path, |start, end| each(start, end).map(ControlFlow::<(), ()>::Continue))
}

/// The same until it has enough.
pub(crate) fn for_data_until(
    file: &File,
    path: impl Fn() -> PathBuf,
    each: impl FnMut(u64, u64) -> Result<ControlFlow<()>>,
) -> Result<()> {
    for_data_from(file, 0, path, each)
}

/// The same from an offset on.
pub(crate) fn for_data_from(
    file: &File,
    mut at: u64,
    path: impl Fn() -> PathBuf,
    mut each: impl FnMut(u64, u64) -> Result<ControlFlow<()>>,
) -> Result<()> {
    const DOING: &str = "looking for data in";
    loop {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(()),
            Err(error) => return Err(Error::os(DOING, path(), error.into())),
        };
        at = seek(file, SeekFrom::Hole(start)).doing(DOING, &path)?;
        if each(start, at)?.is_break() {
            return Ok(());
        }
    }
}

pub(crate) fn words(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
}
