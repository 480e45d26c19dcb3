//! Minors: numbers of VBDs, one file each, given out and taken back under a lock.
//!
//! As blktap does it (`control/tap-ctl-allocate.c`, `control/tap-ctl-free.c`,
//! `drivers/tapdisk-vbd.c`), so that both can share a directory: an flock on the directory while
//! one is given out or taken back, and one on the minor's file for as long as a tapdisk has it
//! attached. A dead tapdisk holds no lock, so the locks tell the truth about who lives.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use crate::{
    deadline::Deadline,
    dir::ControlDir,
    error::{Error, ErrorKind, Result},
};

/// The number of a VBD on this host.
pub type Minor = u16;

/// How many there are (`MAX_ID` in `include/blktap.h`).
pub const MINORS_MAX: Minor = 16384;

/// How long a file's lock is tried for by the tapdisk that attaches: whoever else takes it does so
/// for a moment only, to see whether it is free.
const ATTACH_TIMEOUT: Duration = Duration::from_millis(100);

/// Reserves the first free minor, creating the directories where they are missing.
///
/// # Errors
/// [`ErrorKind::Timeout`] where somebody keeps the directory locked, [`ErrorKind::Full`] where
/// every minor is taken, and those of the file system.
pub fn allocate(dir: &ControlDir, timeout: Duration) -> Result<Minor> {
    dir.create()?;
    let _locked = lock_directory(dir, "allocate a minor in", timeout)?;
    for minor in 0..MINORS_MAX {
        let path = dir.minor(minor);
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(_) => return Ok(minor),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io("create", path.display(), error)),
        }
    }
    Err(Error::new(ErrorKind::Full, "allocate a minor in", dir.minors().display()))
}

/// Gives a minor back.
///
/// # Errors
/// [`ErrorKind::Busy`] (EAGAIN) where a tapdisk has it attached, [`ErrorKind::NotFound`] (ENOENT)
/// where it is not reserved, [`ErrorKind::Timeout`] where somebody keeps the directory locked.
pub fn free(dir: &ControlDir, minor: Minor, timeout: Duration) -> Result<()> {
    let action = "free minor";
    let _locked = lock_directory(dir, action, timeout)?;
    let (file, path) = (open(dir, minor, action)?, dir.minor(minor));
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            fs::remove_file(&path).map_err(|cause| Error::io("remove", path.display(), cause))
        }
        Err(Errno::AGAIN) => Err(Error::new(ErrorKind::Busy, action, minor)),
        Err(errno) => Err(Error::io("lock", path.display(), errno)),
    }
}

/// Whether a living tapdisk has the minor attached.
///
/// # Errors
/// [`ErrorKind::NotFound`] where it is not reserved, and those of flock(2).
pub fn is_attached(dir: &ControlDir, minor: Minor) -> Result<bool> {
    let file = open(dir, minor, "look at minor")?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(Errno::AGAIN) => Ok(true),
        Err(errno) => Err(Error::io("lock", dir.minor(minor).display(), errno)),
    }
}

/// A minor that this process has attached. Dropping it lets go; the reservation stays.
#[derive(Debug)]
pub struct MinorLock {
    minor: Minor,
    _file: File,
}

impl MinorLock {
    /// Attaches a minor that was reserved. blktap's tapdisk waits without end for one that another
    /// process has; this one tries for a tenth of a second.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where it is not reserved, [`ErrorKind::Busy`] where another tapdisk
    /// has it.
    pub fn take(dir: &ControlDir, minor: Minor) -> Result<Self> {
        let action = "attach minor";
        let (file, path) = (open(dir, minor, action)?, dir.minor(minor));
        let failed = |cause| Error::io("lock", path.display(), cause);
        if !Deadline::after(ATTACH_TIMEOUT).lock(&file).map_err(failed)? {
            return Err(Error::new(ErrorKind::Busy, action, minor));
        }
        // It may have been freed between open and lock, and even reserved anew.
        let ours = file.metadata().map_err(failed)?;
        match fs::metadata(&path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {
                Ok(Self { minor, _file: file })
            }
            Ok(_) => Err(Error::new(ErrorKind::Busy, action, minor)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Error::new(ErrorKind::NotFound, action, minor).caused_by(error))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Which minor it is.
    #[must_use]
    pub fn minor(&self) -> Minor {
        self.minor
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
    match Deadline::after(timeout).lock(&directory) {
        Ok(true) => Ok(directory),
        Ok(false) => Err(Error::new(ErrorKind::Timeout, action, path.display())),
        Err(cause) => Err(Error::io("lock", path.display(), cause)),
    }
}

#[cfg(test)]
#[path = "minor_tests.rs"]
mod tests;
