//! The process that serves a volume: it holds the lock on the volume, and its name is in the lock
//! file.

use std::{fs::File, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Context, Result},
    files::{
        self, Dirs, Entry,
        lock::{Lock, is_held},
    },
    host::Name,
};

/// The process that serves a volume, as it says itself in the file that it keeps locked. Only the
/// lock counts: without it the text was left by a dead process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// Its process id.
    pub pid: u32,
    /// The directory of its control socket, `ctl<pid>`.
    pub control_dir: String,
    /// The minor under which it serves the volume.
    pub minor: u32,
    /// Whether it writes to it.
    pub read_only: bool,
}

/// The process that serves a volume now, if there is one.
pub(crate) fn served_by(dirs: &Dirs, key: &Name) -> Result<Option<Serving>> {
    let entry = Entry::Serving(key);
    let file = match dirs.read(entry) {
        Err(error) if error.is_missing_file() => return Ok(None),
        file => file?,
    };
    if !is_held(&file).doing("locking", || dirs.path(entry))? {
        return Ok(None);
    }
    Ok(Some(named_in(dirs, key, &file)))
}

/// Locks a volume, if no process serves it now; otherwise the process that does.
pub(crate) fn lock_or_served(
    dirs: &Dirs,
    key: &Name,
) -> Result<std::result::Result<Lock, Serving>> {
    let held = Lock::try_volume(dirs, key, Duration::ZERO)?;
    Ok(held.map_err(|file| named_in(dirs, key, &file)))
}

/// The process that says in the lock file of a volume that it serves it.
fn named_in(dirs: &Dirs, key: &Name, file: &File) -> Serving {
    let unknown = Serving { pid: 0, control_dir: String::new(), minor: 0, read_only: false };
    // A process that has the lock but has not written its name yet is about to serve.
    files::parse_json(dirs, Entry::Serving(key), file).unwrap_or(unknown)
}
