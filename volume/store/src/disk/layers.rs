//! The files of the layers that a disk reads and writes: descriptors and mappings, bounded.

use std::{fs::File, hash::Hash, sync::atomic::AtomicU32};

use memory::{ReadMap, Words, WriteMap};
use rustc_hash::FxHashMap;
use rustix::fs::{SeekFrom, seek};

use crate::{
    block::{BLOCK_BYTES, Layer, PAGE_BYTES, map_bytes},
    error::{Context, Error, ErrorKind, Result},
    files::{Dirs, Entry, steps},
};

/// The part of a layer that one mapping covers, in bytes. It takes address space, not memory.
pub(super) const WINDOW_BYTES: u64 = 1 << 30;
const WINDOW: usize = WINDOW_BYTES as usize;
/// Mappings of frozen layers kept, of data and of maps each; the kernel allows a process 65,530
/// (`vm.max_map_count`).
const MAPPINGS_MAX: usize = 8192;
/// Upper bound on mapped map files, in bytes. x86-64 gives a process 128 TiB of address space.
const MAPS_BYTES_MAX: usize = 16 << 40;
/// So much of a loaded file is freed at a time, in bytes.
const FREED_BYTES: u64 = 4 << 20;
/// So much is unmapped at a time: where all of it was touched, that takes half a millisecond.
const UNMAPPED_BYTES: usize = 8 << 20;
/// Descriptors of frozen layers kept for punching.
const FILES_MAX: usize = 64;

/// The layer that is written to.
#[derive(Debug)]
pub(super) struct Top {
    pub(super) layer: Layer,
    pub(super) data: File,
    pub(super) map: File,
    words: WriteMap,
    windows: Vec<Option<WriteMap>>,
}

impl Top {
    /// Extends `data` and `map` to the lengths that a volume of `size` bytes needs.
    pub(super) fn new(layer: Layer, data: File, map: File, size: u64) -> Result<Self> {
        let words = map_words(layer, &data, &map, size)?;
        Ok(Self { layer, data, map, words, windows: Vec::new() })
    }

    /// The files of its data and of its map.
    pub(super) fn into_files(self) -> (File, File) {
        (self.data, self.map)
    }

    /// The entries of the top's map; only pages that the index names may be touched.
    pub(super) fn words(&self) -> &[AtomicU32] {
        self.words.words()
    }

    fn window(&mut self, number: usize) -> Result<&WriteMap> {
        if self.windows.len() <= number {
            self.windows.resize_with(number + 1, || None);
        }
        let slot = &mut self.windows[number];
        if slot.is_none() {
            let window = WriteMap::new(&self.data, window_start(number), WINDOW)
                .doing("mapping", || layer_name(self.layer))?;
            *slot = Some(window);
        }
        Ok(slot.as_ref().expect("just mapped"))
    }
}

/// Extends the files of a layer to the lengths that a volume of `size` bytes needs, and maps its
/// map.
fn map_words(layer: Layer, data: &File, map: &File, size: u64) -> Result<WriteMap> {
    extend(data, size.next_multiple_of(BLOCK_BYTES))
        .and_then(|()| extend(map, map_bytes(size)))
        .doing("extending", || layer_name(layer))?;
    let length = usize::try_from(map_bytes(size)).expect("64-bit host");
    WriteMap::new(map, 0, length).doing("mapping the map of", || layer_name(layer))
}

fn extend(file: &File, length: u64) -> std::io::Result<()> {
    if file.metadata()?.len() < length { steps::set_len(file, length) } else { Ok(()) }
}

/// Where a window starts, in bytes.
fn window_start(number: usize) -> u64 {
    number as u64 * WINDOW_BYTES
}

/// The window of a byte, and the offset of the byte in it.
fn window_of(at: u64) -> (usize, usize) {
    let number = usize::try_from(at / WINDOW_BYTES).expect("64-bit host");
    let offset = usize::try_from(at % WINDOW_BYTES).expect("64-bit host");
    (number, offset)
}

/// All layers of one disk.
#[derive(Debug)]
pub(super) struct Layers {
    /// Where frozen layers are found; a loaded file has none.
    dirs: Option<Dirs>,
    pub(super) top: Option<Top>,
    maps: FxHashMap<Layer, ReadMap>,
    windows: FxHashMap<(Layer, usize), ReadMap>,
    files: FxHashMap<Layer, File>,
}

impl Layers {
    pub(super) fn new(dirs: Option<Dirs>, top: Option<Top>) -> Self {
        Self {
            dirs,
            top,
            maps: FxHashMap::default(),
            windows: FxHashMap::default(),
            files: FxHashMap::default(),
        }
    }

    /// The layer that is written to.
    pub(super) fn top(&self) -> Result<&Top> {
        self.top.as_ref().ok_or_else(read_only)
    }

    /// Where frozen layers are found; a loaded file has none.
    pub(super) fn dirs(&self) -> Option<&Dirs> {
        self.dirs.as_ref()
    }

    /// Makes `top` the layer that is written to. The mappings of the old top are kept.
    pub(super) fn freeze(&mut self, top: Top) {
        let Some(old) = self.top.replace(top) else { return };
        make_room_for_map(&mut self.maps, old.words.reader().length());
        make_room_for_windows(&mut self.windows, old.windows.iter().flatten().count());
        self.maps.insert(old.layer, old.words.into());
        for (number, window) in old.windows.into_iter().enumerate() {
            self.windows.extend(window.map(|window| ((old.layer, number), window.into())));
        }
    }

    /// Extends the top to a volume of `size` bytes.
    pub(super) fn grow(&mut self, size: u64) -> Result<()> {
        if let Some(top) = &mut self.top {
            top.words = map_words(top.layer, &top.data, &top.map, size)?;
        }
        Ok(())
    }

    /// A mapping of the data of `layer` that contains the byte `at`, and the offset of `at` in it.
    pub(super) fn data(&mut self, layer: Layer, at: u64) -> Result<(&ReadMap, usize)> {
        let (number, offset) = window_of(at);
        if let Some(top) = self.top.as_mut().filter(|top| top.layer == layer) {
            return Ok((top.window(number)?.reader(), offset));
        }
        if !self.windows.contains_key(&(layer, number)) {
            make_room_for_windows(&mut self.windows, 1);
            let file = place(self.dirs.as_ref(), layer)?.read(Entry::Layer(layer))?;
            let window = ReadMap::new(&file, window_start(number), WINDOW)
                .doing("mapping", || layer_name(layer))?;
            self.windows.insert((layer, number), window);
        }
        Ok((&self.windows[&(layer, number)], offset))
    }

    /// The same of the top's data, to be written to.
    pub(super) fn top_data(&mut self, at: u64) -> Result<(&WriteMap, usize)> {
        let (number, offset) = window_of(at);
        let top = self.top.as_mut().ok_or_else(read_only)?;
        Ok((top.window(number)?, offset))
    }

    /// The entries of the map of `layer`; only pages that an index names may be touched.
    pub(super) fn words(&mut self, layer: Layer) -> Result<Words<'_>> {
        if let Some(top) = self.top.as_ref().filter(|top| top.layer == layer) {
            return Ok(top.words.reader().words());
        }
        if !self.maps.contains_key(&layer) {
            const DOING: &str = "mapping the map of";
            let file = place(self.dirs.as_ref(), layer)?.read(Entry::Map(layer))?;
            let length = file.metadata().doing(DOING, || layer_name(layer))?.len();
            let length = usize::try_from(length).expect("64-bit host");
            make_room_for_map(&mut self.maps, length);
            let map = ReadMap::new(&file, 0, length).doing(DOING, || layer_name(layer))?;
            self.maps.insert(layer, map);
        }
        Ok(self.maps[&layer].words())
    }

    /// The same, where they are mapped.
    pub(super) fn mapped_words(&self, layer: Layer) -> Option<Words<'_>> {
        match &self.top {
            Some(top) if top.layer == layer => Some(top.words.reader().words()),
            _ => self.maps.get(&layer).map(ReadMap::words),
        }
    }

    /// Frees `count` blocks of the data of `layer`.
    pub(super) fn punch(&mut self, layer: Layer, block: u64, count: u64) -> Result<()> {
        let file = match self.top.as_ref().filter(|top| top.layer == layer) {
            Some(top) => &top.data,
            None => self.file(layer)?,
        };
        steps::punch(file, block * BLOCK_BYTES, count * BLOCK_BYTES)
            .doing("freeing blocks of", || layer_name(layer))
    }

    /// Frees a page of the map of a layer. Whether the page was there: an operation that has found it
    /// without a name may have freed it, if the layer is frozen.
    pub(super) fn punch_page(&self, layer: Layer, chunk: usize) -> Result<bool> {
        const DOING: &str = "freeing a page of the map of";
        if let Some(top) = self.top.as_ref().filter(|top| top.layer == layer) {
            let punched = steps::punch(&top.map, chunk as u64 * PAGE_BYTES, PAGE_BYTES);
            return punched.doing(DOING, || layer_name(layer)).map(|()| true);
        }
        let file = match place(self.dirs.as_ref(), layer)?.edit(Entry::Map(layer)) {
            // A file without pages may be removed at any time.
            Err(error) if error.is_missing_file() => return Ok(false),
            file => file?,
        };
        let at = chunk as u64 * PAGE_BYTES;
        if !seek(&file, SeekFrom::Data(at)).is_ok_and(|data| data == at) {
            return Ok(false);
        }
        steps::punch(&file, at, PAGE_BYTES).doing(DOING, || layer_name(layer)).map(|()| true)
    }

    /// Of a disk that is closed, lets go of a part of the mappings and, where it was loaded, of the memory;
    /// whether there was any. No slice of it may be in use.
    pub(super) fn let_go_of_some(&mut self) -> bool {
        let is_loaded = self.dirs.is_none();
        if let Some(top) = &mut self.top {
            // Cutting it off unmaps it too, wherever it is mapped.
            let length = top.data.metadata().map_or(0, |found| found.len());
            if is_loaded && length > 0 {
                let rest = length.saturating_sub(FREED_BYTES);
                return steps::set_len(&top.data, rest).is_ok();
            }
            if let Some(window) = top.windows.last_mut() {
                if !window.as_mut().is_some_and(|window| window.cut(UNMAPPED_BYTES)) {
                    top.windows.pop();
                }
                return true;
            }
        }
        unmap_some(&mut self.windows) || unmap_some(&mut self.maps)
    }

    fn file(&mut self, layer: Layer) -> Result<&File> {
        if !self.files.contains_key(&layer) {
            if self.files.len() >= FILES_MAX {
                self.files.clear();
            }
            let file = place(self.dirs.as_ref(), layer)?.edit(Entry::Layer(layer))?;
            self.files.insert(layer, file);
        }
        Ok(&self.files[&layer])
    }
}

/// Unmaps a part of one of the mappings; whether there was any.
fn unmap_some<K: Copy + Eq + Hash>(mappings: &mut FxHashMap<K, ReadMap>) -> bool {
    let Some((&key, mapping)) = mappings.iter_mut().next() else { return false };
    if !mapping.cut(UNMAPPED_BYTES) {
        mappings.remove(&key);
    }
    true
}

fn read_only() -> Error {
    Error::new(ErrorKind::ReadOnly, "the disk is read-only")
}

/// Makes room for one more mapped map file of `bytes`.
fn make_room_for_map(maps: &mut FxHashMap<Layer, ReadMap>, bytes: usize) {
    if maps.len() >= MAPPINGS_MAX.min(MAPS_BYTES_MAX / bytes.max(1)) {
        maps.clear();
    }
}

/// The same for `count` windows. Slices that are still to be sent keep their windows mapped.
fn make_room_for_windows(windows: &mut FxHashMap<(Layer, usize), ReadMap>, count: usize) {
    if windows.len() + count > MAPPINGS_MAX {
        windows.clear();
    }
}

/// Where the files of `layer` are, which is not the top.
fn place(dirs: Option<&Dirs>, layer: Layer) -> Result<&Dirs> {
    dirs.ok_or_else(|| {
        let message = format!("the map of a loaded file names layer {layer:08x}");
        Error::new(ErrorKind::Corrupt, message)
    })
}

pub(super) fn layer_name(layer: Layer) -> String {
    format!("layer {layer:08x}")
}
