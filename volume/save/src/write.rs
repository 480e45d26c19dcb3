//! Writing a generation.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    os::fd::AsFd,
    path::Path,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::fs::{Advice, fadvise, statvfs};
use store::{Error, ErrorKind, Reader, Result, Still, Unit, human};
use zstd::bulk::Compressor;

use crate::{
    Generation, Progress, Saves,
    directory::{did, now},
    format::{DATA_HEADER_BYTES, Hash, Head, Manifest, Place, SavedUnit, data_header, hash},
    step,
    work::for_each,
};

/// The level of zstd that keeps up with a disk.
const LEVEL: i32 = 1;
/// So much is written before it is waited for and its pages are given up, in bytes: memory is what a host with
/// such an SR has least of.
const FLUSH_BYTES: u64 = 64 << 20;
/// A data file of which less than one part in this many is still needed is not referred to any more.
const NEEDED_PART: u64 = 2;

/// What a save has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The number of the generation.
    pub number: u32,
    /// Bytes of data that the SR has.
    pub data_bytes: u64,
    /// Bytes that were written for it.
    pub written_bytes: u64,
    /// Generations that could not be used and were not referred to, each with why.
    pub damaged: Vec<String>,
}

impl Saves {
    /// Saves an SR. Nothing that was saved before is touched until the new generation is complete on the disk;
    /// of a save that fails nothing is left.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`] where there is too little room; [`ErrorKind::OtherFormat`] where a later version of
    /// the program has saved the SR; [`ErrorKind::Busy`] where another process saves it.
    pub fn write(
        &self,
        still: &Still<'_>,
        program: &str,
        progress: &dyn Progress,
    ) -> Result<Written> {
        did("creating", self.path(), step::make_dir(self.path()))?;
        let _lock = self.lock()?;
        self.clean(None)?;
        let (before, damaged) = self.newest_good()?;
        let number = self.next_number()?;
        let head =
            Head { saved: now(), program: program.to_owned(), left_out: still.left_out().to_vec() };
        let made = self.write_new(number, before.as_deref(), still, head, progress);
        let written_bytes = match made {
            Ok(bytes) => bytes,
            Err(error) => {
                // The first error is the one to tell.
                let _left = self.clean(None);
                return Err(self.explained(error, still));
            }
        };
        let kept = before.map_or(number, |before| before.number());
        self.clean(Some([number, kept]))?;
        let data_bytes = still.contents().data_bytes();
        Ok(Written { number, data_bytes, written_bytes, damaged })
    }

    /// Writes the files of a generation, and commits it. The bytes written.
    fn write_new(
        &self,
        number: u32,
        before: Option<&Generation>,
        still: &Still<'_>,
        head: Head,
        progress: &dyn Progress,
    ) -> Result<u64> {
        let path = self.data(number);
        let data = DataFile::new(&path, number)?;
        let units = write_units(&data, before, still, progress)?;
        let mut manifest =
            Manifest { head, contents: still.contents().clone(), units, ..Manifest::default() };
        for unit in &manifest.units {
            let Place { file, length, offset } = unit.place;
            let end: &mut u64 = manifest.files.entry(file).or_default();
            *end = (*end).max(offset + u64::from(length));
        }
        let mut written = data.end.into_inner();
        if written > DATA_HEADER_BYTES {
            did("writing", &path, step::sync(&data.file))?;
        } else {
            did("removing", &path, step::remove(&path))?;
            written = 0;
        }
        let (new, name) = (self.new_manifest(number), self.manifest(number));
        let bytes = did("writing", &new, manifest.to_bytes())?;
        let done = step::create(&new).and_then(|file| {
            step::write_at(&file, &bytes, 0)?;
            step::sync(&file)
        });
        did("writing", &new, done)?;
        // The data file has its name before the manifest has.
        self.sync()?;
        did("renaming", &new, step::rename(&new, &name))?;
        self.sync()?;
        Ok(written + bytes.len() as u64)
    }

    /// An error with what it means for the SR, and what is to be done.
    fn explained(&self, error: Error, still: &Still<'_>) -> Error {
        if error.kind() != ErrorKind::NoSpace {
            return error;
        }
        let free = statvfs(self.path()).map_or(0, |found| found.f_bavail * found.f_frsize);
        Error::new(
            ErrorKind::NoSpace,
            format!(
                "SR {} has {} of data, and {} with {} free is too little room to save what has changed ({}); \
                 the SR and its last save are as they were: make room there, or save the SR to another \
                 directory (device-config:save-dir)",
                self.sr(),
                human(still.contents().data_bytes()),
                self.path().display(),
                human(free),
                error.chain()
            ),
        )
    }
}

/// A data file that is being written, by several threads.
struct DataFile<'a> {
    path: &'a Path,
    number: u32,
    file: File,
    end: AtomicU64,
    /// Bytes that were written and not waited for.
    unflushed: AtomicU64,
}

impl<'a> DataFile<'a> {
    fn new(path: &'a Path, number: u32) -> Result<Self> {
        let file = did("creating", path, step::create(path))?;
        did("writing", path, step::write_at(&file, &data_header(number), 0))?;
        let end = AtomicU64::new(DATA_HEADER_BYTES);
        Ok(Self { path, number, file, end, unflushed: AtomicU64::new(0) })
    }

    fn add(&self, frame: &[u8]) -> Result<Place> {
        let length = frame.len() as u64;
        let offset = self.end.fetch_add(length, Ordering::Relaxed);
        did("writing", self.path, step::write_at(&self.file, frame, offset))?;
        if self.unflushed.fetch_add(length, Ordering::Relaxed) + length >= FLUSH_BYTES {
            self.unflushed.store(0, Ordering::Relaxed);
            did("writing", self.path, self.file.sync_data())?;
            // It is only advice.
            let _kept = fadvise(self.file.as_fd(), 0, None, Advice::DontNeed);
        }
        let length = u32::try_from(frame.len()).expect("a frame of a unit");
        Ok(Place { file: self.number, length, offset })
    }
}

/// Writes those units that the generation before does not have. Where each of them is.
fn write_units(
    data: &DataFile<'_>,
    before: Option<&Generation>,
    still: &Still<'_>,
    progress: &dyn Progress,
) -> Result<Vec<SavedUnit>> {
    let contents = still.contents();
    progress.begin(contents.data_bytes());
    let known: Mutex<HashMap<Hash, Place>> = Mutex::new(before.map(reusable).unwrap_or_default());
    let known = || known.lock().unwrap_or_else(PoisonError::into_inner);
    let units: Vec<(Unit, u64)> =
        contents.units.iter().map(|(&unit, &mask)| (unit, mask)).collect();
    let blocks = still.blocks();
    let saved: Vec<OnceLock<SavedUnit>> = units.iter().map(|_| OnceLock::new()).collect();
    for_each(
        units.len(),
        || Packer::new(blocks.reader(), data.path),
        |packer, position| {
            let (unit, mask) = units[position];
            packer.reader.read(unit, mask, &mut packer.bytes)?;
            let hash = hash(mask, &packer.bytes);
            let found = known().get(&hash).copied();
            let place = match found {
                Some(place) => place,
                None => {
                    let place = data.add(packer.pack()?)?;
                    known().insert(hash, place);
                    place
                }
            };
            saved[position].set(SavedUnit { hash, place }).expect("each position once");
            progress.advance(packer.bytes.len() as u64);
            Ok(())
        },
    )?;
    Ok(saved.into_iter().filter_map(OnceLock::into_inner).collect())
}

/// The units of a generation that a new one may refer to: not those in files that are mostly garbage by now.
fn reusable(before: &Generation) -> HashMap<Hash, Place> {
    let units = &before.manifest.units;
    let mut needed: BTreeMap<u32, u64> = BTreeMap::new();
    let mut places: HashMap<Hash, Place> = HashMap::new();
    for unit in units {
        if places.insert(unit.hash, unit.place).is_none() {
            *needed.entry(unit.place.file).or_default() += u64::from(unit.place.length);
        }
    }
    let length = |file| fs::metadata(before.saves.data(file)).map_or(u64::MAX, |found| found.len());
    let is_worth = |file: u32| needed[&file].saturating_mul(NEEDED_PART) >= length(file);
    places.retain(|_, place| is_worth(place.file));
    places
}

/// What a thread needs to read and pack units.
struct Packer<'a> {
    reader: Reader<'a>,
    bytes: Vec<u8>,
    frame: Vec<u8>,
    compressor: Compressor<'static>,
    path: &'a Path,
}

impl<'a> Packer<'a> {
    fn new(reader: Reader<'a>, path: &'a Path) -> Result<Self> {
        let compressor = did("writing", path, Compressor::new(LEVEL))?;
        Ok(Self { reader, bytes: Vec::new(), frame: Vec::new(), compressor, path })
    }

    /// The frame of the bytes.
    fn pack(&mut self) -> Result<&[u8]> {
        self.frame.resize(zstd::zstd_safe::compress_bound(self.bytes.len()), 0);
        let packed = self.compressor.compress_to_buffer(&self.bytes, self.frame.as_mut_slice());
        let length = did("writing", self.path, packed)?;
        Ok(&self.frame[..length])
    }
}
