//! The slots of the index of a disk, where they lie in the index's file: see [`Delta`] for what they say, and in which
//! order it is changed. Nothing but pages that are known to be allocated is touched.

use std::{fs::File, io};

use memory::{ReadMap, Words, WriteMap};
use rustix::fs::{SeekFrom, seek};

use crate::{
    block::{Layer, PAGE_BYTES},
    files::steps,
    record::{
        Delta, GENERATION_END, PAIRS, SLOT_BYTES, SLOT_WORDS, SLOTS_AT, SLOTS_BYTES, SlotWords,
        key, position,
    },
};

/// Slots in a page of the file.
const SLOTS: usize = PAGE_BYTES as usize / SLOT_BYTES;

#[derive(Debug)]
pub(super) struct Slots {
    map: Mapped,
    /// Which pages of them are allocated.
    pages: Vec<bool>,
}

#[derive(Debug)]
enum Mapped {
    Read(ReadMap),
    Write(WriteMap),
}

impl Slots {
    /// The slots of so many chunks; `write`: the file is open for that, too.
    pub(super) fn new(file: &File, chunks: usize, write: bool) -> io::Result<Self> {
        let length = usize::try_from(SLOTS_BYTES).expect("64-bit host");
        let map = match write {
            true => Mapped::Write(WriteMap::new(file, SLOTS_AT, length)?),
            false => Mapped::Read(ReadMap::new(file, SLOTS_AT, length)?),
        };
        let mut slots = Self { map, pages: Vec::new() };
        slots.grow(chunks);
        let mut at = SLOTS_AT;
        while write && let Ok(start) = seek(file, SeekFrom::Data(at)) {
            at = seek(file, SeekFrom::Hole(start))?;
            let page =
                |at: u64| usize::try_from((at - SLOTS_AT) / PAGE_BYTES).expect("64-bit host");
            let last = page(at).min(slots.pages.len());
            slots.pages[page(start).min(last)..last].fill(true);
        }
        Ok(slots)
    }

    /// Has slots of so many chunks.
    pub(super) fn grow(&mut self, chunks: usize) {
        self.pages.resize(chunks.div_ceil(SLOTS), false);
    }

    /// Whether the slot of a chunk has memory already.
    pub(super) fn is_allocated(&self, chunk: usize) -> bool {
        self.pages[chunk / SLOTS]
    }

    /// Gives memory to the slot of a chunk.
    pub(super) fn allocate(&mut self, file: &File, chunk: usize) -> io::Result<()> {
        // A store to a hole of a full tmpfs would be a SIGBUS.
        steps::write_at(file, &[0; 4], page_at(chunk))?;
        self.pages[chunk / SLOTS] = true;
        Ok(())
    }

    /// The chunks whose slots lie in one page with that of a chunk.
    pub(super) fn neighbours(chunk: usize) -> std::ops::Range<usize> {
        let first = chunk / SLOTS * SLOTS;
        first..first + SLOTS
    }

    /// Frees the page with the slot of a chunk, of which none counts.
    pub(super) fn free(&mut self, file: &File, chunk: usize) -> io::Result<()> {
        steps::punch(file, page_at(chunk), PAGE_BYTES)?;
        self.pages[chunk / SLOTS] = false;
        Ok(())
    }

    /// The slot of a chunk, which has memory, as it is now.
    #[inline]
    pub(super) fn get(&self, chunk: usize) -> Slot {
        Slot(self.words().array(chunk * SLOT_WORDS))
    }

    fn words(&self) -> Words<'_> {
        match &self.map {
            Mapped::Read(map) => map.words(),
            Mapped::Write(map) => map.reader().words(),
        }
    }

    /// Whether a slot, of which the entry at which it counts is given or which does not count yet, has room for the
    /// blocks from a position on.
    pub(super) fn has_room(&self, chunk: usize, counts: bool, first: usize, count: usize) -> bool {
        if count > PAIRS {
            return false;
        }
        if !self.is_allocated(chunk) {
            return true;
        }
        let slot = self.get(chunk);
        if !counts {
            return slot.generation() + 1 < GENERATION_END;
        }
        let others = slot.positions().into_iter().flatten();
        others.filter(|at| !(first..first + count).contains(at)).count() + count <= PAIRS
    }

    /// Has the slot of a chunk, which has memory, count for an entry of the index from now on, and say nothing.
    pub(super) fn begin(&self, chunk: usize, entry: Layer) {
        let generation = (self.get(chunk).generation() + 1).min(GENERATION_END);
        self.store(chunk, 0, [entry, generation]);
    }

    /// Sees to it that the slot of a chunk says nothing where the index has this entry.
    pub(super) fn forget(&self, chunk: usize, entry: Layer) {
        if self.is_allocated(chunk) && self.get(chunk).base() == entry {
            self.begin(chunk, entry);
        }
    }

    /// Has the slot say of blocks from a position on that they have this entry. It counts, and has room.
    pub(super) fn set(&self, chunk: usize, first: usize, count: usize, entry: Layer) {
        let generation = self.get(chunk).generation();
        for position in first..first + count {
            let positions = self.get(chunk).positions();
            let own = positions.iter().position(|at| *at == Some(position));
            let pair = own.or_else(|| positions.iter().position(Option::is_none));
            steps::step();
            let pair = pair.expect("the slot has room");
            self.store(chunk, 1 + pair, [key(position, generation), entry]);
        }
    }

    fn store(&self, chunk: usize, number: usize, pair: [u32; 2]) {
        match &self.map {
            Mapped::Write(map) => map.store_pair(chunk * SLOT_WORDS + 2 * number, pair),
            Mapped::Read(_) => unreachable!("a disk that is not written to changes no slot"),
        }
    }

    /// Has the slot of a chunk fetched into the cache.
    #[inline]
    pub(super) fn prefetch(&self, chunk: usize) {
        self.words().prefetch(chunk * SLOT_WORDS);
    }
}

/// Where the page with the slot of a chunk lies in the file, in bytes.
fn page_at(chunk: usize) -> u64 {
    SLOTS_AT + (chunk / SLOTS) as u64 * PAGE_BYTES
}

/// What a slot has said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot(SlotWords);

impl Slot {
    /// The entry of the index at which it counts.
    #[inline]
    pub(super) fn base(&self) -> Layer {
        self.0[0]
    }

    #[inline]
    fn generation(&self) -> u32 {
        self.0[1]
    }

    /// The same as it is in the file.
    pub(super) fn words(&self) -> SlotWords {
        self.0
    }

    fn pairs(&self) -> &[[u32; 2]; PAIRS] {
        self.0[2..].as_chunks().0.try_into().expect("a slot has so many")
    }

    /// For each pair the position that it is about; `None`: it does not count.
    fn positions(&self) -> [Option<usize>; PAIRS] {
        self.pairs().map(|[key, _]| position(key, self.generation()))
    }

    /// What it says of a block, if anything, and the next position behind that of which it says something, or `end`.
    /// It counts.
    #[inline]
    pub(super) fn look(&self, at: usize, end: usize) -> (Option<Layer>, usize) {
        let wanted = key(at, self.generation());
        let (mut found, mut next) = (None, u32::MAX);
        for &[key, entry] in self.pairs() {
            // How far behind the wanted one it is; in another generation it is farther than a chunk is long.
            let distance = key.wrapping_sub(wanted);
            if distance == 0 {
                found = Some(entry);
            } else {
                next = next.min(distance);
            }
        }
        (found, end.min(at.saturating_add(next as usize)))
    }

    /// The same as a delta.
    pub(super) fn delta(&self) -> Delta {
        let pairs = self.positions().into_iter().zip(self.pairs());
        let pairs = pairs.filter_map(|(at, &[_, entry])| Some((at?, entry)));
        pairs.fold(Delta::default(), |delta, (at, entry)| {
            delta.with(at, entry).expect("there are no more pairs than that")
        })
    }
}
