//! The block map of a disk: its index in this process's heap, its pages in mapped map files.
//!
//! The index is read once and written through, so that no hole of it is ever touched through a
//! mapping; only pages that it names are.

use std::{
    collections::HashSet,
    fs::{File, TryLockError},
    io,
    sync::atomic::{AtomicU32, Ordering},
};

use super::layers::{Layers, Top, layer_name};
use crate::{
    block::{CHUNK_BLOCKS, Layer, NEVER, PAGE_BYTES, is_data},
    budget::{Budget, Purpose},
    error::{Context, Error, Result},
    files::steps,
    record::{BlockCount, write_index},
};

const CHUNK: usize = CHUNK_BLOCKS as usize;

/// What new pages of the map count against, and what for.
type Room<'a> = (&'a Budget, Purpose);

#[derive(Debug)]
pub(super) struct BlockMap {
    index: Vec<Layer>,
    /// Where the index is kept; a loaded file keeps none.
    file: Option<File>,
    /// Which pages of that file are allocated.
    file_pages: Vec<bool>,
    /// Frozen layers whose map pages no other index names: a page of them is freed once the index names
    /// another one in its place.
    sole: HashSet<Layer>,
    /// Such pages, by layer and chunk, that are still to be freed: an operation on the SR was reading maps.
    superseded: Vec<(Layer, usize)>,
    /// What an operation has locked while it reads maps, once it was needed.
    maps_lock: Option<File>,
    blocks: BlockCount,
}

impl BlockMap {
    pub(super) fn new(
        index: Vec<Layer>,
        file: Option<File>,
        sole: Vec<Layer>,
        blocks: BlockCount,
    ) -> Self {
        // Those that say nothing were not written: see `write_index`.
        let file_pages =
            index.chunks(CHUNK).map(|page| page.iter().any(|&it| it != NEVER)).collect();
        let sole = HashSet::from_iter(sole);
        Self { index, file, file_pages, sole, superseded: Vec::new(), maps_lock: None, blocks }
    }

    /// Replaces the set of layers whose superseded map pages are freed.
    pub(super) fn set_sole(&mut self, sole: Vec<Layer>) {
        self.sole = HashSet::from_iter(sole);
    }

    /// The index, which it gives up.
    pub(super) fn take_index(&mut self) -> Vec<Layer> {
        std::mem::take(&mut self.index)
    }

    /// Whether there are pages that are still to be freed.
    pub(super) fn has_superseded(&self) -> bool {
        !self.superseded.is_empty()
    }

    /// Has the index say how many blocks hold data now.
    pub(super) fn note_blocks(&mut self) {
        self.blocks.note(self.file.as_ref());
    }

    /// Counts blocks that hold data from now on, and blocks that held data.
    pub(super) fn count_blocks(&mut self, more: u64, less: u64) {
        self.blocks.change(more, less, self.file.as_ref());
    }

    /// Has chunks that were never written at the end.
    pub(super) fn grow(&mut self, chunks: usize) {
        self.index.resize(chunks, NEVER);
        self.file_pages.resize(chunks.div_ceil(CHUNK), false);
    }

    /// Writes the index as it is into an empty file.
    pub(super) fn save(&self, file: &File) -> io::Result<()> {
        write_index(file, &self.index, self.blocks.get())
    }

    /// The entry of the index for a chunk.
    pub(super) fn chunk(&self, chunk: usize) -> Layer {
        self.index[chunk]
    }

    /// Has the entry of a block fetched into the cache, where its map is mapped.
    #[inline]
    pub(super) fn prefetch(&self, layers: &Layers, block: u64) {
        let (chunk, position) = split(block);
        let Some(&named) = self.index.get(chunk).filter(|&&named| is_data(named)) else { return };
        if let Some(words) = layers.mapped_words(named) {
            words.prefetch(chunk * CHUNK + position);
        }
    }

    /// The layer of `block`, and where the run of blocks with the same layer ends, at most at `end`.
    pub(super) fn run(&self, layers: &mut Layers, block: u64, end: u64) -> Result<(Layer, u64)> {
        let (mut chunk, mut position) = split(block);
        let mut at = block;
        let mut found = None;
        while at < end {
            let count = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK - position);
            let named = self.index[chunk];
            let same = if is_data(named) {
                let first = chunk * CHUNK + position;
                let page = layers.words(named)?.range(first..first + count);
                let layer = *found.get_or_insert_with(|| page.load(0));
                page.count_leading(layer)
            } else {
                let layer = *found.get_or_insert(named);
                if layer == named { count } else { 0 }
            };
            at += same as u64;
            if same < count {
                break;
            }
            (chunk, position) = (chunk + 1, 0);
        }
        Ok((found.unwrap_or_default(), at))
    }

    /// Lets `count` blocks from `block` on be `layer`, a page at a time; on an error, the number of
    /// blocks for which that is done.
    pub(super) fn set(
        &mut self,
        layers: &mut Layers,
        block: u64,
        count: u64,
        layer: Layer,
        room: Room<'_>,
    ) -> Result<(), (u64, Error)> {
        let mut at = block;
        while at < block + count {
            let (chunk, position) = split(at);
            let here = usize::try_from(block + count - at).unwrap_or(CHUNK).min(CHUNK - position);
            let top = self.own(layers, chunk, room).map_err(|error| (at - block, error))?;
            steps::step();
            for entry in &page(top, chunk)[position..position + here] {
                entry.store(layer, Ordering::Release);
            }
            at += here as u64;
        }
        Ok(())
    }

    /// Makes the top's map hold the page of a chunk, copying it from where it is.
    fn own<'a>(
        &mut self,
        layers: &'a mut Layers,
        chunk: usize,
        (budget, purpose): Room<'_>,
    ) -> Result<&'a Top> {
        let named = self.index[chunk];
        if layers.top()?.layer != named {
            let mut bytes = [0; PAGE_BYTES as usize];
            if named != NEVER {
                let entries = bytes.chunks_exact_mut(4);
                if is_data(named) {
                    let words = layers.words(named)?.range(chunk * CHUNK..(chunk + 1) * CHUNK);
                    entries.zip(words.iter()).for_each(|(entry, word)| {
                        entry.copy_from_slice(&word.to_ne_bytes());
                    });
                } else {
                    entries.for_each(|entry| entry.copy_from_slice(&named.to_ne_bytes()));
                }
            }
            let top = layers.top()?;
            const DOING: &str = "adding a page to the map of";
            let name = || layer_name(top.layer);
            budget.take(1, purpose)?;
            let written = steps::write_at(&top.map, &bytes, chunk as u64 * PAGE_BYTES);
            let named_now = written
                .doing(DOING, name)
                .and_then(|()| self.name(chunk, top.layer, (budget, purpose)));
            if named_now.is_err() {
                // The index does not name the page: it is freed at once, as the SR may be full.
                let _kept = steps::punch(&top.map, chunk as u64 * PAGE_BYTES, PAGE_BYTES);
                budget.give(1);
            }
            named_now?;
            self.free_superseded(layers, chunk, named, budget)?;
        }
        layers.top()
    }

    /// Lets a whole chunk be `value`, without a page.
    pub(super) fn set_chunk(
        &mut self,
        layers: &Layers,
        chunk: usize,
        value: Layer,
        budget: &Budget,
    ) -> Result<()> {
        let named = self.index[chunk];
        self.name(chunk, value, (budget, Purpose::Structure))?;
        let top = layers.top()?;
        if named == top.layer {
            steps::punch(&top.map, chunk as u64 * PAGE_BYTES, PAGE_BYTES)
                .doing("freeing a page of the map of", || layer_name(named))?;
            budget.give(1);
            return Ok(());
        }
        self.free_superseded(layers, chunk, named, budget)
    }

    /// Frees the page of a chunk that the index named before, if no other index names it; not while an
    /// operation on the SR may be reading it, which has found it in the index as it was.
    fn free_superseded(
        &mut self,
        layers: &Layers,
        chunk: usize,
        named: Layer,
        budget: &Budget,
    ) -> Result<()> {
        if self.sole.contains(&named) {
            self.superseded.push((named, chunk));
        }
        let Some(dirs) = layers.dirs().filter(|_| !self.superseded.is_empty()) else {
            return Ok(());
        };
        if self.maps_lock.is_none() {
            let opened = dirs.maps_lock().doing("opening", || "the directory of the SR")?;
            self.maps_lock = Some(opened);
        }
        let lock = self.maps_lock.as_ref().expect("just opened");
        match lock.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(()),
            Err(TryLockError::Error(error)) => {
                return Err(error).doing("locking", || "the directory of the SR");
            }
        }
        let mut freed = Ok(());
        while let Some((layer, chunk)) = self.superseded.pop() {
            match layers.punch_page(layer, chunk) {
                Ok(was_there) if was_there => budget.give(1),
                Ok(_) => {}
                Err(error) => {
                    self.superseded.push((layer, chunk));
                    freed = Err(error);
                    break;
                }
            }
        }
        lock.unlock().doing("unlocking", || "the directory of the SR")?;
        freed
    }

    /// Frees the page of a chunk if all its entries are equal and name no layer.
    pub(super) fn compact(&mut self, layers: &Layers, chunk: usize, budget: &Budget) -> Result<()> {
        let top = layers.top()?;
        if self.index[chunk] != top.layer {
            return Ok(());
        }
        let page = page(top, chunk);
        let first = page[0].load(Ordering::Relaxed);
        // Where a page is filled from its start, its last entry tells.
        let last = page[CHUNK - 1].load(Ordering::Relaxed);
        if is_data(first)
            || last != first
            || page.iter().any(|entry| entry.load(Ordering::Relaxed) != first)
        {
            return Ok(());
        }
        self.set_chunk(layers, chunk, first, budget)
    }

    fn name(&mut self, chunk: usize, layer: Layer, (budget, purpose): Room<'_>) -> Result<()> {
        if let Some(file) = &self.file {
            let page = chunk / CHUNK;
            let is_new = !self.file_pages[page];
            if is_new {
                budget.take(1, purpose)?;
            }
            let written = steps::write_at(file, &layer.to_ne_bytes(), chunk as u64 * 4)
                .doing("writing", || "the index of the volume");
            if written.is_err() && is_new {
                budget.give(1);
            }
            written?;
            self.file_pages[page] = true;
        }
        self.index[chunk] = layer;
        Ok(())
    }
}

/// The chunk of a block, and its position there.
fn split(block: u64) -> (usize, usize) {
    let block = usize::try_from(block).expect("64-bit host");
    (block / CHUNK, block % CHUNK)
}

fn page(top: &Top, chunk: usize) -> &[AtomicU32] {
    &top.words()[chunk * CHUNK..][..CHUNK]
}
