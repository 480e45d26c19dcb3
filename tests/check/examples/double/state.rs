//! The SR's file, its lock, and errors.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::faults::has;

/// How long a call waits for one that has left a mark.
const PATIENCE: Duration = Duration::from_millis(600);

/// A failed call.
#[derive(Debug)]
pub(crate) struct Error {
    code: String,
    params: Vec<String>,
    is_unknown_sr: bool,
}

impl Error {
    pub(crate) fn new(code: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let params = match code.starts_with("SR_BACKEND_FAILURE") {
            true => vec![String::new(), message, String::new()],
            false => vec![message],
        };
        Self { code: code.to_owned(), params, is_unknown_sr: false }
    }

    pub(crate) fn no_sr(sr: &str) -> Self {
        let mut error = Self::new("SR_does_not_exist", format!("there is no SR {sr}"));
        error.is_unknown_sr = true;
        if has("form.error-text") {
            error.code = "SR_BACKEND_FAILURE".into();
            error.params = vec!["KeyError".into(), "'sr'".into()];
        }
        error
    }

    pub(crate) fn no_volume(key: &str) -> Self {
        match has("volume.unknown") {
            true => Self::new("SR_BACKEND_FAILURE_1", format!("no luck with {key}")),
            false => Self::new("Volume_does_not_exist", key),
        }
    }

    pub(crate) fn is_unknown_sr(&self) -> bool {
        self.is_unknown_sr
    }

    pub(crate) fn reply(&self) -> Value {
        let mut reply = json!({ "code": self.code, "params": self.params });
        if !(has("form.error") && self.is_unknown_sr) {
            reply["backtrace"] =
                json!({ "error": self.params.join(" "), "files": [], "lines": [] });
        }
        reply
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::new("SR_BACKEND_FAILURE_200", format!("input or output: {error}"))
    }
}

/// The SR, under its lock.
pub(crate) struct Sr {
    pub(crate) directory: PathBuf,
    pub(crate) record: Value,
    _lock: Option<File>,
}

impl Sr {
    /// Opens an SR by its handle, which is the path of its directory.
    pub(crate) fn open(handle: &str) -> Result<Self, Error> {
        Self::locked(handle, true)
    }

    /// Without the lock, as a careless plugin would.
    pub(crate) fn unlocked(handle: &str) -> Result<Self, Error> {
        let sr = Self::locked(handle, false)?;
        thread::sleep(Duration::from_millis(60));
        Ok(sr)
    }

    fn locked(handle: &str, locked: bool) -> Result<Self, Error> {
        let directory = PathBuf::from(handle);
        let file = directory.join("sr.json");
        if !handle.starts_with('/') || !file.exists() {
            return Err(Error::no_sr(handle));
        }
        let lock = File::open(directory.join("lock"))?;
        if locked {
            lock.lock()?;
        }
        let text = fs::read_to_string(file)?;
        let record = serde_json::from_str(&text).map_err(io::Error::other)?;
        Ok(Self { directory, record, _lock: locked.then_some(lock) })
    }

    /// The same with a place of its own for each writer: without the lock there may be several.
    pub(crate) fn store(&self) -> Result<(), Error> {
        let new = self.directory.join(format!("new{}", std::process::id()));
        fs::write(&new, self.record.to_string())?;
        fs::rename(new, self.directory.join("sr.json"))?;
        Ok(())
    }

    /// A new SR.
    pub(crate) fn create(directory: &Path, record: Value) -> Result<(), Error> {
        fs::create_dir_all(directory)?;
        File::create(directory.join("lock"))?;
        let sr = Self { directory: directory.to_owned(), record, _lock: None };
        sr.store()
    }

    pub(crate) fn volume(&mut self, key: &str) -> Result<&mut Value, Error> {
        match self.record["volumes"].get_mut(key) {
            Some(volume) => Ok(volume),
            None => Err(Error::no_volume(key)),
        }
    }

    pub(crate) fn file(&self, key: &str) -> PathBuf {
        self.directory.join(format!("{key}.raw"))
    }

    /// What the datapath knows of a volume.
    pub(crate) fn paths(&mut self, key: &str) -> &mut Value {
        let paths = &mut self.record["paths"][key];
        if paths.is_null() {
            *paths = json!({ "domains": {}, "ever": 0, "nonpersistent": false });
        }
        paths
    }

    pub(crate) fn is_active(&mut self, key: &str) -> bool {
        let domains = self.paths(key)["domains"].as_object().cloned().unwrap_or_default();
        domains.values().any(|it| it["active"] == true)
    }
}

/// A mark that a killed call leaves behind, which is what two of the faults are.
pub(crate) struct Mark(PathBuf);

impl Mark {
    pub(crate) fn set(path: PathBuf) -> Result<Self, Error> {
        let mut waited = Duration::ZERO;
        while File::create_new(&path).is_err() {
            if waited > PATIENCE {
                return Err(Error::new("SR_BACKEND_FAILURE_37", "another call is not yet done"));
            }
            thread::sleep(Duration::from_millis(5));
            waited += Duration::from_millis(5);
        }
        thread::sleep(Duration::from_millis(60));
        Ok(Self(path))
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        let _removed = fs::remove_file(&self.0);
    }
}
