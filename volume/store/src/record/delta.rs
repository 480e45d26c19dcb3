//! Deltas: what an index itself says of a few blocks of a chunk, so that a block that is written alone does not
//! take a page of a map.
//!
//! An index has a *slot* for each chunk, behind its entries and at a fixed place, so that no slot is ever used for
//! another chunk. A slot is 64 bytes: the entry of the index that it is about, a number of its generation, and
//! [`PAIRS`] pairs of a block's position in the chunk and the block's entry. A pair wins over what the entry of the
//! index says: the value of all blocks, or a page.
//!
//! | bytes | content |
//! |---|---|
//! | 0..4 | the entry of the index at which the slot counts |
//! | 4..8 | its generation, from 1 on |
//! | 8 + 8 i .. 12 + 8 i | pair i: a block's position, and from bit 10 on the generation of the slot to which it belongs |
//! | 12 + 8 i .. 16 + 8 i | the entry of that block |
//!
//! So a slot needs no step to be given up: it does not count as soon as the index has another entry for the chunk, as
//! when the chunk gets a page. And one store of its first 8 bytes begins it anew for another entry, without any of
//! the pairs that it had. Generations only grow; at their end the chunk gets a page.
//!
//! Operations read an index while a disk changes it, under the SR's lock, which keeps the disk from another top but
//! not from writing. What they see of a chunk is what it was at one moment of that time, which is all that they rely
//! on ([`crate::disk`]), because
//!
//! * each 8 bytes are stored at once, and read from their start, so a pair is there with its entry or not at all, and
//!   its place does not change;
//! * a slot that is read while it is begun anew shows pairs of one generation under the number of another, which do
//!   not count, in whichever order its parts are read;
//! * [slots are read before entries](super::Index::read): a slot that counts for the entry that is found after it did
//!   so when it was read, and one that was begun since then was begun for an entry that is found, too, and that is
//!   what the chunk was then. No entry of a chunk ever returns but that of a chunk which was zeroed as a whole, and
//!   pairs over that one name nothing but the disk's own top.

use crate::block::{CHUNK_BLOCKS, Layer, NEVER};

/// How many blocks of a chunk may have an entry in its slot.
pub(crate) const PAIRS: usize = 7;

/// A slot, in bytes.
pub(crate) const SLOT_BYTES: usize = 8 * (1 + PAIRS);

/// Numbers in a slot, of 32 bits.
pub(crate) const SLOT_WORDS: usize = SLOT_BYTES / 4;

/// A slot as it is in the file.
pub(crate) type SlotWords = [u32; SLOT_WORDS];

/// The bits of a position in a key; the others are of a generation.
const POSITION_BITS: u32 = CHUNK_BLOCKS.trailing_zeros();

/// Generations with pairs are below this one, which no pair can have.
pub(crate) const GENERATION_END: u32 = (1 << (32 - POSITION_BITS)) - 1;

/// The first half of a pair.
pub(crate) fn key(position: usize, generation: u32) -> u32 {
    u32::try_from(position).expect("in a chunk") | generation << POSITION_BITS
}

/// The position that a key is about, if the pair belongs to a generation.
pub(crate) fn position(key: u32, generation: u32) -> Option<usize> {
    let position = key & ((1 << POSITION_BITS) - 1);
    (generation != 0 && key >> POSITION_BITS == generation).then_some(position as usize)
}

/// The pairs of a slot that count, in the order of their positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Delta {
    count: usize,
    positions: [u16; PAIRS],
    entries: [Layer; PAIRS],
}

/// A slot that no disk has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Senseless;

impl Delta {
    /// Whether it says nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The pairs, in the order of their positions.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (usize, Layer)> + '_ {
        let positions = self.positions[..self.count].iter().map(|&position| position.into());
        positions.zip(self.entries[..self.count].iter().copied())
    }

    /// Adds the entry of one more block. `None`: there is no room for it.
    pub(crate) fn with(mut self, position: usize, entry: Layer) -> Option<Self> {
        let position = u16::try_from(position).expect("in a chunk");
        let at = self.positions[..self.count].partition_point(|&it| it < position);
        if self.count == PAIRS {
            return None;
        }
        self.positions.copy_within(at..self.count, at + 1);
        self.entries.copy_within(at..self.count, at + 1);
        (self.positions[at], self.entries[at]) = (position, entry);
        self.count += 1;
        Some(self)
    }

    /// Those entries of a chunk that differ from what they are `over`, if they are few and a slot can say them: none
    /// can say that a block was never written.
    pub(crate) fn between(over: &[Layer], entries: &[Layer]) -> Option<Self> {
        let mut differing =
            over.iter().zip(entries).enumerate().filter(|(_, (one, own))| one != own);
        differing.try_fold(
            Self::default(),
            |delta, (at, (_, &own))| {
                if own == NEVER { None } else { delta.with(at, own) }
            },
        )
    }

    /// Puts the entries in place of those of a page.
    pub(crate) fn put_over(&self, page: &mut [Layer]) {
        self.pairs().for_each(|(position, entry)| page[position] = entry);
    }

    /// The pairs of a slot, where it counts for an entry of the index and has any.
    pub(crate) fn parse(slot: &SlotWords, entry: Layer) -> Result<Option<Self>, Senseless> {
        let [base, generation, pairs @ ..] = slot;
        if *base != entry {
            return Ok(None);
        }
        let mut delta = Self::default();
        for &[key, entry] in pairs.as_chunks().0 {
            let Some(position) = position(key, *generation) else { continue };
            if entry == NEVER || delta.pairs().any(|(other, _)| other == position) {
                return Err(Senseless);
            }
            delta = delta.with(position, entry).expect("there are no more pairs than that");
        }
        Ok((!delta.is_empty()).then_some(delta))
    }

    /// A slot with these pairs that counts for an entry of the index.
    pub(crate) fn to_slot(self, entry: Layer) -> SlotWords {
        const FIRST: u32 = 1;
        let mut slot = [0; SLOT_WORDS];
        (slot[0], slot[1]) = (entry, FIRST);
        for ((position, entry), pair) in self.pairs().zip(slot[2..].as_chunks_mut().0) {
            *pair = [key(position, FIRST), entry];
        }
        slot
    }
}

const _: () = assert!(SLOT_BYTES == 64);
