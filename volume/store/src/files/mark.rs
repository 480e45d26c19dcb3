//! Marks of operations that have released the SR's lock and still free memory or copy, by which the next
//! operation finds those that were killed. Those that were killed under the lock are found by the lock itself.

use std::{
    fs::{File, TryLockError},
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::{
    io::Errno,
    process::{Pid, test_kill_process},
};

use super::{Directory, Dirs, Entry};
use crate::error::{Context, Result};

/// The names of marks begin with this, which those of other temporary files do not.
const PREFIX: &str = "operation-";

/// Tells the marks of one process apart.
static SERIAL: AtomicU32 = AtomicU32::new(0);

/// A locked file that is there while an operation goes on without the SR's lock. Where it is there and not
/// locked, the operation has failed or its process has died, and may have left blocks that no record names, or
/// volumes that are not shown.
#[derive(Debug)]
pub(crate) struct Mark {
    /// A full SR may have no room for it, and works without.
    made: Option<Made>,
}

#[derive(Debug)]
struct Made {
    dirs: Dirs,
    name: String,
    _file: File,
}

/// A mark that is there.
#[derive(Debug)]
pub(super) struct Found {
    /// Whether the process that made it is dead.
    pub(super) is_left: bool,
}

impl Mark {
    /// Marks an operation.
    pub(crate) fn new(dirs: &Dirs) -> Self {
        Self { made: Self::make(dirs) }
    }

    fn make(dirs: &Dirs) -> Option<Made> {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{serial}", std::process::id());
        let file = dirs.create(Entry::Named(Directory::Temporary, &name)).ok()?;
        file.try_lock().ok()?;
        Some(Made { dirs: dirs.clone(), name, _file: file })
    }

    /// Says that nothing is left of the operation. Where that is not said, the next one collects.
    pub(crate) fn end(self) {
        if let Some(Made { dirs, name, _file }) = self.made {
            let _kept = dirs.remove(Entry::Named(Directory::Temporary, &name));
        }
    }

    /// All marks of an SR.
    pub(super) fn all(dirs: &Dirs) -> Result<Vec<Found>> {
        let names = dirs.list(Directory::Temporary)?;
        let marks = names.iter().filter(|name| name.starts_with(PREFIX));
        marks.map(|name| Ok(Found { is_left: is_left(dirs, name)? })).collect()
    }

    /// The processes of all operations of an SR that go on.
    pub(crate) fn makers(dirs: &Dirs) -> Vec<u32> {
        let names = dirs.list(Directory::Temporary).unwrap_or_default();
        let live = names.iter().filter(|name| matches!(is_left(dirs, name), Ok(false)));
        let ids =
            live.filter_map(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok());
        let mut ids: Vec<u32> = ids.collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Removes the temporary files of operations that were killed.
    pub(crate) fn remove_temporary(dirs: &Dirs) -> Result<()> {
        for name in dirs.list(Directory::Temporary)? {
            if !name.starts_with(PREFIX) || is_left(dirs, &name)? {
                dirs.remove(Entry::Named(Directory::Temporary, &name))?;
            }
        }
        Ok(())
    }
}

/// Removes files that were to be renamed into place by a process that is dead: those of operations that
/// do not hold the SR's lock, of which no other trace is left.
pub(crate) fn remove_temporary_of_dead(dirs: &Dirs) -> Result<()> {
    for name in dirs.list(Directory::Temporary)? {
        if !name.starts_with(PREFIX) && maker_is_dead(&name) {
            dirs.remove(Entry::Named(Directory::Temporary, &name))?;
        }
    }
    Ok(())
}

/// Whether the process is dead that made a temporary file, whose name begins with its id. Should another
/// process have got that id, the file is removed by the next collection.
fn maker_is_dead(name: &str) -> bool {
    let id = name.split('-').next().and_then(|id| id.parse().ok()).and_then(Pid::from_raw);
    id.is_some_and(|id| test_kill_process(id) == Err(Errno::SRCH))
}

/// Whether the process that made a mark is dead.
fn is_left(dirs: &Dirs, name: &str) -> Result<bool> {
    let entry = Entry::Named(Directory::Temporary, name);
    let file = match dirs.read(entry) {
        Err(error) if error.is_missing_file() => return Ok(false),
        // It is no file of ours.
        Err(error) if error.tells_damage() => return Ok(true),
        file => file?,
    };
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error).doing("locking", || dirs.path(entry)),
    }
}
