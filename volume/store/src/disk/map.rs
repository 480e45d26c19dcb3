//! The block map of a disk: the entries of its index in this process's heap, its slots and the pages of maps mapped.
//!
//! The entries are read once and written through, so that no hole of them is ever touched through a
//! mapping; only slots and pages that they name are.
//!
//! A chunk of which few blocks are written since the last snapshot has these in its [slot](Delta); its page is made,
//! and then named, when there are more of them. A chunk that has its page, or one value, is looked up as if there
//! were no slots.

use std::{
    borrow::Cow,
    collections::HashSet,
    fs::{File, TryLockError},
    io,
    ops::Range,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{
    layers::{Layers, Top, layer_name},
    slots::Slots,
};
use crate::{
    block::{CHUNK_BLOCKS, IN_SLOT, Layer, NEVER, PAGE_BYTES, is_data},
    budget::{Budget, Purpose},
    error::{Context, Error, Result},
    files::steps,
    record::{BlockCount, Delta, write_index},
};

const CHUNK: usize = CHUNK_BLOCKS as usize;

/// What new pages of the map count against, and what for.
type Room<'a> = (&'a Budget, Purpose);

#[derive(Debug)]
pub(super) struct BlockMap {
    /// The entries, or that they are in slots.
    index: Vec<Layer>,
    /// `None`: there are none, and no disk makes any.
    slots: Option<Slots>,
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
        let (superseded, maps_lock) = (Vec::new(), None);
        Self { index, slots: None, file, file_pages, sole, superseded, maps_lock, blocks }
    }

    /// The same with slots, of which those of some chunks count.
    pub(super) fn with_slots(mut self, slots: Slots, chunks: impl Iterator<Item = usize>) -> Self {
        self.slots = Some(slots);
        chunks.for_each(|chunk| self.index[chunk] = IN_SLOT);
        self
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
        if let Some(slots) = &mut self.slots {
            slots.grow(chunks);
        }
    }

    /// Writes the index as it is into an empty file.
    pub(super) fn save(&self, file: &File) -> io::Result<()> {
        let Some(slots) = &self.slots else {
            return write_index(file, &self.index, [].into_iter(), self.blocks.get());
        };
        // That of a large disk is not copied where no slot is in use.
        let mut entries = Cow::Borrowed(&*self.index);
        let mut used = Vec::new();
        for (chunk, _) in self.index.iter().enumerate().filter(|&(_, &it)| it == IN_SLOT) {
            let slot = slots.get(chunk);
            entries.to_mut()[chunk] = slot.base();
            used.push((chunk, slot.words()));
        }
        write_index(file, &entries, used.into_iter(), self.blocks.get())
    }

    /// The layer whose map has the page of a chunk, or the value of all its entries; neither where it is in a slot.
    pub(super) fn chunk(&self, chunk: usize) -> Layer {
        self.index[chunk]
    }

    /// The entry of the index for a chunk, and what its slot says beside that.
    fn entry(&self, chunk: usize) -> (Layer, Option<Delta>) {
        match (self.index[chunk], &self.slots) {
            (IN_SLOT, Some(slots)) => (slots.get(chunk).base(), Some(slots.get(chunk).delta())),
            (named, _) => (named, None),
        }
    }

    /// Has the entry of a block fetched into the cache, where its map is mapped.
    #[inline]
    pub(super) fn prefetch(&self, layers: &Layers, block: u64) {
        let (chunk, position) = split(block);
        let Some(&named) = self.index.get(chunk) else { return };
        if is_data(named) {
            if let Some(words) = layers.mapped_words(named) {
                words.prefetch(chunk * CHUNK + position);
            }
        } else if named == IN_SLOT
            && let Some(slots) = &self.slots
        {
            slots.prefetch(chunk);
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
            } else if named == IN_SLOT {
                self.run_in_slot(layers, chunk, position..position + count, &mut found)?
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

    /// How many of the blocks of a chunk that is in a slot have the layer that was found, or that of the first.
    #[inline(never)]
    fn run_in_slot(
        &self,
        layers: &mut Layers,
        chunk: usize,
        blocks: Range<usize>,
        found: &mut Option<Layer>,
    ) -> Result<usize> {
        let slot = self.slots.as_ref().expect("a chunk is in one").get(chunk);
        let base = slot.base();
        let mut at = blocks.start;
        while at < blocks.end {
            let (own, next) = slot.look(at, blocks.end);
            let (same, stop) = if let Some(own) = own {
                (usize::from(*found.get_or_insert(own) == own), at + 1)
            } else if is_data(base) {
                let page = layers.words(base)?.range(chunk * CHUNK + at..chunk * CHUNK + next);
                (page.count_leading(*found.get_or_insert_with(|| page.load(0))), next)
            } else {
                (if *found.get_or_insert(base) == base { next - at } else { 0 }, next)
            };
            at += same;
            if at < stop {
                break;
            }
        }
        Ok(at - blocks.start)
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
            let failed = |error| (at - block, error);
            if !self.set_in_slot(layers, chunk, position, here, layer, room).map_err(failed)? {
                let top = self.own(layers, chunk, room).map_err(failed)?;
                steps::step();
                for entry in &page(top, chunk)[position..position + here] {
                    entry.store(layer, Ordering::Release);
                }
            }
            at += here as u64;
        }
        Ok(())
    }

    /// Lets blocks of a chunk of which the top has no page be `layer`, if its slot has room for them; whether it has.
    fn set_in_slot(
        &mut self,
        layers: &Layers,
        chunk: usize,
        first: usize,
        count: usize,
        layer: Layer,
        (budget, purpose): Room<'_>,
    ) -> Result<bool> {
        let named = self.index[chunk];
        let (Some(slots), Some(file)) = (&mut self.slots, &self.file) else { return Ok(false) };
        let counts = named == IN_SLOT;
        if named == layers.top()?.layer || !slots.has_room(chunk, counts, first, count) {
            return Ok(false);
        }
        if !slots.is_allocated(chunk) {
            budget.take(1, purpose)?;
            let allocated = slots.allocate(file, chunk);
            if allocated.is_err() {
                budget.give(1);
            }
            allocated.doing("writing", || "the index of the volume")?;
        }
        if !counts {
            steps::step();
            slots.begin(chunk, named);
        }
        slots.set(chunk, first, count, layer);
        self.index[chunk] = IN_SLOT;
        Ok(true)
    }

    /// Makes the top's map hold the page of a chunk, copying it from where it is.
    fn own<'a>(
        &mut self,
        layers: &'a mut Layers,
        chunk: usize,
        (budget, purpose): Room<'_>,
    ) -> Result<&'a Top> {
        let (named, delta) = self.entry(chunk);
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
            for (position, entry) in delta.iter().flat_map(Delta::pairs) {
                bytes[position * 4..][..4].copy_from_slice(&entry.to_ne_bytes());
            }
            let top = layers.top()?;
            const DOING: &str = "adding a page to the map of";
            let name = || layer_name(top.layer);
            // A page of the top that is still to be freed is there already.
            let place = (top.layer, chunk);
            match self.superseded.iter().position(|it| *it == place) {
                Some(position) => _ = self.superseded.swap_remove(position),
                None => budget.take(1, purpose)?,
            }
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
            if delta.is_some() {
                self.free_slots(chunk, budget)?;
            }
            self.free_superseded(layers, chunk, named, budget)?;
        }
        layers.top()
    }

    /// Frees the page with the slot of a chunk if none of the slots there counts any more.
    fn free_slots(&mut self, chunk: usize, budget: &Budget) -> Result<()> {
        let (Some(slots), Some(file)) = (&mut self.slots, &self.file) else { return Ok(()) };
        let neighbours = Slots::neighbours(chunk);
        let end = neighbours.end.min(self.index.len());
        if !self.index[neighbours.start..end].contains(&IN_SLOT) {
            slots.free(file, chunk).doing("freeing a part of", || "the index of the volume")?;
            budget.give(1);
        }
        Ok(())
    }

    /// Lets a whole chunk be `value`, without a page.
    pub(super) fn set_chunk(
        &mut self,
        layers: &Layers,
        chunk: usize,
        value: Layer,
        budget: &Budget,
    ) -> Result<()> {
        let (named, delta) = self.entry(chunk);
        if let Some(slots) = &self.slots {
            steps::step();
            slots.forget(chunk, value);
        }
        self.name(chunk, value, (budget, Purpose::Structure))?;
        if delta.is_some() {
            self.free_slots(chunk, budget)?;
        }
        self.free_superseded(layers, chunk, named, budget)
    }

    /// Frees the page of a chunk that the index named before, if no other index names it; not while an
    /// operation on the SR may be reading it, which has found it in the index as it was, and would find zeroes.
    fn free_superseded(
        &mut self,
        layers: &Layers,
        chunk: usize,
        named: Layer,
        budget: &Budget,
    ) -> Result<()> {
        if named == layers.top()?.layer || self.sole.contains(&named) {
            self.superseded.push((named, chunk));
        }
        if self.superseded.is_empty() {
            return Ok(());
        }
        let Some(dirs) = layers.dirs() else {
            // No operation reads the map of a loaded file.
            return self.free_pages(layers, budget);
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
        let freed = self.free_pages(layers, budget);
        let lock = self.maps_lock.as_ref().expect("just locked");
        lock.unlock().doing("unlocking", || "the directory of the SR")?;
        freed
    }

    /// Frees all pages that are still to be freed.
    fn free_pages(&mut self, layers: &Layers, budget: &Budget) -> Result<()> {
        while let Some(&(layer, chunk)) = self.superseded.last() {
            if layers.punch_page(layer, chunk)? {
                budget.give(1);
            }
            self.superseded.pop();
        }
        Ok(())
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
