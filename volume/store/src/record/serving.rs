//! The process that serves a volume: it holds the lock on the volume, and its name is in the lock
//! file.

use std::{fs::File, io, os::unix::fs::FileExt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Context, Result},
    files::{
        self, Dirs, Entry,
        lock::{Lock, is_held},
        steps,
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

/// A path takes at most 4,096 bytes of it.
const TEXT_BYTES_MAX: usize = 8192;

/// What the lock file of a volume says. It is empty where no process has served the volume since it was swept.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Served {
    /// The process that serves the volume, or did so last.
    #[serde(flatten)]
    pub(crate) by: Option<Serving>,
    /// Whether a process that served it before was killed, or left something: layers that only this volume
    /// needs may have blocks and pages that no map names. They are found by a collection, but not those of the
    /// top while a process serves it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) unswept: bool,
}

impl Served {
    /// What it says. A text that makes no sense was being written by a process that was killed.
    pub(crate) fn read(file: &File) -> Self {
        let mut text = [0; TEXT_BYTES_MAX];
        let length = file.read_at(&mut text, 0).unwrap_or_default();
        let said = serde_json::from_slice(&text[..length]);
        said.unwrap_or(Self { by: None, unswept: true })
    }

    /// Writes it into the file, which this process has locked. In place, since a rename would leave the lock on
    /// a file without a name. The file is cut to its new length last: a kill leaves it with the old text, the new
    /// one, or something that makes no sense and is taken for unswept, but never empty.
    pub(crate) fn write(&self, dirs: &Dirs, lock: &Lock) -> io::Result<()> {
        let text = serde_json::to_vec(self).expect("a plain structure");
        let (file, length) = (lock.file(), text.len() as u64);
        let write = || -> io::Result<()> {
            steps::write_at(file, &text, 0)?;
            if file.metadata()?.len() > length { steps::set_len(file, length) } else { Ok(()) }
        };
        files::with_ballast(dirs, || dirs.counted(file, write))
    }

    /// Says that no process serves the volume, and that nothing is to be swept.
    pub(crate) fn clear(dirs: &Dirs, key: &Name, lock: &Lock) -> Result<()> {
        let file = lock.file();
        let clear = || if file.metadata()?.len() > 0 { steps::set_len(file, 0) } else { Ok(()) };
        dirs.counted(file, clear).doing("clearing", || dirs.path(Entry::Serving(key)))
    }
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
    Ok(Some(Served::read(&file).by_or_unknown()))
}

/// Locks a volume, if no process serves it now; otherwise what the process says that does.
pub(crate) fn lock_or_served(dirs: &Dirs, key: &Name) -> Result<std::result::Result<Lock, Served>> {
    let held = Lock::try_volume(dirs, key, Duration::ZERO)?;
    Ok(held.map_err(|file| Served::read(&file)))
}

/// Whether something of a volume that this process has locked is to be swept.
pub(crate) fn is_unswept(dirs: &Dirs, key: &Name, lock: &Lock) -> Result<bool> {
    let length = lock.file().metadata().doing("looking up", || dirs.path(Entry::Serving(key)))?;
    if length.len() == 0 {
        return Ok(false);
    }
    let said = Served::read(lock.file());
    Ok(said.unswept || said.by.is_some_and(|by| !by.read_only))
}

impl Served {
    /// The process. One that has the lock but has not written its name yet is about to serve.
    pub(crate) fn by_or_unknown(self) -> Serving {
        let unknown = || Serving { pid: 0, control_dir: String::new(), minor: 0, read_only: false };
        self.by.unwrap_or_else(unknown)
    }
}
