//! Minors: numbers of VBDs, one file each, given out and taken back under a lock.
//!
//! As blktap does it (`control/tap-ctl-allocate.c`, `control/tap-ctl-free.c`,
//! `drivers/tapdisk-vbd.c`), so that both can share a directory: an flock on the directory while
//! one is given out or taken back, and one on the minor's file for as long as a tapdisk has it
//! attached. A dead tapdisk holds no lock, so the locks say which tapdisks live.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
    time::Duration,
};

use crate::{
    dir::ControlDir,
    error::{Error, ErrorKind, Result},
    lock,
    minor::{MINORS_MAX, Minor},
};

/// The longest owner that a minor's file is read for. Bytes.
const OWNER_BYTES_MAX: u64 = 4096;

/// The name under which a minor's file is made before it gets its number.
const NEW_NAME: &str = ".new";

/// Reserves the first free minor, creating the directories where they are missing.
///
/// # Errors
/// [`ErrorKind::Timeout`] where another process keeps the directory locked, [`ErrorKind::Full`] where
/// every minor is taken, and those of the file system.
pub fn allocate(dir: &ControlDir, timeout: Duration) -> Result<Minor> {
    dir.create()?;
    let _locked = lock_directory(dir, "allocate a minor in", timeout)?;
    first_free(dir, |path| {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map(drop)
    })
}

/// The first minor whose file can be made.
fn first_free(dir: &ControlDir, make: impl Fn(&Path) -> io::Result<()>) -> Result<Minor> {
    for minor in 0..MINORS_MAX {
        let path = dir.minor(minor);
        match make(&path) {
            Ok(()) => return Ok(minor),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io("create", path.display(), error)),
        }
    }
    Err(Error::new(ErrorKind::Full, "allocate a minor in", dir.minors().display()))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Reserves the first free minor as [`allocate`] does, and says in its file what it is reserved for:
/// a minor that a killed process reserved is found by its owner then. For blktap such a file is one
/// as all others.
///
/// # Errors
/// See [`allocate`].
pub fn allocate_for(dir: &ControlDir, owner: &str, timeout: Duration) -> Result<Minor> {
    dir.create()?;
    let _locked = lock_directory(dir, "allocate a minor in", timeout)?;
    // Made elsewhere and linked, so that no reserved minor is without its owner at any moment.
    let new = dir.minors().join(NEW_NAME);
    let failed = |cause| Error::io("create", new.display(), cause);
    remove_if_there(&new).map_err(failed)?;
    let create = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new);
    create.and_then(|mut file| file.write_all(owner.as_bytes())).map_err(failed)?;
    let reserved = first_free(dir, |path| fs::hard_link(&new, path));
    remove_if_there(&new).map_err(failed)?;
    reserved
}

/// The minors that [`allocate_for`] reserved for `owner`.
///
/// # Errors
/// Those of readdir(3) and read(2).
pub fn reserved_for(dir: &ControlDir, owner: &str) -> Result<Vec<Minor>> {
    let mut found = Vec::new();
    for minor in dir.reserved()? {
        let path = dir.minor(minor);
        let mut text = Vec::new();
        match File::open(&path).and_then(|file| file.take(OWNER_BYTES_MAX).read_to_end(&mut text)) {
            Ok(_) if text == owner.as_bytes() => found.push(minor),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("read", path.display(), error)),
        }
    }
    Ok(found)
}

/// Gives a minor back.
///
/// # Errors
/// [`ErrorKind::Busy`] (EAGAIN) where a tapdisk has it attached, [`ErrorKind::NotFound`] (ENOENT)
/// where it is not reserved, [`ErrorKind::Timeout`] where another process keeps the directory locked.
pub fn free(dir: &ControlDir, minor: Minor, timeout: Duration) -> Result<()> {
    let action = "free minor";
    let _locked = lock_directory(dir, action, timeout)?;
    let (file, path) = (open(dir, minor, action)?, dir.minor(minor));
    match file.try_lock() {
        Ok(()) => {
            fs::remove_file(&path).map_err(|cause| Error::io("remove", path.display(), cause))
        }
        Err(TryLockError::WouldBlock) => Err(Error::new(ErrorKind::Busy, action, minor)),
        Err(TryLockError::Error(cause)) => Err(Error::io("lock", path.display(), cause)),
    }
}

/// Whether a living tapdisk has the minor attached.
///
/// # Errors
/// [`ErrorKind::NotFound`] where it is not reserved, and those of flock(2).
pub fn is_attached(dir: &ControlDir, minor: Minor) -> Result<bool> {
    let file = open(dir, minor, "look at minor")?;
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(cause)) => {
            Err(Error::io("lock", dir.minor(minor).display(), cause))
        }
    }
}

/// A minor that this process has attached. Dropping it lets go; the reservation stays.
#[derive(Debug)]
pub struct MinorLock {
    minor: Minor,
    file: File,
}

impl MinorLock {
    /// Attaches a minor that was reserved, without waiting. blktap's tapdisk waits without end for a
    /// minor that another process has.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where it is not reserved, [`ErrorKind::Busy`] where another tapdisk has
    /// it, or another process is just freeing it.
    pub fn take(dir: &ControlDir, minor: Minor) -> Result<Self> {
        let action = "attach minor";
        let (file, path) = (open(dir, minor, action)?, dir.minor(minor));
        let failed = |cause| Error::io("lock", path.display(), cause);
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(ErrorKind::Busy, action, minor));
            }
            Err(TryLockError::Error(cause)) => return Err(failed(cause)),
        }
        // It may have been freed between open and lock, and even reserved anew.
        match lock::is_named(&file, &path) {
            Ok(true) => Ok(Self { minor, file }),
            Ok(false) => Err(Error::new(ErrorKind::Busy, action, minor)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Error::new(ErrorKind::NotFound, action, minor).caused_by(error))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Goes on with a minor that a process has attached which has died since: with the file that it had
    /// locked, and that a third process has kept open.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] where that file is not locked any more, and another process has it.
    pub fn inherited(minor: Minor, file: File) -> Result<Self> {
        let action = "go on with minor";
        match file.try_lock() {
            Ok(()) => Ok(Self { minor, file }),
            Err(TryLockError::WouldBlock) => Err(Error::new(ErrorKind::Busy, action, minor)),
            Err(TryLockError::Error(cause)) => Err(Error::io(action, minor, cause)),
        }
    }

    /// Reserves the minor again, with what its file said, after something has removed the file. False
    /// where nothing had to be done.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] where another process has reserved the minor meanwhile; those of the file system.
    pub fn restore(&mut self, dir: &ControlDir) -> Result<bool> {
        let action = "reserve again minor";
        let path = dir.minor(self.minor);
        let failed = |cause| Error::io("create", path.display(), cause);
        match lock::is_named(&self.file, &path) {
            Ok(true) => return Ok(false),
            Ok(false) => return Err(Error::new(ErrorKind::Busy, action, self.minor)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        dir.create()?;
        let mut owner = Vec::new();
        self.file.rewind().map_err(failed)?;
        (&self.file).take(OWNER_BYTES_MAX).read_to_end(&mut owner).map_err(failed)?;
        // Locked before it has its name: to no process does it look as if no tapdisk had it.
        let new = dir.minors().join(format!("{NEW_NAME}-{}", self.minor));
        remove_if_there(&new).map_err(failed)?;
        let mut options = OpenOptions::new();
        let create = options.read(true).write(true).create_new(true).mode(0o600).open(&new);
        let made = create.and_then(|mut file| {
            file.write_all(&owner)?;
            file.lock()?;
            fs::hard_link(&new, &path)?;
            Ok(file)
        });
        remove_if_there(&new).map_err(failed)?;
        match made {
            Ok(file) => self.file = file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::new(ErrorKind::Busy, action, self.minor));
            }
            Err(error) => return Err(failed(error)),
        }
        Ok(true)
    }

    /// Which minor it is.
    #[must_use]
    pub fn minor(&self) -> Minor {
        self.minor
    }
}

impl AsFd for MinorLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for MinorLock {
    fn drop(&mut self) {
        // Closing the file is not enough where another process keeps it open for a successor.
        let _unlocked_when_closed = self.file.unlock();
    }
}

fn open(dir: &ControlDir, minor: Minor, action: &'static str) -> Result<File> {
    File::open(dir.minor(minor)).map_err(|cause| {
        let missing = cause.kind() == io::ErrorKind::NotFound;
        let kind = if missing { ErrorKind::NotFound } else { ErrorKind::Io };
        Error::new(kind, action, minor).caused_by(cause)
    })
}

/// The directory's lock, held until the file is dropped.
fn lock_directory(dir: &ControlDir, action: &'static str, timeout: Duration) -> Result<File> {
    let path = dir.minors();
    let directory = File::open(&path).map_err(|cause| {
        let missing = cause.kind() == io::ErrorKind::NotFound;
        let kind = if missing { ErrorKind::NotFound } else { ErrorKind::Io };
        Error::new(kind, action, path.display()).caused_by(cause)
    })?;
    match lock::exclusive(&directory, timeout) {
        Ok(true) => Ok(directory),
        Ok(false) => Err(Error::new(ErrorKind::Timeout, action, path.display())),
        Err(cause) => Err(Error::io("lock", path.display(), cause)),
    }
}

#[cfg(test)]
#[path = "minors_tests.rs"]
mod tests;
