//! Writing: in place where the top holds the block, into the top where it does not yet. Whole blocks of
//! zeroes that the top does not hold take no memory: they become entries of the map.

use std::{io, os::unix::fs::FileExt};

use memory::WriteSlice;

use super::{Disk, layers::WINDOW_BYTES};
use crate::{
    block::{BLOCK_BYTES, Layer, is_data, is_zero, zeroed},
    budget::Purpose,
    error::{Error, ErrorKind, Result},
    files::steps,
};

const BLOCK: usize = BLOCK_BYTES as usize;

/// What becomes of blocks of zeroes for which there is no memory yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zeroes {
    /// They take none.
    Hole,
    /// They take it, so that later writes need none.
    Allocated,
}

impl Disk {
    /// Writes bytes at an offset, both of any alignment. A block of zeroes that has no memory in the top takes
    /// none: it is an update of the map, as by [`write_zeroes`](Self::write_zeroes).
    ///
    /// # Errors
    /// [`ErrorKind::ReadOnly`](crate::ErrorKind), [`ErrorKind::BadArgument`](crate::ErrorKind) for a range outside the
    /// disk, [`ErrorKind::NoSpace`](crate::ErrorKind): then a part of the bytes may have been written.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write_with(offset, bytes, Zeroes::Hole)
    }

    pub(super) fn write_with(&mut self, offset: u64, bytes: &[u8], zeroes: Zeroes) -> Result<()> {
        self.writable()?;
        let end = self.end(offset, bytes.len() as u64)?;
        let (mut at, mut rest) = (offset, bytes);
        while at < end {
            let (block, inside) = (at / BLOCK_BYTES, at % BLOCK_BYTES);
            let last = if inside != 0 || rest.len() < BLOCK {
                block + 1
            } else {
                block + (rest.len() / BLOCK) as u64
            };
            let (layer, stop) = self.run(block, last)?;
            let whole = usize::try_from(stop * BLOCK_BYTES - at).expect("64-bit host");
            let (now, later) = rest.split_at(whole.min(rest.len()));
            if layer == self.top {
                self.overwrite(at, now)?;
            } else if now.len() < BLOCK {
                let mut full = self.block(block, layer)?;
                let inside = usize::try_from(inside).expect("less than a block");
                full[inside..inside + now.len()].copy_from_slice(now);
                self.add(block, &full, layer, zeroes)?;
            } else {
                self.add(block, now, layer, zeroes)?;
            }
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// Hands out, in order, the places of a range, if the top holds all of its blocks: whether it does.
    /// Bytes that are stored there are written, as by [`write`](Self::write). The places are good until
    /// the next call changes this disk.
    ///
    /// # Errors
    /// As [`write`](Self::write), but for a lack of space.
    pub fn places(
        &mut self,
        offset: u64,
        length: u64,
        mut place: impl FnMut(WriteSlice),
    ) -> Result<bool> {
        self.writable()?;
        let end = self.end(offset, length)?;
        let last = end.div_ceil(BLOCK_BYTES);
        let (layer, stop) = self.run(offset / BLOCK_BYTES, last)?;
        if layer != self.top || stop < last {
            return Ok(false);
        }
        let mut at = offset;
        while at < end {
            let (map, start) = self.layers.top_data(at)?;
            let part = (end - at).min(WINDOW_BYTES - start as u64);
            place(WriteSlice::new(map, start, usize::try_from(part).expect("64-bit host")));
            at += part;
        }
        Ok(true)
    }

    /// The contents of a block that lies in another layer than the top.
    fn block(&mut self, block: u64, layer: Layer) -> Result<[u8; BLOCK]> {
        let mut bytes = [0; BLOCK];
        if is_data(layer) {
            let (map, start) = self.layers.data(layer, block * BLOCK_BYTES)?;
            map.read(start, &mut bytes);
        }
        Ok(bytes)
    }

    /// Writes to blocks that the top holds.
    fn overwrite(&mut self, mut at: u64, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (map, start) = self.layers.top_data(at)?;
            let room = usize::try_from(WINDOW_BYTES).expect("64-bit host") - start;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            map.write(start, now);
            at += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    /// Writes whole blocks that the top does not hold yet; all of them are `old` so far.
    fn add(&mut self, block: u64, bytes: &[u8], old: Layer, zeroes: Zeroes) -> Result<()> {
        if zeroes == Zeroes::Allocated {
            return self.add_data(block, bytes, old);
        }
        let (mut at, mut rest) = (block, bytes);
        while let Some(first) = rest.first_chunk::<BLOCK>() {
            let is_hole = is_zero(first);
            let others = rest.as_chunks::<BLOCK>().0[1..].iter();
            let count = 1 + others.take_while(|&it| is_zero(it) == is_hole).count();
            let (now, later) = rest.split_at(count * BLOCK);
            let next = at + count as u64;
            if !is_hole {
                self.add_data(at, now, old)?;
            } else if old != zeroed(self.top) {
                self.write_holes(at, next)?;
            }
            (at, rest) = (next, later);
        }
        Ok(())
    }

    /// Writes whole blocks that take memory.
    fn add_data(&mut self, block: u64, bytes: &[u8], old: Layer) -> Result<()> {
        let added = self.add_blocks(block, bytes, old);
        match &added {
            Ok(()) if self.no_room.is_none() => {}
            Ok(()) => self.no_room = None,
            Err(error) if error.kind() == ErrorKind::NoSpace && self.no_room.is_none() => {
                self.no_room = Some(error.chain());
            }
            Err(_) => {}
        }
        added
    }

    fn add_blocks(&mut self, block: u64, bytes: &[u8], old: Layer) -> Result<()> {
        let wanted = (bytes.len() / BLOCK) as u64;
        let is_sole = self.sole.contains(&old);
        // What is freed for it at once makes no SR fuller.
        let purpose = if is_sole { Purpose::Structure } else { Purpose::Data };
        self.budget.take(wanted, purpose)?;
        let (stored, failed) = self.store(block * BLOCK_BYTES, bytes);
        let stored = (stored / BLOCK) as u64;
        let (named, failed) = match self.map.set(
            &mut self.layers,
            block,
            stored,
            self.top,
            (&self.budget, purpose),
        ) {
            Ok(()) => (stored, failed),
            Err((named, error)) => (named, Some(error)),
        };
        if !is_data(old) {
            self.map.count_blocks(named, 0);
        }
        if named > 0 && is_sole {
            self.layers.punch(old, block, named)?;
            self.budget.give(named);
        }
        let Some(error) = failed else { return Ok(()) };
        // The map does not name the rest of the blocks: they are freed at once, as the SR may be
        // full.
        self.layers.punch(self.top, block + named, wanted - named)?;
        self.budget.give(wanted - named);
        Err(error)
    }

    /// Puts bytes into the top; how many went in, and why not all.
    fn store(&mut self, offset: u64, bytes: &[u8]) -> (usize, Option<Error>) {
        let file = match self.layers.top() {
            Ok(top) => &top.data,
            Err(error) => return (0, Some(error)),
        };
        let mut done = 0;
        while done < bytes.len() {
            steps::step();
            let error = match file.write_at(&bytes[done..], offset + done as u64) {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(count) => {
                    done += count;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            let what = format!("{} bytes at {offset}", bytes.len());
            return (done, Some(Error::os("writing", what, error)));
        }
        (done, None)
    }
}
