//! The directories of one SR, open, and its files below them.
//!
//! Every file of an SR is reached from here, as an entry of a directory that was opened from the
//! SR's own, one component at a time and without following links. So every read, write and free
//! reaches the SR that was opened: if an SR with the same UUID is made meanwhile, it has other
//! directories. Nor can a link, a FIFO or a device in the place of a file lead anywhere else, or
//! make a call wait. (`openat2` would say the same in one call; the kernel of XCP-ng 8.3, 4.19,
//! does not have it.)

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, renameat, statat, unlinkat,
    },
    io::Errno,
};

use super::{Directory, Entry, Layout, parse_number, steps};
use crate::{
    block::pages,
    error::{Context, Error, ErrorKind, Misplaced, Result},
    host::Name,
};

/// The open directories of one SR. Copies share them.
#[derive(Clone, Debug)]
pub(crate) struct Dirs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    layout: Layout,
    root: OwnedFd,
    /// Device and inode of `root`.
    identity: (u64, u64),
    /// Opened when they are needed first, each from the one above it.
    open: [OnceLock<OwnedFd>; Directory::ALL.len()],
}

impl Dirs {
    /// Opens the directory of an SR; `None` where there is none.
    pub(crate) fn open(layout: &Layout) -> Result<Option<Self>> {
        let root = match open_directory(CWD, layout.root()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let sentence = format!("{} is not a ram SR", layout.root().display());
                return Err(Error::new(ErrorKind::SrMissing, sentence).caused_by(error));
            }
            root => root.doing("opening", || layout.root())?,
        };
        let found = fstat(&root).doing("opening", || layout.root())?;
        let identity = identity(&found);
        Ok(Some(Self(Arc::new(Inner {
            layout: layout.clone(),
            root,
            identity,
            open: Default::default(),
        }))))
    }

    /// Whether its path still leads to it.
    pub(crate) fn is_current(&self) -> bool {
        let found = statat(CWD, self.0.layout.root(), AtFlags::SYMLINK_NOFOLLOW);
        found.is_ok_and(|found| identity(&found) == self.0.identity)
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.0.layout
    }

    /// Where an entry lies, for people to read.
    pub(crate) fn path(&self, entry: Entry<'_>) -> PathBuf {
        let directory = self.0.layout.directory(entry.directory());
        entry.with_name(|name| directory.join(name))
    }

    /// The descriptor of a directory.
    pub(crate) fn directory(&self, directory: Directory) -> io::Result<BorrowedFd<'_>> {
        let slot = &self.0.open[directory as usize];
        if let Some(open) = slot.get() {
            return Ok(open.as_fd());
        }
        let (above, name) = directory.place();
        let above = match above {
            Some(above) => self.directory(above)?,
            None => self.0.root.as_fd(),
        };
        let open = open_directory(above, Path::new(name))?;
        Ok(slot.get_or_init(|| open).as_fd())
    }

    /// Whether a directory is on a file system of its own.
    pub(crate) fn is_mounted(&self, directory: Directory) -> bool {
        let device = || Some(fstat(self.directory(directory).ok()?).ok()?.st_dev);
        device().is_some_and(|device| device != self.0.identity.0)
    }

    /// Opens the file that keeps operations and disks apart while maps are read: see
    /// [`Lock::maps`](super::lock::Lock::maps). It is the directory of the metadata, which is there for as
    /// long as the SR is; a descriptor of its own, since each has its own lock.
    pub(crate) fn maps_lock(&self) -> io::Result<File> {
        Ok(open_directory(self.directory(Directory::Meta)?, Path::new("."))?.into())
    }

    /// Opens a file for reading.
    pub(crate) fn read(&self, entry: Entry<'_>) -> Result<File> {
        self.file(entry, OFlags::RDONLY).doing("opening", || self.path(entry))
    }

    /// Opens a file for reading and writing.
    pub(crate) fn edit(&self, entry: Entry<'_>) -> Result<File> {
        self.file(entry, OFlags::RDWR).doing("opening", || self.path(entry))
    }

    /// Opens a file for reading and writing; makes it where there is none.
    pub(crate) fn edit_or_create(&self, entry: Entry<'_>) -> Result<File> {
        steps::step();
        self.file(entry, OFlags::RDWR | OFlags::CREATE).doing("opening", || self.path(entry))
    }

    /// Creates a file, or empties the one that is there.
    pub(crate) fn create(&self, entry: Entry<'_>) -> io::Result<File> {
        steps::step();
        let how = OFlags::WRONLY | OFlags::CREATE;
        match open(self.directory(entry.directory())?, entry, how | OFlags::EXCL) {
            Err(Errno::EXIST) => self.file(entry, how | OFlags::TRUNC),
            created => Ok(created?),
        }
    }

    /// Puts a file into another one's place.
    pub(crate) fn rename(&self, from: Entry<'_>, to: Entry<'_>) -> io::Result<()> {
        // What leaves the count: the memory of the file that is replaced, or that of the new one where it
        // becomes one of the SR's own.
        let gone = self.allocated(if to.is_counted() { to } else { from });
        steps::step();
        let (old, new) = (self.directory(from.directory())?, self.directory(to.directory())?);
        from.with_name(|from| to.with_name(|to| renameat(old, from, new, to)))?;
        self.count(pages(gone), 0);
        Ok(())
    }

    /// Removes a file, or a link, FIFO or device in its place. One that does not exist is no error.
    pub(crate) fn remove(&self, entry: Entry<'_>) -> Result<()> {
        match self.unlink(entry) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).doing("removing", || self.path(entry))
            }
            _ => Ok(()),
        }
    }

    /// Removes a file that is there.
    pub(crate) fn unlink(&self, entry: Entry<'_>) -> io::Result<()> {
        let gone = if entry.is_counted() { self.allocated(entry) } else { 0 };
        steps::step();
        let directory = self.directory(entry.directory())?;
        entry.with_name(|name| unlinkat(directory, name, AtFlags::empty()))?;
        self.count(pages(gone), 0);
        Ok(())
    }

    /// The file system's metadata of an entry.
    pub(crate) fn stat(&self, entry: Entry<'_>) -> io::Result<Stat> {
        let directory = self.directory(entry.directory())?;
        Ok(entry.with_name(|name| statat(directory, name, AtFlags::SYMLINK_NOFOLLOW))?)
    }

    /// The same; `None` where there is no such entry. Not knowing is an error: what was taken for missing, as
    /// where descriptors run out, might be made anew or removed.
    pub(crate) fn find(&self, entry: Entry<'_>) -> Result<Option<Stat>> {
        match self.stat(entry) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            found => found.doing("looking up", || self.path(entry)).map(Some),
        }
    }

    /// Whether there is such an entry.
    pub(crate) fn exists(&self, entry: Entry<'_>) -> Result<bool> {
        Ok(self.find(entry)?.is_some())
    }

    /// Bytes allocated to a file; none to one that is not there.
    pub(crate) fn allocated(&self, entry: Entry<'_>) -> u64 {
        self.stat(entry).map_or(0, |found| allocated(&found))
    }

    /// The names of all entries of a directory; none where the directory does not exist.
    pub(crate) fn list(&self, directory: Directory) -> Result<Vec<String>> {
        let list = || -> io::Result<Vec<String>> { names_in(self.directory(directory)?) };
        match list() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            listed => listed.doing("reading", || self.0.layout.directory(directory)),
        }
    }

    /// The names of all entries of the SR's own directory.
    pub(crate) fn list_root(&self) -> Result<Vec<String>> {
        names_in(self.0.root.as_fd()).doing("reading", || self.0.layout.root())
    }

    /// The entries of a directory whose names may be keys.
    pub(crate) fn names(&self, directory: Directory) -> Result<Vec<Name>> {
        Ok(self.list(directory)?.iter().filter_map(|name| Name::parse(name).ok()).collect())
    }

    /// The numbers of the layers, maps or indexes in a directory.
    pub(crate) fn numbers(&self, directory: Directory) -> Result<Vec<u32>> {
        // Unlike a directory of names, these are never missing.
        let found = self.directory(directory).and_then(names_in);
        let found = found.doing("reading", || self.0.layout.directory(directory))?;
        Ok(found.iter().filter_map(|name| parse_number(name)).collect())
    }

    /// Opens a plain file, and refuses everything else.
    fn file(&self, entry: Entry<'_>, how: OFlags) -> io::Result<File> {
        let file = match open(self.directory(entry.directory())?, entry, how) {
            Err(Errno::LOOP | Errno::NXIO | Errno::ISDIR) => {
                return Err(Misplaced("plain file").into());
            }
            opened => opened?,
        };
        match FileType::from_raw_mode(fstat(&file)?.st_mode) {
            FileType::RegularFile => Ok(file),
            _ => Err(Misplaced("plain file").into()),
        }
    }
}

/// Opens what is there, or makes a plain file.
fn open(directory: BorrowedFd<'_>, entry: Entry<'_>, how: OFlags) -> rustix::io::Result<File> {
    // NONBLOCK: opening a FIFO would wait for its other end.
    let flags = how | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let mode = Mode::RUSR | Mode::WUSR;
    entry.with_name(|name| openat(directory, name, flags, mode)).map(File::from)
}

/// Opens a directory that is no link.
pub(crate) fn open_directory(above: impl AsFd, name: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(above, name, flags, Mode::empty()) {
        Err(Errno::LOOP | Errno::NOTDIR) => Err(Misplaced("directory").into()),
        opened => Ok(opened?),
    }
}

/// The names of the entries of a directory. Names that are not UTF-8 are left out: the store makes
/// none.
pub(crate) fn names_in(directory: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        match entry.file_name().to_str() {
            Ok("." | "..") | Err(_) => {}
            Ok(name) => names.push(name.to_owned()),
        }
    }
    Ok(names)
}

/// Bytes allocated to a file.
pub(crate) fn allocated(found: &Stat) -> u64 {
    u64::try_from(found.st_blocks).unwrap_or_default() * 512
}

fn identity(found: &Stat) -> (u64, u64) {
    (found.st_dev, found.st_ino)
}

/// The error for an SR that has no directory.
pub(crate) fn missing(layout: &Layout) -> Error {
    Error::new(ErrorKind::SrMissing, format!("{} is not an SR", layout.root().display()))
}
