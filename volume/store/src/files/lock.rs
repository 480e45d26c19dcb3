//! Locks: of an SR, held while its structure changes, and of a volume, held by the process that
//! serves it. Each is a flock(2) on a file, let go of by the kernel when its holder dies.

use std::{
    cell::Cell,
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt,
    thread,
    time::{Duration, Instant},
};

use rustix::fs::OFlags;

use super::{Dirs, Entry, steps};
use crate::{
    error::{Context, Error, ErrorKind, Result},
    host::{Host, Name},
};

/// How long a call waits for its turn.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// The longest pause between two looks at a lock.
const PAUSE_MAX: Duration = Duration::from_millis(5);
/// How long a lock that is only being looked at (see [`is_held`]) counts as free. A look takes
/// microseconds.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// The order in which a thread takes the locks that it holds at the same time: it waits only for
/// locks of a later sort than those it has, so that no two wait for each other, nor one for itself.
/// The locks of volumes come after all of these, and are waited for only briefly.
#[derive(Clone, Copy, Debug)]
enum Rank {
    Promises = 1,
    Sr = 2,
}

thread_local! {
    /// The ranks that this thread holds, added up.
    static HELD: Cell<u8> = const { Cell::new(0) };
}

/// An exclusive flock(2), released on drop.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    rank: Option<Rank>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(rank) = self.rank {
            HELD.set(HELD.get() & !(rank as u8));
        }
    }
}

impl Lock {
    /// Takes the lock of the SR `uuid`.
    pub(crate) fn sr(host: &Host, uuid: &Name) -> Result<Self> {
        Self::named(host, Rank::Sr, uuid.as_str(), &format!("SR {uuid}"))
    }

    /// Takes the lock that is held while memory is promised to an SR. No SR has this name.
    pub(crate) fn promises(host: &Host) -> Result<Self> {
        Self::named(host, Rank::Promises, ".promises", "the attaching of SRs")
    }

    fn named(host: &Host, rank: Rank, name: &str, what: &str) -> Result<Self> {
        debug_assert!(HELD.get() < rank as u8, "{what}: this thread holds such a lock already");
        steps::make_dir(&host.lock_dir).doing("creating", || &*host.lock_dir)?;
        let path = host.lock_dir.join(name);
        steps::step();
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(flags(OFlags::NOFOLLOW | OFlags::NONBLOCK))
            .open(&path)
            .doing("opening the lock", || &*path)?;
        if lock_within(&file, WAIT_MAX).doing("locking", || &*path)? {
            HELD.set(HELD.get() | rank as u8);
            return Ok(Self { file, rank: Some(rank) });
        }
        Err(Error::new(
            ErrorKind::Busy,
            format!(
                "{what} has been locked by another operation for {} s ({} is held; fuser names the \
                 process): repeat when it has ended",
                WAIT_MAX.as_secs(),
                path.display()
            ),
        ))
    }

    /// Takes the lock of a volume, if that is possible within `patience`.
    pub(crate) fn volume(dirs: &Dirs, key: &Name, patience: Duration) -> Result<Option<Self>> {
        let entry = Entry::Serving(key);
        let file = match dirs.edit_or_create(entry) {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                // Something that is not a file cannot be locked, and so protects nothing.
                dirs.remove(entry)?;
                dirs.edit_or_create(entry)?
            }
            file => file?,
        };
        let locked = lock_within(&file, patience).doing("locking", || dirs.path(entry))?;
        Ok(locked.then(|| Self { file, rank: None }))
    }

    /// The file that is locked.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

fn flags(flags: OFlags) -> i32 {
    i32::try_from(flags.bits()).unwrap_or_default()
}

/// Waits for an exclusive lock; `false` where it was held until the end of `patience`.
pub(crate) fn lock_within(file: &File, patience: Duration) -> io::Result<bool> {
    let start = Instant::now();
    let mut pause = Duration::from_micros(100);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // A process that only looks lets go at once: it does not count as a holder.
        let patience = if is_held(file)? { patience } else { patience.max(LOOK_MAX) };
        if start.elapsed() >= patience {
            return Ok(false);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Whether a lock has a holder. Looking takes a shared lock for a moment, so that any number of
/// processes may look at once, and none of them takes another for the holder.
pub(crate) fn is_held(file: &File) -> io::Result<bool> {
    match file.try_lock_shared() {
        Ok(()) => {
            file.unlock()?;
            Ok(false)
        }
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}
