//! Discards and zeroes: the map first, then the memory.

use std::{mem, ops::Range};

use super::{Disk, write::Zeroes};
use crate::{
    block::{BLOCK_BYTES, CHUNK_BLOCKS, Layer, is_data, zeroed},
    budget::Purpose,
    error::{ErrorKind, Result},
};

/// Where zeros have to take memory, they are written so many bytes at a time.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// Which blocks an erasure is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Erase {
    /// Those that hold data. A discard changes nothing of others.
    Data,
    /// All of them: zeroes that are written are an update, also where there was nothing.
    All,
}

/// A run of blocks that one layer held: layer, first block, count.
type Run = (Layer, u64, u64);

/// For how many runs memory is kept between two erasures: more than a discard of 4 MiB can find.
const RUNS_KEPT_MAX: usize = CHUNK_BLOCKS as usize + 1;

/// What an erasure finds. It is kept for its capacity: a discard allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Runs that the map has let go of, and that are to be freed.
    released: Vec<Run>,
    /// Runs of a chunk that hold data: first block, count.
    data: Vec<(u64, u64)>,
}

impl Disk {
    /// Lets go of the whole blocks of a range; they read as zeros from then on. The rest of the
    /// range stays what it is.
    ///
    /// # Errors
    /// [`ErrorKind::ReadOnly`], [`ErrorKind::BadArgument`] for a range outside the disk.
    pub fn discard(&mut self, offset: u64, length: u64) -> Result<()> {
        self.writable()?;
        let end = self.end(offset, length)?;
        let (first, last) = self.whole_blocks(offset, end);
        match self.erase(first, last, Erase::Data) {
            // A discard is advice: without room for a page of the map it is not taken.
            Err(error) if error.kind() == ErrorKind::NoSpace => Ok(()),
            done => done,
        }
    }

    /// Lets a range read as zeros; `keep` also lets it hold memory, so that later writes to it
    /// need none.
    ///
    /// # Errors
    /// [`ErrorKind::ReadOnly`], [`ErrorKind::BadArgument`] for a range outside the disk, [`ErrorKind::NoSpace`].
    pub fn write_zeroes(&mut self, offset: u64, length: u64, keep: bool) -> Result<()> {
        self.writable()?;
        let end = self.end(offset, length)?;
        if keep {
            return self.write_zero_bytes(offset, end, Zeroes::Allocated);
        }
        let (first, last) = self.whole_blocks(offset, end);
        if first >= last {
            return self.zero_parts(offset, end);
        }
        self.zero_parts(offset, first * BLOCK_BYTES)?;
        self.erase(first, last, Erase::All)?;
        self.zero_parts((last * BLOCK_BYTES).min(end), end)
    }

    /// The blocks that lie wholly in a range; the last block of the disk counts as whole where the
    /// range reaches the end of the disk.
    fn whole_blocks(&self, offset: u64, end: u64) -> (u64, u64) {
        let first = offset.div_ceil(BLOCK_BYTES);
        let last = if end == self.size { end.div_ceil(BLOCK_BYTES) } else { end / BLOCK_BYTES };
        (first, last)
    }

    /// Zeroes less than a block, or two such parts that meet at a border.
    fn zero_parts(&mut self, mut at: u64, end: u64) -> Result<()> {
        while at < end {
            let block = at / BLOCK_BYTES;
            let stop = ((block + 1) * BLOCK_BYTES).min(end);
            let (layer, _) = self.run(block, block + 1)?;
            if is_data(layer) {
                self.write_zero_bytes(at, stop, Zeroes::Hole)?;
            } else if layer != zeroed(self.top) {
                self.erase(block, block + 1, Erase::All)?;
            }
            at = stop;
        }
        Ok(())
    }

    /// Lets the blocks from `first` up to `last`, of which the top holds none, be zeroes that were written.
    pub(super) fn write_holes(&mut self, first: u64, last: u64) -> Result<()> {
        self.erase(first, last, Erase::All)
    }

    fn write_zero_bytes(&mut self, mut at: u64, end: u64, zeroes: Zeroes) -> Result<()> {
        while at < end {
            let count = usize::try_from(end - at).unwrap_or(ZEROES.len()).min(ZEROES.len());
            self.write_with(at, &ZEROES[..count], zeroes)?;
            at += count as u64;
        }
        Ok(())
    }

    /// Lets go of the blocks from `first` up to `last`.
    fn erase(&mut self, first: u64, last: u64, what: Erase) -> Result<()> {
        let mut found = mem::take(&mut self.found);
        let erased = self.erase_chunks(first, last, what, &mut found);
        let released = self.release(&found.released);
        found.released.clear();
        found.released.shrink_to(RUNS_KEPT_MAX);
        self.found = found;
        released.and(erased)
    }

    fn erase_chunks(
        &mut self,
        first: u64,
        last: u64,
        what: Erase,
        found: &mut Found,
    ) -> Result<()> {
        let mut at = first;
        while at < last {
            let stop = (at / CHUNK_BLOCKS + 1) * CHUNK_BLOCKS;
            let before = found.released.len();
            let done = self.erase_in_chunk(at..stop.min(last), what, found);
            if done.is_err() {
                // The map still names the blocks that were found in this chunk.
                found.released.truncate(before);
                return done;
            }
            at = stop;
        }
        Ok(())
    }

    /// Lets go of blocks of one chunk. A chunk in which the disk ends always keeps its page: what
    /// lies beyond was never written, should the disk grow.
    fn erase_in_chunk(&mut self, blocks: Range<u64>, what: Erase, found: &mut Found) -> Result<()> {
        let value = zeroed(self.top);
        let chunk = usize::try_from(blocks.start / CHUNK_BLOCKS).expect("64-bit host");
        if self.map.chunk(chunk) == value {
            return Ok(());
        }
        let (mut at, mut other) = (blocks.start, 0);
        found.data.clear();
        while at < blocks.end {
            let (layer, stop) = self.run(at, blocks.end)?;
            if is_data(layer) {
                found.data.push((at, stop - at));
            } else {
                other += stop - at;
            }
            if layer == self.top || self.sole.contains(&layer) {
                found.released.push((layer, at, stop - at));
            }
            at = stop;
        }
        let room = (&self.budget, Purpose::Structure);
        if what == Erase::Data && other > 0 {
            // Entries of blocks without data stay, or they would count as changed.
            for &(block, count) in &found.data {
                let set = self.map.set(&mut self.layers, block, count, value, room);
                set.map_err(|(_, error)| error)?;
                self.map.count_blocks(0, count);
            }
            return self.map.compact(&self.layers, chunk, &self.budget);
        }
        let count = blocks.end - blocks.start;
        if count == CHUNK_BLOCKS {
            self.map.set_chunk(&self.layers, chunk, value, &self.budget)?;
            self.map.count_blocks(0, count - other);
            return Ok(());
        }
        let set = self.map.set(&mut self.layers, blocks.start, count, value, room);
        set.map_err(|(_, error)| error)?;
        self.map.count_blocks(0, count - other);
        self.map.compact(&self.layers, chunk, &self.budget)
    }

    /// Frees blocks that the map does not name any more.
    fn release(&mut self, runs: &[Run]) -> Result<()> {
        let mut runs = runs.iter().copied().peekable();
        while let Some((layer, block, mut count)) = runs.next() {
            while let Some((_, _, more)) =
                runs.next_if(|&(next, start, _)| next == layer && start == block + count)
            {
                count += more;
            }
            self.layers.punch(layer, block, count)?;
            self.budget.give(count);
        }
        Ok(())
    }
}
