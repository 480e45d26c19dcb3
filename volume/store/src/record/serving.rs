//! The process that serves a volume: it holds the lock on the volume, and its name is in the lock
//! file.

use serde::{Deserialize, Serialize};

use crate::{
    error::{Context, Result},
    files::{self, Dirs, Entry, lock::is_held},
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
    let unknown = Serving { pid: 0, control_dir: String::new(), minor: 0, read_only: false };
    // A process that has the lock but has not written its name yet is about to serve.
    Ok(Some(files::read_json(dirs, entry).ok().flatten().unwrap_or(unknown)))
}
