//! Giving memory back: what a map named that is gone, and no other map names.
//!
//! A block of a layer lies at its own offset in every volume, so only entries of the same block
//! can name it; and what nobody names will never be named again, since maps gain entries only from
//! their own top and from other maps. So what to free is found under the SR's lock and freed
//! without it.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, OpenOptions},
    io::ErrorKind,
    path::Path,
};

use super::view::{Pages, View};
use crate::{
    block::{BLOCK_BYTES, CHUNK_BLOCKS, Layer, PAGE_BYTES, is_data},
    error::{Context, Error, Result},
    sr::{Layout, allocated, files, steps},
};

/// The longest range that one call to the file system frees, so that a killed process stops soon.
const STEP_BYTES: u64 = 256 << 20;

/// Ranges of one file, in bytes, ascending.
type Ranges = Vec<(u64, u64)>;

/// What is to be given back.
#[derive(Debug, Default)]
pub(crate) struct Garbage {
    /// Layers that nobody else can name: the top of what is gone.
    whole: Vec<Layer>,
    blocks: BTreeMap<Layer, Ranges>,
    pages: BTreeMap<Layer, Ranges>,
}

impl Garbage {
    /// Only layers that nobody else can name.
    pub(crate) fn whole(layers: Vec<Layer>) -> Self {
        Self { whole: layers, ..Self::default() }
    }

    /// What the `gone` views named and none of the `survivors` of their family does; nobody else can
    /// have named the layers `whole`.
    pub(crate) fn of(
        layout: &Layout,
        gone: &[View],
        whole: Vec<Layer>,
        survivors: &[View],
    ) -> Result<Self> {
        let mut garbage = Self::whole(whole);
        let mut pages = Pages::new(layout);
        let mut seen = HashSet::new();
        for view in gone {
            for (chunk, named) in view.pages() {
                let stays = |needs_data: bool| {
                    let mut needing = survivors.iter().filter(|other| {
                        other.at(chunk) == named && (other.has_data || !needs_data)
                    });
                    needing.next().is_some()
                };
                if view.has_data && !stays(true) {
                    garbage.chunk(&mut pages, view, chunk, survivors)?;
                }
                if !garbage.whole.contains(&named) && !stays(false) && seen.insert((chunk, named)) {
                    push(&mut garbage.pages, named, chunk as u64 * PAGE_BYTES, PAGE_BYTES);
                }
                pages.forget();
            }
        }
        Ok(garbage)
    }

    fn chunk(
        &mut self,
        pages: &mut Pages<'_>,
        gone: &View,
        chunk: usize,
        survivors: &[View],
    ) -> Result<()> {
        let page = pages.get(gone.at(chunk), chunk)?;
        if page.iter().all(|entry| !is_data(*entry) || self.whole.contains(entry)) {
            return Ok(());
        }
        let mut named: Vec<Layer> = survivors
            .iter()
            .filter(|view| view.has_data)
            .map(|view| view.at(chunk))
            .filter(|&layer| is_data(layer))
            .collect();
        named.sort_unstable();
        named.dedup();
        let others =
            named.into_iter().map(|layer| pages.get(layer, chunk)).collect::<Result<Vec<_>>>()?;
        for (position, &entry) in page.iter().enumerate() {
            let free = is_data(entry)
                && !self.whole.contains(&entry)
                && others.iter().all(|other| other[position] != entry);
            if free {
                let block = chunk as u64 * CHUNK_BLOCKS + position as u64;
                push(&mut self.blocks, entry, block * BLOCK_BYTES, BLOCK_BYTES);
            }
        }
        Ok(())
    }

    /// Frees, in steps: a process that is killed leaves the rest to the next collection. The number
    /// of bytes of data that were freed.
    pub(crate) fn free(self, layout: &Layout, tops: &[Layer]) -> Result<u64> {
        let mut freed = 0;
        for layer in self.whole {
            freed += remove_stepwise(&layout.layer(layer))?;
            remove_stepwise(&layout.map(layer))?;
        }
        for (layer, ranges) in self.blocks {
            freed += ranges.iter().map(|(_, length)| length).sum::<u64>();
            punch(&layout.layer(layer), &ranges)?;
            if !tops.contains(&layer) {
                remove_if_empty(&layout.layer(layer))?;
            }
        }
        for (layer, ranges) in self.pages {
            punch(&layout.map(layer), &ranges)?;
            if !tops.contains(&layer) {
                remove_if_empty(&layout.map(layer))?;
            }
        }
        Ok(freed)
    }
}

fn push(ranges: &mut BTreeMap<Layer, Ranges>, layer: Layer, start: u64, length: u64) {
    let ranges = ranges.entry(layer).or_default();
    match ranges.last_mut() {
        Some(last) if last.0 + last.1 == start => last.1 += length,
        _ => ranges.push((start, length)),
    }
}

/// Frees ranges of a file that may be gone already.
pub(crate) fn punch(path: &Path, ranges: &[(u64, u64)]) -> Result<()> {
    let doing = || format!("freeing a part of {}", path.display());
    let file = match OpenOptions::new().write(true).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        file => file.while_doing(doing)?,
    };
    for &(start, length) in ranges {
        let end = start + length;
        let mut at = start;
        while at < end {
            let step = STEP_BYTES.min(end - at);
            steps::punch(&file, at, step).while_doing(doing)?;
            at += step;
        }
    }
    Ok(())
}

fn remove_if_empty(path: &Path) -> Result<()> {
    match fs::metadata(path) {
        Ok(found) if allocated(&found) == 0 => files::remove(path),
        _ => Ok(()),
    }
}

/// Removes a file from its end, a step at a time. The bytes that it had allocated.
pub(crate) fn remove_stepwise(path: &Path) -> Result<u64> {
    let file = match OpenOptions::new().write(true).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(Error::io(format!("removing {}", path.display()), error)),
        Ok(file) => file,
    };
    let doing = || format!("freeing {}", path.display());
    let found = file.metadata().while_doing(doing)?;
    let bytes = allocated(&found);
    if bytes > STEP_BYTES {
        let mut length = found.len();
        while length > 0 {
            length = length.saturating_sub(STEP_BYTES);
            steps::set_len(&file, length).while_doing(doing)?;
        }
    }
    files::remove(path)?;
    Ok(bytes)
}
