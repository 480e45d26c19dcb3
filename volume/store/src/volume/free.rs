//! Freeing memory: the blocks and pages that a removed map named, and no other map names.
//!
//! A block of a layer lies at its own offset in every volume, so only entries of the same block can
//! name it; and a block that no map names will never be named again, since maps gain entries only
//! from their own top and from other maps. So garbage is found under the SR's lock and freed
//! without it.

use std::{
    collections::BTreeMap,
    fs::File,
    ops::{ControlFlow, Range},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use rustix::fs::fstat;

use super::sharing::SharingVolumes;
use crate::{
    block::{BLOCK_BYTES, CHUNK_BLOCKS, Layer, PAGE_BYTES, is_data, pages},
    error::{Context, ErrorKind, Result},
    files::{Dirs, Entry, allocated, steps},
    record::{Pages, View, for_data_from},
};

/// The longest range that one call to the file system frees: some milliseconds. So a killed process
/// stops soon, and others have their turn.
const STEP_BYTES: u64 = 16 << 20;
/// How long memory is freed without a rest, if no other operation waits for it...
const RUN: Duration = Duration::from_micros(400);
/// ... and how long the rest takes.
const REST: Duration = Duration::from_micros(300);

/// Ranges of one file, in bytes, ascending.
pub(crate) type Ranges = Vec<(u64, u64)>;

/// The speed of freeing. Each freed page that a disk has mapped interrupts the processor that
/// serves the disk, and there may be only two processors.
#[derive(Debug)]
pub(crate) struct Pace {
    since: Option<Instant>,
}

impl Pace {
    /// While something is locked: without rests.
    pub(crate) fn hurried() -> Self {
        Self { since: None }
    }

    /// With rests in which disks are served.
    fn gentle() -> Self {
        Self { since: Some(Instant::now()) }
    }

    fn step(&mut self) {
        if let Some(since) = self.since.as_mut().filter(|since| since.elapsed() >= RUN) {
            thread::sleep(REST);
            *since = Instant::now();
        }
    }
}

/// Blocks, pages and files that are to be freed.
#[derive(Debug, Default)]
pub(crate) struct Garbage {
    /// Layers whose blocks no map names, and layers whose pages no index names.
    pub(crate) layers: Vec<Layer>,
    pub(crate) maps: Vec<Layer>,
    pub(crate) blocks: BTreeMap<Layer, Ranges>,
    pub(crate) pages: BTreeMap<Layer, Ranges>,
}

impl Garbage {
    /// Whether there is nothing to free.
    pub(crate) fn is_empty(&self) -> bool {
        let Self { layers, maps, blocks, pages } = self;
        layers.is_empty() && maps.is_empty() && blocks.is_empty() && pages.is_empty()
    }

    /// Adds the blocks and pages that the `destroyed` views named and none of the surviving volumes does.
    pub(crate) fn add_views(
        &mut self,
        dirs: &Dirs,
        destroyed: &[View],
        survivors: &SharingVolumes<'_>,
    ) -> Result<()> {
        for files in [&mut self.layers, &mut self.maps] {
            files.sort_unstable();
            files.dedup();
        }
        let mut pages = Pages::new(dirs);
        for view in destroyed {
            for (chunk, named) in view.chunks() {
                let is_needed = survivors.user(view.number, chunk, named)?.is_some();
                if view.has_data && !is_needed {
                    self.chunk(&mut pages, view, chunk, survivors)?;
                }
                if let Some(layer) = named.page()
                    && !is_needed
                    && self.maps.binary_search(&layer).is_err()
                    && !survivors.has_page(view.number, chunk, layer)?
                {
                    push(&mut self.pages, layer, chunk as u64 * PAGE_BYTES, PAGE_BYTES);
                }
                pages.forget();
            }
        }
        // Two destroyed views may have named the same blocks.
        self.blocks.values_mut().chain(self.pages.values_mut()).for_each(merge);
        Ok(())
    }

    /// Adds blocks of a layer, in ascending order.
    pub(crate) fn add_blocks(&mut self, layer: Layer, ranges: Ranges) {
        ranges.into_iter().for_each(|(start, length)| push(&mut self.blocks, layer, start, length));
    }

    /// Adds pages of the map of a layer, in ascending order.
    pub(crate) fn add_pages(&mut self, layer: Layer, ranges: Ranges) {
        ranges.into_iter().for_each(|(start, length)| push(&mut self.pages, layer, start, length));
    }

    fn chunk(
        &mut self,
        pages: &mut Pages<'_>,
        destroyed: &View,
        chunk: usize,
        survivors: &SharingVolumes<'_>,
    ) -> Result<()> {
        let page = pages.entries(destroyed, chunk)?;
        let is_shared =
            |entry: &Layer| is_data(*entry) && self.layers.binary_search(entry).is_err();
        let mut free: Vec<usize> =
            (0..page.len()).filter(|&position| is_shared(&page[position])).collect();
        // Most of the blocks are still named by the volumes that were made just before or after.
        survivors.for_named(destroyed.number, chunk, |named| {
            if !free.is_empty() {
                let other = pages.of(named, chunk)?;
                free.retain(|&position| other[position] != page[position]);
            }
            Ok(!free.is_empty())
        })?;
        for position in free {
            let block = chunk as u64 * CHUNK_BLOCKS + position as u64;
            push(&mut self.blocks, page[position], block * BLOCK_BYTES, BLOCK_BYTES);
        }
        Ok(())
    }

    /// Frees, in steps: a process that is killed leaves the rest to the next collection. The number
    /// of bytes of data that were freed.
    pub(crate) fn free(self, dirs: &Dirs, tops: &[Layer]) -> Result<u64> {
        let mut freed = 0;
        let mut pace = Pace::gentle();
        for layer in self.layers {
            freed += remove_stepwise(dirs, Entry::Layer(layer), &mut pace)?;
        }
        for layer in self.maps {
            remove_stepwise(dirs, Entry::Map(layer), &mut pace)?;
        }
        for (layer, ranges) in self.blocks {
            freed += punch(dirs, Entry::Layer(layer), &ranges, &mut pace)?;
            if !tops.contains(&layer) {
                remove_if_empty(dirs, Entry::Layer(layer))?;
            }
        }
        for (layer, ranges) in self.pages {
            punch(dirs, Entry::Map(layer), &ranges, &mut pace)?;
            if !tops.contains(&layer) {
                remove_if_empty(dirs, Entry::Map(layer))?;
            }
        }
        Ok(freed)
    }
}

/// Sorts ranges and joins those that meet or overlap.
fn merge(ranges: &mut Ranges) {
    ranges.sort_unstable();
    ranges.dedup_by(|(start, length), (from, before)| {
        let meets = *start <= *from + *before;
        if meets {
            *before = (*before).max(*start + *length - *from);
        }
        meets
    });
}

pub(crate) fn push(ranges: &mut BTreeMap<Layer, Ranges>, layer: Layer, start: u64, length: u64) {
    let ranges = ranges.entry(layer).or_default();
    match ranges.last_mut() {
        Some(last) if last.0 + last.1 == start => last.1 += length,
        _ => ranges.push((start, length)),
    }
}

/// Frees ranges of a file that may be gone already. The bytes that they had allocated.
pub(crate) fn punch(
    dirs: &Dirs,
    entry: Entry<'_>,
    ranges: &[(u64, u64)],
    pace: &mut Pace,
) -> Result<u64> {
    const DOING: &str = "freeing a part of";
    let path = || dirs.path(entry);
    let file = match dirs.edit(entry) {
        Err(error) if error.is_missing_file() => return Ok(0),
        file => file?,
    };
    let (mut freed, mut uncounted) = (0, 0);
    let mut punched = Ok(());
    'ranges: for &(start, length) in ranges {
        let end = start + length;
        let mut at = start;
        while at < end {
            let step = STEP_BYTES.min(end - at);
            // Not by what the file has before and after: a disk that is served may be freeing other
            // parts of it, and counts those itself.
            let bytes = allocated_in(&file, path, at..at + step)?;
            punched = steps::punch(&file, at, step);
            if punched.is_err() {
                break 'ranges;
            }
            (freed, uncounted) = (freed + bytes, uncounted + bytes);
            if uncounted >= STEP_BYTES {
                dirs.count(pages(uncounted), 0);
                uncounted = 0;
            }
            pace.step();
            at += step;
        }
    }
    dirs.count(pages(uncounted), 0);
    punched.doing(DOING, path)?;
    Ok(freed)
}

/// Bytes of a range that a file has allocated.
fn allocated_in(file: &File, path: impl Fn() -> PathBuf, range: Range<u64>) -> Result<u64> {
    let mut bytes = 0;
    for_data_from(file, range.start, path, |start, end| {
        bytes += end.min(range.end).saturating_sub(start);
        Ok(if end < range.end { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok(bytes)
}

fn remove_if_empty(dirs: &Dirs, entry: Entry<'_>) -> Result<()> {
    match dirs.stat(entry) {
        Ok(found) if allocated(&found) == 0 => dirs.remove(entry),
        _ => Ok(()),
    }
}

/// Removes a file from its end, a step at a time. The bytes that it had allocated.
fn remove_stepwise(dirs: &Dirs, entry: Entry<'_>, pace: &mut Pace) -> Result<u64> {
    const DOING: &str = "freeing";
    let path = || dirs.path(entry);
    let file = match dirs.edit(entry) {
        Err(error) if error.is_missing_file() => return Ok(0),
        // A link, say: it holds nothing itself.
        Err(error) if error.kind() == ErrorKind::Corrupt => return dirs.remove(entry).map(|()| 0),
        file => file?,
    };
    let found = fstat(&file).doing(DOING, path)?;
    let bytes = allocated(&found);
    // Also of a small file: a process that has it mapped would keep the memory of a removed one.
    if bytes > 0 {
        let mut length = u64::try_from(found.st_size).unwrap_or_default();
        while length > 0 {
            length = length.saturating_sub(STEP_BYTES);
            dirs.counted(&file, || steps::set_len(&file, length)).doing(DOING, path)?;
            pace.step();
        }
    }
    dirs.remove(entry)?;
    Ok(bytes)
}
