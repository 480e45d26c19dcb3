//! Reading the maps of volumes, their indexes and pages, by positioned reads, so that holes stay
//! holes.

use std::{
    collections::HashMap, fs::File, io, ops::ControlFlow, os::unix::fs::FileExt, path::PathBuf,
    rc::Rc,
};

use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};

use super::{
    Record,
    blocks::{blocks_of, index_length},
};
use crate::{
    block::{CHUNK_BLOCKS, Layer, NEVER, PAGE_BYTES, chunks, is_data},
    error::{Context, Error, Result},
    files::{self, Dirs, Entry, steps},
};

/// How many map files are kept open: a process has 1024 descriptors, and most chains are shorter.
const FILES_MAX: usize = 256;

/// The entries of one chunk.
pub(crate) type Page = [Layer; ENTRIES];

const ENTRIES: usize = CHUNK_BLOCKS as usize;

/// Bytes of an index that are passed over at once where they are these.
static ZEROES: [u8; 64] = [0; 64];

/// The entries of an index, in ascending order of chunks, without those of chunks that were never
/// written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    entries: Vec<(usize, Layer)>,
    /// How many blocks of data they refer to, as far as that is known.
    pub(crate) blocks: Option<u64>,
}

impl Index {
    /// Reads an index.
    pub(crate) fn read(dirs: &Dirs, number: u32) -> Result<Self> {
        let path = || dirs.path(Entry::Index(number));
        let file = dirs.read(Entry::Index(number))?;
        let length = file.metadata().doing("reading", path)?.len();
        let mut index = Self { entries: Vec::new(), blocks: blocks_of(length) };
        for_data(&file, path, |start, end| {
            let end = end.min(length);
            let mut bytes = vec![0; usize::try_from(end - start).expect("64-bit host")];
            file.read_exact_at(&mut bytes, start).doing("reading", path)?;
            index.parse(usize::try_from(start / 4).expect("64-bit host"), &bytes);
            Ok(())
        })?;
        Ok(index)
    }

    fn parse(&mut self, first: usize, bytes: &[u8]) {
        for (at, run) in bytes.chunks(ZEROES.len()).enumerate() {
            // Huge disks are mostly empty, and so are their indexes.
            if *run != ZEROES[..run.len()] {
                let chunks = first + at * ZEROES.len() / 4..;
                self.entries.extend(chunks.zip(words(run)).filter(|&(_, layer)| layer != NEVER));
            }
        }
    }

    /// The layer whose map has the page of a chunk, or the value of all its entries.
    pub(crate) fn at(&self, chunk: usize) -> Layer {
        // Where there are no gaps, it is where it would be looked for first.
        let found = match self.entries.get(chunk) {
            Some(&(at, _)) if at == chunk => Ok(chunk),
            _ => self.entries.binary_search_by_key(&chunk, |&(at, _)| at),
        };
        found.map_or(NEVER, |position| self.entries[position].1)
    }

    /// The chunks that have pages, and the layers whose maps have them.
    pub(crate) fn pages(&self) -> impl Iterator<Item = (usize, Layer)> {
        self.entries.iter().copied().filter(|&(_, layer)| is_data(layer))
    }

    /// All entries, with their chunks.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (usize, Layer)> {
        self.entries.iter().copied()
    }

    /// Adds an entry behind all others.
    pub(crate) fn push(&mut self, chunk: usize, layer: Layer) {
        debug_assert!(self.entries.last().is_none_or(|&(last, _)| last < chunk));
        if layer != NEVER {
            self.entries.push((chunk, layer));
        }
    }

    /// All entries of a volume of so many chunks.
    pub(crate) fn to_vec(&self, chunks: usize) -> Vec<Layer> {
        let mut all = vec![NEVER; chunks];
        for &(chunk, layer) in self.entries.iter().take_while(|&&(chunk, _)| chunk < chunks) {
            all[chunk] = layer;
        }
        all
    }

    /// Makes an index file of a volume of `size` bytes.
    pub(crate) fn write(&self, dirs: &Dirs, number: u32, size: u64) -> Result<()> {
        let entry = Entry::Index(number);
        let all = self.to_vec(chunks(size));
        files::with_ballast(dirs, || {
            let file = dirs.create(entry)?;
            dirs.counted_new(&file, || write_index(&file, &all, self.blocks))
        })
        .doing("writing", || dirs.path(entry))
    }
}

/// Writes an index into an empty file; pages of it that say nothing stay holes.
pub(crate) fn write_index(file: &File, index: &[Layer], blocks: Option<u64>) -> io::Result<()> {
    steps::set_len(file, blocks.map_or(index.len() as u64 * 4, index_length))?;
    for (page, entries) in index.chunks(ENTRIES).enumerate() {
        if *entries != [NEVER; ENTRIES][..entries.len()] {
            let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_ne_bytes()).collect();
            steps::write_at(file, &bytes, page as u64 * PAGE_BYTES)?;
        }
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

    /// The layer whose map has the page of a chunk, or the value of all its entries.
    pub(crate) fn at(&self, chunk: usize) -> Layer {
        self.index.at(chunk)
    }

    /// The chunks that have pages, and the layers whose maps have them.
    pub(crate) fn pages(&self) -> impl Iterator<Item = (usize, Layer)> {
        self.index.pages()
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

/// The pages of an SR's maps, each read once.
#[derive(Debug)]
pub(crate) struct Pages<'a> {
    dirs: &'a Dirs,
    files: HashMap<Layer, File>,
    pages: HashMap<(Layer, usize), Rc<Page>>,
}

impl<'a> Pages<'a> {
    pub(crate) fn new(dirs: &'a Dirs) -> Self {
        Self { dirs, files: HashMap::new(), pages: HashMap::new() }
    }

    /// Where they are read from.
    pub(crate) fn dirs(&self) -> &'a Dirs {
        self.dirs
    }

    /// The page that the map of `layer` has for `chunk`; an index must name it.
    pub(crate) fn get(&mut self, layer: Layer, chunk: usize) -> Result<Rc<Page>> {
        if let Some(page) = self.pages.get(&(layer, chunk)) {
            return Ok(Rc::clone(page));
        }
        let mut bytes = [0; PAGE_BYTES as usize];
        let read = self.file(layer)?.read_exact_at(&mut bytes, chunk as u64 * PAGE_BYTES);
        read.doing("reading", || self.dirs.path(Entry::Map(layer)))?;
        let mut page = [NEVER; ENTRIES];
        page.iter_mut().zip(words(&bytes)).for_each(|(entry, word)| *entry = word);
        let page = Rc::new(page);
        self.pages.insert((layer, chunk), Rc::clone(&page));
        Ok(page)
    }

    fn file(&mut self, layer: Layer) -> Result<&File> {
        if !self.files.contains_key(&layer) {
            if self.files.len() >= FILES_MAX {
                self.files.clear();
            }
            self.files.insert(layer, self.dirs.read(Entry::Map(layer))?);
        }
        Ok(&self.files[&layer])
    }

    /// The entries of a chunk of a view.
    pub(crate) fn entries(&mut self, view: &View, chunk: usize) -> Result<Rc<Page>> {
        let named = view.at(chunk);
        if is_data(named) { self.get(named, chunk) } else { Ok(Rc::new([named; _])) }
    }

    /// Drops the pages read so far: callers go through the chunks one by one.
    pub(crate) fn forget(&mut self) {
        self.pages.clear();
    }
}
