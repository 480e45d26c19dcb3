//! Reading the maps of volumes that nobody serves here: their indexes and pages, by positioned
//! reads, so that holes stay holes.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    rc::Rc,
};

use super::Record;
use crate::{
    block::{CHUNK_BLOCKS, Layer, PAGE_BYTES, chunks, is_data},
    error::{Context, Result},
    sr::Layout,
};

/// The entries of one chunk.
pub(crate) type Page = [Layer; CHUNK_BLOCKS as usize];

/// The index of one volume at one moment.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) index: Vec<Layer>,
    /// Whether what its pages name is needed; else only the pages are.
    pub(crate) has_data: bool,
}

impl View {
    /// What a volume reads, and what it started from.
    pub(crate) fn all_of(layout: &Layout, record: &Record) -> Result<Vec<Self>> {
        let mut views = vec![Self::of(layout, record)?];
        if let Some(base) = record.base {
            let index = read_index(layout, base, record.size)?;
            views.push(Self { index, has_data: false });
        }
        Ok(views)
    }

    /// What a volume reads.
    pub(crate) fn of(layout: &Layout, record: &Record) -> Result<Self> {
        let index = read_index(layout, record.index, record.size)?;
        Ok(Self { index, has_data: record.has_data })
    }

    /// The layer whose map has the page of a chunk, or what all its entries are.
    pub(crate) fn at(&self, chunk: usize) -> Layer {
        self.index.get(chunk).copied().unwrap_or_default()
    }

    /// The chunks that have pages, and the layers whose maps have them.
    pub(crate) fn pages(&self) -> impl Iterator<Item = (usize, Layer)> {
        self.index.iter().copied().enumerate().filter(|&(_, layer)| is_data(layer))
    }
}

/// Reads an index; one that is shorter than the volume ends in chunks that were never written.
pub(crate) fn read_index(layout: &Layout, number: u32, size: u64) -> Result<Vec<Layer>> {
    let path = layout.index(number);
    let bytes = fs::read(&path).while_doing(|| format!("reading {}", path.display()))?;
    let mut index: Vec<Layer> = words(&bytes).collect();
    index.resize(chunks(size), 0);
    Ok(index)
}

/// Writes an index into an empty file; pages of it that say nothing stay holes.
pub(crate) fn write_index(file: &File, index: &[Layer]) -> io::Result<()> {
    file.set_len(index.len() as u64 * 4)?;
    for (page, entries) in index.chunks(CHUNK_BLOCKS as usize).enumerate() {
        if entries.iter().any(|&entry| entry != 0) {
            let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_ne_bytes()).collect();
            file.write_all_at(&bytes, page as u64 * PAGE_BYTES)?;
        }
    }
    Ok(())
}

pub(crate) fn words(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
}

/// The pages of an SR's maps, each read once.
#[derive(Debug)]
pub(crate) struct Pages<'a> {
    layout: &'a Layout,
    file: Option<(Layer, Rc<File>)>,
    pages: HashMap<(Layer, usize), Rc<Page>>,
}

impl<'a> Pages<'a> {
    pub(crate) fn new(layout: &'a Layout) -> Self {
        Self { layout, file: None, pages: HashMap::new() }
    }

    /// The page that the map of `layer` has for `chunk`; an index must name it.
    pub(crate) fn get(&mut self, layer: Layer, chunk: usize) -> Result<Rc<Page>> {
        if let Some(page) = self.pages.get(&(layer, chunk)) {
            return Ok(Rc::clone(page));
        }
        let path = self.layout.map(layer);
        let doing = || format!("reading {}", path.display());
        let file = match &self.file {
            Some((open, file)) if *open == layer => Rc::clone(file),
            _ => Rc::new(File::open(&path).while_doing(doing)?),
        };
        self.file = Some((layer, Rc::clone(&file)));
        let mut bytes = [0; PAGE_BYTES as usize];
        file.read_exact_at(&mut bytes, chunk as u64 * PAGE_BYTES).while_doing(doing)?;
        let mut page = [0; CHUNK_BLOCKS as usize];
        page.iter_mut().zip(words(&bytes)).for_each(|(entry, word)| *entry = word);
        let page = Rc::new(page);
        self.pages.insert((layer, chunk), Rc::clone(&page));
        Ok(page)
    }

    /// The entries of a chunk of a view.
    pub(crate) fn entries(&mut self, view: &View, chunk: usize) -> Result<Rc<Page>> {
        let named = view.at(chunk);
        if is_data(named) { self.get(named, chunk) } else { Ok(Rc::new([named; _])) }
    }

    /// Forgets what was read, where a caller goes through chunks one by one.
    pub(crate) fn forget(&mut self) {
        self.pages.clear();
    }
}
