//! The foreign process that serves a volume from a copy of its own.

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::{Serving, Unknown};
use crate::{
    error::{Context, Result},
    files::lock::is_held,
};

/// The process that serves a volume from a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalHolder {
    /// The process, and whether it may write.
    pub serving: Serving,
    /// A file that it keeps locked (flock) for as long as it can serve.
    pub lock: PathBuf,
    /// Whether a part of its contents was written back already. Until the rest is, the volume reads
    /// as a mixture of old and new.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
    #[serde(flatten)]
    unknown: Unknown,
}

impl ExternalHolder {
    /// A process that has the whole volume, and keeps the file `lock` locked.
    #[must_use]
    pub fn new(serving: Serving, lock: PathBuf) -> Self {
        Self { serving, lock, partial: false, unknown: Unknown::new() }
    }

    /// The same, when a part of its contents was written back.
    pub(crate) fn partial(self) -> Self {
        Self { partial: true, ..self }
    }

    /// Whether the process is alive.
    pub(super) fn lives(&self) -> Result<bool> {
        is_locked(&self.lock).doing("locking", || &*self.lock)
    }
}

fn is_locked(path: &Path) -> io::Result<bool> {
    // A FIFO in its place must not make the call wait for its other end.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => is_held(&file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
