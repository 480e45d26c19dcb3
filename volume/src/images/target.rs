//! The file that an export writes: beside its place until it is complete on the disk, and then renamed.

use std::{
    cell::Cell,
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Advice, CWD, OFlags, RenameFlags, fadvise, fstatvfs, renameat_with},
    io::Errno,
};
use store::{Error, ErrorKind, Result, human};

use super::did;

/// What is added to the name of a file that is not complete.
const PARTIAL: &str = ".partial";
/// So much is written before it is waited for and its pages are given up, in bytes: memory is what a host with
/// RAM disks has least of.
const FLUSH_BYTES: u64 = 64 << 20;

/// A file that is being written. Dropped before it is [complete](Self::commit), it leaves nothing. A process that
/// is killed leaves it under its other name, and the next export to the same place writes that anew.
#[derive(Debug)]
pub(crate) struct Target {
    path: PathBuf,
    partial: PathBuf,
    /// Locked, so that no other export writes it.
    file: File,
    replace: bool,
    /// Bytes that were written and not waited for.
    unflushed: Cell<u64>,
    is_complete: bool,
}

impl Target {
    /// Begins to write a file. One that is there is replaced only where that is said.
    pub(crate) fn new(path: &Path, replace: bool) -> Result<Self> {
        check(path, replace)?;
        let mut partial = path.as_os_str().to_owned();
        partial.push(PARTIAL);
        let partial = PathBuf::from(partial);
        // Not one that another user has put there as a link.
        let no_follow = OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = did("creating", &partial, options.custom_flags(no_follow).open(&partial))?;
        lock(&file, &partial)?;
        did("emptying", &partial, file.set_len(0))?;
        let (path, unflushed) = (path.to_owned(), Cell::new(0));
        Ok(Self { path, partial, file, replace, unflushed, is_complete: false })
    }

    /// Its name until it is complete, for another program that writes it.
    pub(crate) fn partial(&self) -> &Path {
        &self.partial
    }

    /// Refuses to write so many bytes where there is no room for them: the disk that a control domain runs from
    /// is better not filled.
    pub(crate) fn require_room(&self, bytes: u64) -> Result<()> {
        let free = self.free();
        if bytes <= free { Ok(()) } else { Err(self.no_room(bytes, None)) }
    }

    /// Bytes that its file system has left.
    fn free(&self) -> u64 {
        fstatvfs(&self.file).map_or(u64::MAX, |found| found.f_bavail * found.f_frsize)
    }

    fn no_room(&self, bytes: u64, cause: Option<&str>) -> Error {
        let cause = cause.map_or_else(String::new, |cause| format!(" ({cause})"));
        Error::new(
            ErrorKind::NoSpace,
            format!(
                "{} of data do not fit beside {}, where {} are free{cause}: make room there, or name a file on \
                 another disk",
                human(bytes),
                self.path.display(),
                human(self.free())
            ),
        )
    }

    /// An error, in the words of [`Self::no_room`] where that is what it tells.
    pub(crate) fn explained(&self, error: Error, bytes: u64) -> Error {
        match error.kind() {
            ErrorKind::NoSpace => self.no_room(bytes, Some(&error.chain())),
            _ => error,
        }
    }

    /// Gives the file its length; what is not written is a hole.
    pub(crate) fn set_len(&self, bytes: u64) -> Result<()> {
        did("enlarging", &self.partial, self.file.set_len(bytes))
    }

    /// Writes bytes at an offset.
    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        did("writing", &self.partial, self.file.write_all_at(bytes, offset))?;
        self.written(bytes.len() as u64)
    }

    /// Says that so many bytes more were written, here or by another program.
    pub(crate) fn written(&self, bytes: u64) -> Result<()> {
        let unflushed = self.unflushed.get() + bytes;
        if unflushed < FLUSH_BYTES {
            self.unflushed.set(unflushed);
            return Ok(());
        }
        self.unflushed.set(0);
        did("writing", &self.partial, self.file.sync_data())?;
        // It is only advice.
        let _kept = fadvise(&self.file, 0, None, Advice::DontNeed);
        Ok(())
    }

    /// Gives the file its name, once all of it is on the disk.
    pub(crate) fn commit(mut self) -> Result<()> {
        did("writing", &self.partial, self.file.sync_all())?;
        let unless_there = if self.replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        let renamed = match self.rename(unless_there) {
            // Not every file system can do that.
            Err(Errno::INVAL | Errno::NOSYS) if !self.replace => {
                check(&self.path, false)?;
                self.rename(RenameFlags::empty())
            }
            Err(Errno::EXIST) => return Err(exists(&self.path)),
            renamed => renamed,
        };
        did("renaming", &self.partial, renamed.map_err(io::Error::from))?;
        self.is_complete = true;
        let directory = directory_of(&self.path);
        did("writing", directory, File::open(directory).and_then(|it| it.sync_all()))
    }

    fn rename(&self, flags: RenameFlags) -> rustix::io::Result<()> {
        renameat_with(CWD, &self.partial, CWD, &self.path, flags)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.is_complete {
            // The error that led here is the one to tell.
            let _left = fs::remove_file(&self.partial);
        }
    }
}

/// Refuses a place that cannot be written, or that has something which is to stay.
fn check(path: &Path, replace: bool) -> Result<()> {
    let refused = |why: &str| {
        Err(Error::new(ErrorKind::BadArgument, format!("--file: {} {why}", path.display())))
    };
    let directory = directory_of(path);
    match fs::metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return refused("lies in a directory that does not exist: make it (mkdir)");
        }
        found => did("opening", directory, found)?,
    };
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => did("opening", path, found)?,
    };
    if !found.is_file() {
        return refused("is there, and no plain file: name one that can be made");
    }
    if replace { Ok(()) } else { Err(exists(path)) }
}

fn exists(path: &Path) -> Error {
    Error::new(
        ErrorKind::BadArgument,
        format!(
            "--file: {} exists: name another file, or have it replaced with --force",
            path.display()
        ),
    )
}

/// Keeps other exports from writing the file.
fn lock(file: &File, path: &Path) -> Result<()> {
    let is_ours = match file.try_lock() {
        // The export that has just let go of it may have given it its name.
        Ok(()) => {
            let (own, found) = (did("opening", path, file.metadata())?, fs::metadata(path));
            found.is_ok_and(|it| (it.dev(), it.ino()) == (own.dev(), own.ino()))
        }
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(error)) => return did("locking", path, Err(error)),
    };
    if is_ours {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Busy,
        format!(
            "{} is being written by another process (fuser names it): repeat this when it has ended, or name \
             another file",
            path.display()
        ),
    ))
}

/// The directory that a file lies in.
fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}
