//! flock(2) with a deadline, and whether a locked file still has its name.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
    time::Duration,
};

use crate::deadline::Deadline;

/// The first pause between two attempts; each one after it is twice as long, up to a limit.
const PAUSE_FIRST: Duration = Duration::from_micros(200);

/// Takes an exclusive lock, which is held until the file is dropped; false where another process
/// still had it after `timeout`. The kernel has no timeout for flock(2), and a signal for that
/// purpose belongs to the process and not to a library: so this tries again and again.
///
/// # Errors
/// Those of flock(2).
pub fn exclusive(file: &File, timeout: Duration) -> io::Result<bool> {
    let deadline = Deadline::after(timeout);
    let mut pause = PAUSE_FIRST;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
        if !deadline.pause(&mut pause) {
            return Ok(false);
        }
    }
}

/// Whether `path` names this very file. A lock on a file that its last holder removed between open
/// and lock is worth nothing: another process may have made a new file of that name and locked it.
///
/// # Errors
/// Those of stat(2); [`io::ErrorKind::NotFound`] where there is no such name.
pub fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let (ours, named) = (file.metadata()?, fs::metadata(path)?);
    Ok((ours.dev(), ours.ino()) == (named.dev(), named.ino()))
}
