//! The directory of one SR's saves: which files are there, what is kept of them, and whether the SR is in use.

use std::{
    collections::BTreeSet,
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use store::{Error, ErrorKind, Name, Result};

use crate::{format::Manifest, step, time::shown};

const MANIFEST: &str = "manifest";
const DATA: &str = "data";
/// What a file is called until it is complete.
const NEW: &str = "new";
const IN_USE: &str = "in-use";
const LOCK: &str = "lock";

/// The saves of one SR.
#[derive(Clone, Debug)]
pub struct Saves {
    directory: PathBuf,
    sr: Name,
}

impl Saves {
    /// Those of an SR below a directory, which need not be there.
    #[must_use]
    pub fn new(save_dir: &Path, sr: &Name) -> Self {
        Self { directory: save_dir.join(sr.as_str()), sr: sr.clone() }
    }

    /// Where they lie.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// The SR that is saved.
    #[must_use]
    pub fn sr(&self) -> &Name {
        &self.sr
    }

    /// The numbers of all generations, the newest first.
    ///
    /// # Errors
    /// Where the directory cannot be read. So for all methods.
    pub fn numbers(&self) -> Result<Vec<u32>> {
        Ok(self.files(MANIFEST)?.into_iter().rev().collect())
    }

    /// Since when the SR has been in use, in words: from then on it may hold what no save has. `None` where it
    /// was detached after the newest save.
    ///
    /// # Errors
    /// As [`Self::numbers`].
    pub fn in_use_since(&self) -> Result<Option<String>> {
        let path = self.directory.join(IN_USE);
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            text => did("reading", &path, text).map(|text| Some(text.trim_end().to_owned())),
        }
    }

    /// Marks the SR as in use, from before its disks can be written to.
    ///
    /// # Errors
    /// Where the mark cannot be written: an SR without it would pass for one that was saved.
    pub fn begin_use(&self) -> Result<()> {
        if self.in_use_since()?.is_some() {
            return Ok(());
        }
        did("creating", &self.directory, step::make_dir(&self.directory))?;
        let (path, new) = (self.directory.join(IN_USE), self.directory.join("in-use.new"));
        let text = format!("{}\n", shown(now()));
        let written = step::create(&new).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            step::sync(&file)?;
            step::rename(&new, &path)
        });
        did("writing", &path, written)?;
        self.sync()
    }

    /// Takes the mark away: the newest save has all that is in the SR, and its disks cannot be written to.
    ///
    /// # Errors
    /// Where that cannot be written.
    pub fn end_use(&self) -> Result<()> {
        let path = self.directory.join(IN_USE);
        did("removing", &path, step::remove(&path))?;
        self.sync()
    }

    /// Removes all saves of an SR that is destroyed. A directory that is not there is no error.
    ///
    /// # Errors
    /// Where files cannot be removed.
    pub fn remove(&self) -> Result<()> {
        for number in self.numbers()? {
            let path = self.manifest(number);
            did("removing", &path, step::remove(&path))?;
        }
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                did("removing", &self.directory, Err(error))
            }
            _ => Ok(()),
        }
    }

    /// Takes the lock of those that write or read saves, on a file that stays.
    pub(crate) fn lock(&self) -> Result<File> {
        let path = self.directory.join(LOCK);
        let options = || File::options().create(true).truncate(false).write(true).open(&path);
        let file = did("opening", &path, options())?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(Error::new(
                ErrorKind::Busy,
                format!(
                    "SR {} is being saved or restored by another process ({} is locked; fuser names it): \
                     repeat this when it has ended",
                    self.sr,
                    path.display()
                ),
            )),
            Err(TryLockError::Error(error)) => did("locking", &path, Err(error)),
        }
    }

    /// A number that no file has, and that is larger than all.
    pub(crate) fn next_number(&self) -> Result<u32> {
        let mut all = self.files(MANIFEST)?;
        all.extend(self.files(DATA)?);
        Ok(all.last().map_or(1, |last| last + 1))
    }

    /// Removes what no generation refers to: everything, if none is given, but data that a manifest may refer
    /// to which cannot be read.
    pub(crate) fn clean(&self, keep: Option<[u32; 2]>) -> Result<()> {
        let mut referred = BTreeSet::new();
        let mut all_read = true;
        for number in self.files(MANIFEST)? {
            if keep.is_some_and(|keep| !keep.contains(&number)) {
                let path = self.manifest(number);
                did("removing", &path, step::remove(&path))?;
                continue;
            }
            referred.insert(number);
            match Manifest::parse(&did(
                "reading",
                &self.directory,
                fs::read(self.manifest(number)),
            )?) {
                Ok(manifest) => referred.extend(manifest.files.keys()),
                Err(_) => all_read = false,
            }
        }
        for name in self.names()? {
            let is_garbage = match parse(&name) {
                Some((number, DATA)) => all_read && !referred.contains(&number),
                _ => name.ends_with(NEW),
            };
            if is_garbage {
                let path = self.directory.join(&name);
                did("removing", &path, step::remove(&path))?;
            }
        }
        Ok(())
    }

    /// Waits until the names of files are on the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        let synced = File::open(&self.directory).and_then(|directory| step::sync(&directory));
        did("writing", &self.directory, synced)
    }

    pub(crate) fn manifest(&self, number: u32) -> PathBuf {
        self.directory.join(format!("{number:08x}.{MANIFEST}"))
    }

    pub(crate) fn new_manifest(&self, number: u32) -> PathBuf {
        self.directory.join(format!("{number:08x}.{MANIFEST}.{NEW}"))
    }

    pub(crate) fn data(&self, number: u32) -> PathBuf {
        self.directory.join(format!("{number:08x}.{DATA}"))
    }

    /// The numbers of the files of a sort.
    fn files(&self, sort: &str) -> Result<BTreeSet<u32>> {
        let names = self.names()?;
        let numbers = names.iter().filter_map(|name| parse(name)).filter(|(_, it)| *it == sort);
        Ok(numbers.map(|(number, _)| number).collect())
    }

    /// The names of all files; none where there is no directory.
    fn names(&self) -> Result<Vec<String>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => did("reading", &self.directory, entries)?,
        };
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        did("reading", &self.directory, names.collect())
    }
}

/// The number and the sort of a file.
fn parse(name: &str) -> Option<(u32, &str)> {
    let (number, sort) = name.split_once('.')?;
    let is_number = number.len() == 8 && number.bytes().all(|it| it.is_ascii_hexdigit());
    Some((u32::from_str_radix(number, 16).ok().filter(|_| is_number)?, sort))
}

/// Adds what was being done, and to what, to an error of the operating system.
pub(crate) fn did<T>(doing: &'static str, path: &Path, outcome: io::Result<T>) -> Result<T> {
    outcome.map_err(|error| Error::os(doing, path, error))
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
