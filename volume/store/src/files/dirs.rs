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

use super::{Directory, Entry, Layout, counter::Counter, parse_number, steps};
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
    root: Arc<OwnedFd>,
    /// Device and inode of `root`.
    identity: (u64, u64),
    /// Opened when they are needed first, each from the one above it.
    open: [OnceLock<OwnedFd>; Directory::ALL.len()],
    /// Whether each of them is on a file system of its own, which an open directory stays on.
    mounted: [OnceLock<bool>; Directory::ALL.len()],
    /// Mapped when it is needed first.
    counter: OnceLock<Counter>,
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
        Ok(Some(Self::new(layout.clone(), Arc::new(root), identity)))
    }

    /// The same SR, of which nothing below its own directory is open yet.
    pub(crate) fn reopened(&self) -> Self {
        let Inner { layout, root, identity, .. } = &*self.0;
        Self::new(layout.clone(), Arc::clone(root), *identity)
    }

    fn new(layout: Layout, root: Arc<OwnedFd>, identity: (u64, u64)) -> Self {
        Self(Arc::new(Inner {
            layout,
            root,
            identity,
            open: Default::default(),
            mounted: Default::default(),
            counter: OnceLock::new(),
        }))
    }

    /// Where the mapped count of memory is kept: see [`Dirs::counter`].
    pub(super) fn counter_slot(&self) -> &OnceLock<Counter> {
        &self.0.counter
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
        let look = || device().is_some_and(|device| device != self.0.identity.0);
        *self.0.mounted[directory as usize].get_or_init(look)
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

    /// Opens for reading what may also be a directory or a FIFO, which the reader [has to
    /// refuse](require_plain).
    pub(super) fn read_any(&self, entry: Entry<'_>) -> Result<File> {
        self.any_file(entry, OFlags::RDONLY).doing("opening", || self.path(entry))
    }

    /// Opens a file for reading and writing.
    pub(crate) fn edit(&self, entry: Entry<'_>) -> Result<File> {
        self.file(entry, OFlags::RDWR).doing("opening", || self.path(entry))
    }

    /// Opens a file for reading and writing; makes it where there is none.
    pub(crate) fn edit_or_create(&self, entry: Entry<'_>) -> Result<File> {
        self.edit_or_create_with_stat(entry).map(|(file, _)| file)
    }

    /// The same, with the file system's metadata of it.
    pub(super) fn edit_or_create_with_stat(&self, entry: Entry<'_>) -> Result<(File, Stat)> {
        steps::step();
        let opened = self.file_and_stat(entry, OFlags::RDWR | OFlags::CREATE);
        opened.doing("opening", || self.path(entry))
    }

    /// Creates a file, or empties the one that is there.
    pub(crate) fn create(&self, entry: Entry<'_>) -> io::Result<File> {
        steps::step();
        let how = OFlags::WRONLY | OFlags::CREATE;
        match open(self.directory(entry.directory())?, entry, how | OFlags::EXCL) {
            Err(Errno::EXIST) => {
                let gone = if entry.is_counted() { self.allocated(entry) } else { 0 };
                let file = self.file(entry, how | OFlags::TRUNC)?;
                self.count(pages(gone), 0);
                Ok(file)
            }
            created => Ok(created?),
        }
    }

    /// Puts a file into another one's place, where it counts as the other one did.
    pub(crate) fn rename(&self, from: Entry<'_>, to: Entry<'_>) -> io::Result<()> {
        let gone = if to.is_counted() { self.allocated(to) } else { 0 };
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
        self.unlink_allocated(entry, gone)
    }

    /// Removes a file that is there and does not count: it has nothing allocated, as the caller has seen,
    /// or was to become one of the SR's own.
    pub(crate) fn unlink_uncounted(&self, entry: Entry<'_>) -> io::Result<()> {
        self.unlink_allocated(entry, 0)
    }

    fn unlink_allocated(&self, entry: Entry<'_>, gone: u64) -> io::Result<()> {
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
        match self.names_below(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            listed => listed.doing("reading", || self.0.layout.directory(directory)),
        }
    }

    /// The names of all entries of the SR's own directory.
    pub(crate) fn list_root(&self) -> Result<Vec<String>> {
        open_directory(&self.0.root, Path::new("."))
            .and_then(names_in)
            .doing("reading", || self.0.layout.root())
    }

    /// The entries of a directory whose names may be keys.
    pub(crate) fn names(&self, directory: Directory) -> Result<Vec<Name>> {
        Ok(self.list(directory)?.iter().filter_map(|name| Name::parse(name).ok()).collect())
    }

    /// The numbers of the layers, maps or indexes in a directory.
    pub(crate) fn numbers(&self, directory: Directory) -> Result<Vec<u32>> {
        // Unlike a directory of names, these are never missing.
        let found = self.names_below(directory);
        let found = found.doing("reading", || self.0.layout.directory(directory))?;
        Ok(found.iter().filter_map(|name| parse_number(name)).collect())
    }

    /// The names in a directory, which is opened for that: a descriptor is at one place of its directory.
    fn names_below(&self, directory: Directory) -> io::Result<Vec<String>> {
        let open = match (self.0.open[directory as usize].get(), directory.place()) {
            (Some(open), _) => open_directory(open, Path::new(".")),
            (None, (Some(above), name)) => open_directory(self.directory(above)?, Path::new(name)),
            (None, (None, name)) => open_directory(&self.0.root, Path::new(name)),
        };
        names_in(open?)
    }

    /// Opens a plain file, and refuses everything else.
    fn file(&self, entry: Entry<'_>, how: OFlags) -> io::Result<File> {
        self.file_and_stat(entry, how).map(|(file, _)| file)
    }

    /// The same, with the file system's metadata of it.
    fn file_and_stat(&self, entry: Entry<'_>, how: OFlags) -> io::Result<(File, Stat)> {
        let file = self.any_file(entry, how)?;
        let found = require_plain(&file)?;
        Ok((file, found))
    }

    /// Opens what may also be a directory or a FIFO.
    fn any_file(&self, entry: Entry<'_>, how: OFlags) -> io::Result<File> {
        match open(self.directory(entry.directory())?, entry, how) {
            Err(Errno::LOOP | Errno::NXIO | Errno::ISDIR) => Err(Misplaced("plain file").into()),
            opened => Ok(opened?),
        }
    }
}

/// Refuses what is not a plain file.
pub(super) fn require_plain(file: &File) -> io::Result<Stat> {
    let found = fstat(file)?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => Ok(found),
        _ => Err(Misplaced("plain file").into()),
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
pub(crate) fn names_in(directory: OwnedFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::new(directory)? {
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
