//! Reading a generation: filling an SR with it, or only checking it.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use store::{BLOCK_BYTES, Contents, Error, ErrorKind, Filler, Result, Unit, Writer};

use crate::{
    Progress, Saves,
    directory::did,
    format::{
        DATA_HEADER_BYTES, Manifest, Place, SavedUnit, VERSION, VERSION_FIRST, Wrong, data_header,
        hash,
    },
    time::shown,
    work::for_each,
};

/// A generation as it was found.
#[derive(Debug)]
pub enum Found {
    /// What it says can be relied on; its data is checked when it is read.
    Good(Box<Generation>),
    /// It cannot be used: why, with the file.
    Damaged(String),
}

/// A generation, of which all but the bytes of blocks is read and known to be what was written.
#[derive(Debug)]
pub struct Generation {
    pub(crate) saves: Saves,
    pub(crate) number: u32,
    pub(crate) manifest: Manifest,
}

impl Saves {
    /// One of them.
    ///
    /// # Errors
    /// [`ErrorKind::OtherFormat`] where a later version of this program has written it.
    pub fn generation(&self, number: u32) -> Result<Found> {
        let path = self.manifest(number);
        let bytes = did("reading", &path, fs::read(&path))?;
        let manifest = match Manifest::parse(&bytes) {
            Ok(manifest) => manifest,
            Err(Wrong::Version(version)) => return Err(later(&path, version)),
            Err(Wrong::Damaged(why)) => {
                return Ok(Found::Damaged(format!("{} is damaged: {why}", path.display())));
            }
        };
        for (&file, &length) in &manifest.files {
            if let Some(why) = self.wrong_data(file, length)? {
                return Ok(Found::Damaged(why));
            }
        }
        Ok(Found::Good(Box::new(Generation { saves: self.clone(), number, manifest })))
    }

    /// Why a data file cannot be that which a manifest refers to.
    fn wrong_data(&self, number: u32, length: u64) -> Result<Option<String>> {
        let path = self.data(number);
        let shown = path.display();
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Some(format!("{shown} is missing")));
            }
            file => did("opening", &path, file)?,
        };
        let found = did("reading", &path, file.metadata())?.len();
        if found < length.max(DATA_HEADER_BYTES) {
            return Ok(Some(format!("{shown} is damaged: it has {found} bytes of {length}")));
        }
        let mut header = [0; DATA_HEADER_BYTES as usize];
        let read = file.read_exact_at(&mut header, 0);
        did("reading", &path, read)?;
        let is_right = header == data_header(number);
        Ok((!is_right).then(|| format!("{shown} is damaged: it does not begin as it was written")))
    }

    /// The newest generation that can be used, and why newer ones cannot be.
    ///
    /// # Errors
    /// As [`Saves::generation`].
    pub fn newest_good(&self) -> Result<(Option<Box<Generation>>, Vec<String>)> {
        let mut damaged = Vec::new();
        for number in self.numbers()? {
            match self.generation(number)? {
                Found::Good(generation) => return Ok((Some(generation), damaged)),
                Found::Damaged(why) => damaged.push(why),
            }
        }
        Ok((None, damaged))
    }
}

impl Generation {
    /// Everything but the bytes of the blocks.
    #[must_use]
    pub fn contents(&self) -> &Contents {
        &self.manifest.contents
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// When it was made, in words.
    #[must_use]
    pub fn saved(&self) -> String {
        shown(self.manifest.head.saved)
    }

    /// Damaged volumes that were left out of it, each with why.
    #[must_use]
    pub fn left_out(&self) -> &[String] {
        &self.manifest.head.left_out
    }

    /// Which it is, in words.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} of {}", self.saves.manifest(self.number).display(), self.saved())
    }

    /// Writes the bytes of all blocks into an SR that is being made.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where bytes are not what was saved; otherwise those of reading and writing.
    pub fn fill(&self, filler: &Filler<'_>, progress: &dyn Progress) -> Result<()> {
        self.read(|| Some(filler.writer()), progress)
    }

    /// Reads all of it and compares it with what was saved.
    ///
    /// # Errors
    /// As [`Self::fill`].
    pub fn verify(&self, progress: &dyn Progress) -> Result<()> {
        self.read(|| None, progress)
    }

    fn read<'a>(
        &self,
        writer: impl Fn() -> Option<Writer<'a>> + Sync,
        progress: &dyn Progress,
    ) -> Result<()> {
        let contents = &self.manifest.contents;
        progress.begin(contents.data_bytes());
        let units: Vec<(Unit, u64)> =
            contents.units.iter().map(|(&it, &mask)| (it, mask)).collect();
        for_each(
            units.len(),
            || Ok((Frames::new(self)?, writer())),
            |(frames, writer), position| {
                let (unit, mask) = units[position];
                let bytes = frames.read(&self.manifest.units[position], mask)?;
                if let Some(writer) = writer {
                    writer.write(unit, mask, bytes)?;
                }
                progress.advance(bytes.len() as u64);
                Ok(())
            },
        )
    }
}

fn later(path: &Path, version: u32) -> Error {
    Error::new(
        ErrorKind::OtherFormat,
        format!(
            "{} has version {version} of the format of saves, and this version of the program knows {} to {}: \
             install the version of xapi-storage-ram that wrote it, or a later one; nothing is changed",
            path.display(),
            VERSION_FIRST,
            VERSION
        ),
    )
}

/// Reads and unpacks frames.
struct Frames<'a> {
    generation: &'a Generation,
    files: HashMap<u32, File>,
    unpacker: zstd::bulk::Decompressor<'static>,
    frame: Vec<u8>,
    bytes: Vec<u8>,
}

impl<'a> Frames<'a> {
    fn new(generation: &'a Generation) -> Result<Self> {
        let unpacker = did("starting", generation.saves.path(), zstd::bulk::Decompressor::new())?;
        let (frame, bytes) = (Vec::new(), Vec::new());
        Ok(Self { generation, files: HashMap::new(), unpacker, frame, bytes })
    }

    /// The bytes of a unit.
    fn read(&mut self, saved: &SavedUnit, mask: u64) -> Result<&[u8]> {
        let Place { file: number, length, offset } = saved.place;
        let path = self.generation.saves.data(number);
        let file = match self.files.entry(number) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => {
                new.insert(did("opening", &path, File::open(&path))?)
            }
        };
        let damaged = || {
            Error::new(
                ErrorKind::Corrupt,
                format!(
                    "{} is damaged: the {length} bytes at {offset} are not what was saved",
                    path.display()
                ),
            )
        };
        self.frame.resize(length as usize, 0);
        match file.read_exact_at(&mut self.frame, offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(damaged()),
            read => did("reading", &path, read)?,
        }
        let wanted = mask.count_ones() as usize * BLOCK_BYTES as usize;
        self.bytes.resize(wanted, 0);
        let unpacked = self.unpacker.decompress_to_buffer(&self.frame, self.bytes.as_mut_slice());
        if !unpacked.is_ok_and(|count| count == wanted) || hash(mask, &self.bytes) != saved.hash {
            return Err(damaged());
        }
        Ok(&self.bytes)
    }
}
