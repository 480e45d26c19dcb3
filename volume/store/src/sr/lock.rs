//! The lock of an SR: held by whoever changes its structure, let go of by the kernel when the
//! holder dies.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::DirBuilderExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::steps;
use crate::{
    error::{Context, Error, Kind, Result},
    host::{Host, Name},
};

/// How long a call waits for its turn.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// The longest pause between two looks at a lock.
const PAUSE_MAX: Duration = Duration::from_millis(5);

/// An exclusive flock(2), released on drop.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock of the SR `uuid`.
    pub(crate) fn sr(host: &Host, uuid: &Name) -> Result<Self> {
        Self::named(host, uuid.as_str(), &format!("SR {uuid}"))
    }

    /// Takes the lock that whoever promises memory to an SR holds. No SR has this name.
    pub(crate) fn promises(host: &Host) -> Result<Self> {
        Self::named(host, ".promises", "the attaching of SRs")
    }

    fn named(host: &Host, name: &str, what: &str) -> Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&host.lock_dir)
            .while_doing(|| format!("creating {}", host.lock_dir.display()))?;
        let path = host.lock_dir.join(name);
        Self::wait(&path, WAIT_MAX)?.ok_or_else(|| {
            Error::new(
                Kind::Busy,
                format!(
                    "{what} has been locked by another operation for {} s ({} is held; fuser \
                     names the process): repeat when it has ended",
                    WAIT_MAX.as_secs(),
                    path.display()
                ),
            )
        })
    }

    /// Takes the lock on `path` if that is possible within `patience`.
    pub(crate) fn wait(path: &Path, patience: Duration) -> Result<Option<Self>> {
        steps::step();
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .while_doing(|| format!("opening the lock {}", path.display()))?;
        let start = Instant::now();
        let mut pause = Duration::from_micros(100);
        while !try_lock(&file).while_doing(|| format!("locking {}", path.display()))? {
            if start.elapsed() >= patience {
                return Ok(None);
            }
            thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
        Ok(Some(Self { file }))
    }
}

impl Lock {
    /// Empties the file that is locked.
    pub(crate) fn clear(&self) -> std::io::Result<()> {
        steps::set_len(&self.file, 0)
    }
}

/// Takes an exclusive lock, or says at once that somebody else has it.
pub(crate) fn try_lock(file: &File) -> Result<bool, Errno> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error),
    }
}
