//! Reading the pages of maps, by positioned reads, so that holes stay holes.

use std::{collections::HashMap, fs::File, os::unix::fs::FileExt, rc::Rc};

use super::index::{Named, View, words};
use crate::{
    block::{CHUNK_BLOCKS, Layer, NEVER, PAGE_BYTES},
    error::{Context, Result},
    files::{Dirs, Entry},
};

/// How many map files are kept open: a process has 1024 descriptors, and most chains are shorter.
const FILES_MAX: usize = 256;

/// The entries of one chunk.
pub(crate) type Page = [Layer; CHUNK_BLOCKS as usize];

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
        let mut page = [NEVER; _];
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

    /// The entries of a chunk, of which an index says this.
    pub(crate) fn of(&mut self, named: Named<'_>, chunk: usize) -> Result<Rc<Page>> {
        let mut page = match named.page() {
            Some(layer) => self.get(layer, chunk)?,
            None => Rc::new([named.base; _]),
        };
        if let Some(delta) = named.delta {
            delta.put_over(Rc::make_mut(&mut page).as_mut_slice());
        }
        Ok(page)
    }

    /// The entries of a chunk of a view.
    pub(crate) fn entries(&mut self, view: &View, chunk: usize) -> Result<Rc<Page>> {
        self.of(view.at(chunk), chunk)
    }

    /// Drops the pages read so far: callers go through the chunks one by one.
    pub(crate) fn forget(&mut self) {
        self.pages.clear();
    }
}
