//! Directories for tests, the demonstration and the benchmark that end with the process that made
//! them, however that dies: with everything that was started for them and mounted below them.
//!
//! Tapdisks and mounts outlive the process that starts them; a test run that is cut off by Ctrl-C or
//! SIGKILL would leave them and their memory behind. So every directory has a guard, a process that
//! waits for the end of its owner and then cleans up (`end.sh`). Should the guard be killed as well,
//! the next process that makes such a directory removes the old one: the owner holds a lock on it,
//! and a directory that can be locked has no owner any more.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Once,
};

use tempfile::TempDir;

/// A process with this variable set to a scratch directory, or a place below it, ends with the
/// directory. The variables of the plugins have the same effect.
pub const VARIABLE: &str = "XAPI_RAM_SCRATCH";

/// Where the ones in memory lie: a tmpfs.
const MEMORY: &str = "/dev/shm";
/// All of them are called so. Short: sockets have 107 bytes for their names.
const PREFIX: &str = "xs-";
/// Is in a directory that its owner has left on purpose.
const KEPT: &str = ".kept";
const SCRIPT: &str = include_str!("end.sh");

/// A directory that ends with this value or, at the latest, with this process.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    guard: Child,
    _lock: File,
}

impl Scratch {
    /// A directory on tmpfs.
    ///
    /// # Panics
    /// Where `/dev/shm` cannot be written, or there is no shell.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::below(Path::new(MEMORY)).unwrap_or_else(|error| panic!("below {MEMORY}: {error}"))
    }

    /// A directory where temporary files lie, for what is large.
    ///
    /// # Panics
    /// Where that cannot be written, or there is no shell.
    #[must_use]
    pub fn on_disk() -> Self {
        let place = std::env::temp_dir();
        Self::below(&place).unwrap_or_else(|error| panic!("below {}: {error}", place.display()))
    }

    fn below(place: &Path) -> io::Result<Self> {
        static SWEPT: Once = Once::new();
        SWEPT.call_once(|| [Path::new(MEMORY), &std::env::temp_dir()].into_iter().for_each(sweep));
        let (path, lock) = loop {
            let path = TempDir::with_prefix_in(PREFIX, place)?.keep();
            if let Some(lock) = lock(&path) {
                break (path, lock);
            }
            // Another process took it for one without an owner in the meantime.
        };
        let guard = script(&path)
            .arg("guard")
            // Ctrl-C goes to the whole group.
            .process_group(0)
            .stdin(Stdio::piped())
            .spawn()?;
        Ok(Self { path, guard, _lock: lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it where it is, with all that was started for it, until [`end`] is called for it.
    ///
    /// # Errors
    /// Those of writing to it.
    pub fn keep(mut self) -> io::Result<PathBuf> {
        File::create(self.path.join(KEPT))?;
        if let Some(mut stdin) = self.guard.stdin.take() {
            stdin.write_all(b"keep\n")?;
        }
        Ok(self.path.clone())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _reaped = self.guard.wait();
    }
}

/// The directories that were left on purpose.
#[must_use]
pub fn kept() -> Vec<PathBuf> {
    let mut kept = all(Path::new(MEMORY));
    kept.retain(|path| path.join(KEPT).exists());
    kept
}

/// Ends a directory that was kept.
///
/// # Errors
/// Those of running a shell.
pub fn end(path: &Path) -> io::Result<()> {
    script(path).status().map(drop)
}

/// Removes what killed processes left in a place.
fn sweep(place: &Path) {
    for path in all(place) {
        if path.join(KEPT).exists() {
            continue;
        }
        // Locked until it is gone: a process that has just made it sees that it is taken, and makes another one.
        if let Some(_lock) = lock(&path) {
            // What cannot be removed now is tried again by the next process.
            let _left = end(&path);
        }
    }
}

/// This user's scratch directories in a place.
fn all(place: &Path) -> Vec<PathBuf> {
    let own = |path: &PathBuf| {
        let found = fs::symlink_metadata(path);
        found.is_ok_and(|it| it.is_dir() && it.uid() == rustix::process::geteuid().as_raw())
    };
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX));
    named.map(|entry| entry.path()).filter(own).collect()
}

/// The lock that an owner holds; `None` where there is one, or the directory has vanished.
fn lock(path: &Path) -> Option<File> {
    let file = File::open(path).ok()?;
    file.try_lock().ok()?;
    let (held, there) = (file.metadata().ok()?, fs::metadata(path).ok()?);
    (held.ino() == there.ino() && held.dev() == there.dev()).then_some(file)
}

/// The script with a directory; it must not take itself for a process of that directory.
fn script(path: &Path) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", SCRIPT, "scratch-guard"]).arg(path).current_dir("/");
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}
