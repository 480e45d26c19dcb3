//! The caller: directories of method files, and calls of them.

mod exchange;
mod process;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, atomic::AtomicBool},
    time::Duration,
};

use serde_json::{Value, json};

pub use self::{
    exchange::{Exchange, Failure},
    process::{End, Ended, PATH, Terms, execute},
};

/// The debug string of xapi's calls.
const DBG: &str = "OpaqueRef:0a1b|VDI.op";

/// Which plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Side {
    /// SR.*, Volume.*, Plugin.*
    Volume,
    /// Datapath.*, Data.*, Plugin.* of the datapath of that name
    Datapath(String),
}

/// A directory of method files.
#[derive(Debug)]
pub struct Directory {
    /// Where it is.
    pub path: PathBuf,
    /// Its name, which is the scheme of the URIs that a datapath serves.
    pub name: String,
    /// The files by their names in small letters: the daemon finds them without regard to case
    /// (`Script.path` of `main.ml`).
    files: BTreeMap<String, PathBuf>,
}

impl Directory {
    /// Reads one.
    ///
    /// # Errors
    /// Where it is none.
    pub fn read(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
        for entry in fs::read_dir(&path)? {
            let file = entry?.path();
            let name = file.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
            // Of several the daemon takes the first.
            let place = files.entry(name).or_insert_with(|| file.clone());
            *place = file.min(place.clone());
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { path, name, files })
    }

    /// The file of a method, if it is there.
    #[must_use]
    pub fn script(&self, method: &str) -> Option<&Path> {
        self.files.get(&method.to_lowercase()).map(PathBuf::as_path)
    }

    /// Whether the daemon would execute the method's file.
    #[must_use]
    pub fn is_executable(&self, method: &str) -> bool {
        let found = self.script(method).and_then(|file| fs::metadata(file).ok());
        found.is_some_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
    }

    /// The methods of the interface that have a file here.
    pub fn methods(&self) -> impl Iterator<Item = &'static str> {
        smapiv3::methods().map(|it| it.name).filter(|name| self.script(name).is_some())
    }
}

/// Calls methods and remembers each call.
#[derive(Debug)]
pub struct Caller {
    /// The volume plugin.
    pub volume: Directory,
    /// The datapath plugins.
    pub datapaths: Vec<Directory>,
    environment: Vec<(String, String)>,
    timeout: Duration,
    interrupted: Arc<AtomicBool>,
    exchanges: Mutex<Vec<Arc<Exchange>>>,
}

/// How a call differs from an ordinary one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Way<'a> {
    /// It has to fail.
    pub must_fail: bool,
    /// Kill it after this time.
    pub kill_after: Option<Duration>,
    /// Through this Python program.
    pub python: Option<&'a str>,
}

impl Caller {
    /// A caller of these plugins.
    #[must_use]
    pub fn new(
        volume: Directory,
        datapaths: Vec<Directory>,
        environment: Vec<(String, String)>,
        timeout: Duration,
        interrupted: Arc<AtomicBool>,
    ) -> Self {
        let exchanges = Mutex::default();
        Self { volume, datapaths, environment, timeout, interrupted, exchanges }
    }

    /// Whether the run is to end.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// The directory of a side.
    #[must_use]
    pub fn directory(&self, side: &Side) -> Option<&Directory> {
        match side {
            Side::Volume => Some(&self.volume),
            Side::Datapath(name) => self.datapaths.iter().find(|it| it.name == *name),
        }
    }

    /// Calls a method; `dbg` is added to the parameters.
    pub fn call(&self, side: &Side, method: &str, params: Value, way: Way<'_>) -> Arc<Exchange> {
        let mut params = params;
        // A rule may have one of its own.
        if params["dbg"].is_null() {
            params["dbg"] = json!(DBG);
        }
        let request = params.to_string();
        let terms = Terms {
            environment: &self.environment,
            timeout: self.timeout,
            kill_after: way.kill_after,
            interrupted: &self.interrupted,
            python: way.python,
        };
        let script = self.directory(side).and_then(|it| it.script(method));
        let ended = match script {
            Some(script) => execute(script, request.as_bytes(), &terms),
            None => Ended {
                stdout: Vec::new(),
                stderr: Vec::new(),
                end: End::NotStarted("SCRIPT_MISSING: there is no such file".into()),
                stdin_taken: true,
                outputs_held: false,
            },
        };
        let exchange = Arc::new(Exchange {
            side: side.clone(),
            method: method.to_owned(),
            request,
            ended,
            must_fail: way.must_fail,
        });
        // A killed call owes nothing.
        if way.kill_after.is_none() && way.python.is_none() {
            self.remembered().push(Arc::clone(&exchange));
        }
        exchange
    }

    /// All calls so far that were let finish.
    #[must_use]
    pub fn exchanges(&self) -> Vec<Arc<Exchange>> {
        self.remembered().clone()
    }

    fn remembered(&self) -> MutexGuard<'_, Vec<Arc<Exchange>>> {
        self.exchanges.lock().expect("no panic")
    }
}
