//! The control directory: the names in it, creating it, and removing the files of dead tapdisks.
//!
//! Used by every other part. The names are blktap's (`include/blktap.h`,
//! `drivers/tapdisk-nbdserver.h`); tools and xapi know them, and tapback parses
//! `nbd<pid>.<minor>`. A SIGKILLed tapdisk leaves all of its files; nothing here ever removes a
//! file on which a living process listens.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder},
    io,
    os::unix::{ffi::OsStrExt, fs::DirBuilderExt},
    path::{Path, PathBuf},
};

use crate::{
    connection,
    error::{Error, ErrorKind, Result},
    metrics::{METRICS_DIR, MetricsDir},
    minor::{MINORS_MAX, Minor},
    process::Identity,
};

/// Where blktap keeps its files (`BLKTAP2_CONTROL_DIR`).
pub const CONTROL_DIR: &str = "/run/blktap-control";

/// The directory with the minors' files, below the control directory (`BLKTAP2_NP_RUN_DIR`).
const MINORS_DIR: &str = "tapdisk";

/// The sockets that a tapdisk has once for itself: `<name><pid>`.
const PROCESS_SOCKETS: [&str; 2] = ["ctl", "nbdclient"];

/// The sockets that it has for each VBD: `<name><pid>.<minor>`.
const VBD_SOCKETS: [&str; 4] = ["nbd", "nbd-old", "nbdserver", "nbdserver-new"];

/// The directory of statistics, below a control directory that is not blktap's.
const OWN_METRICS_DIR: &str = "shm";

/// A control directory; it need not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlDir {
    path: PathBuf,
    metrics: MetricsDir,
}

impl Default for ControlDir {
    fn default() -> Self {
        Self::new(CONTROL_DIR)
    }
}

impl ControlDir {
    /// The directory of that path. Its tapdisks' statistics lie in `/dev/shm` where it is
    /// blktap's own, and otherwise below it, so that a private directory leaves no trace elsewhere.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let metrics = match path == Path::new(CONTROL_DIR) {
            true => MetricsDir::new(METRICS_DIR),
            false => MetricsDir::new(path.join(OWN_METRICS_DIR)),
        };
        Self { path, metrics }
    }

    /// With another directory for statistics.
    #[must_use]
    pub fn with_metrics(self, metrics: impl Into<PathBuf>) -> Self {
        Self { metrics: MetricsDir::new(metrics), ..self }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where its tapdisks keep statistics.
    #[must_use]
    pub fn metrics(&self) -> &MetricsDir {
        &self.metrics
    }

    /// Creates it with everything above and the directory of the minors, 0700; directories that
    /// exist already stay as they are.
    ///
    /// # Errors
    /// Those of mkdir(2).
    pub fn create(&self) -> Result<()> {
        let directory = self.minors();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|cause| Error::io("create the directory", directory.display(), cause))
    }

    /// The directory with the minors' files.
    #[must_use]
    pub fn minors(&self) -> PathBuf {
        self.path.join(MINORS_DIR)
    }

    /// The file that reserves a minor. `tap-ctl allocate` and `create` print its path.
    #[must_use]
    pub fn minor(&self, minor: Minor) -> PathBuf {
        self.minors().join(format!("tapdisk-{minor}"))
    }

    /// The control socket of a tapdisk.
    #[must_use]
    pub fn ctl(&self, pid: u32) -> PathBuf {
        self.path.join(format!("ctl{pid}"))
    }

    /// Where blktap's tapdisk receives descriptors for its `nbd:` driver.
    #[must_use]
    pub fn nbdclient(&self, pid: u32) -> PathBuf {
        self.path.join(format!("nbdclient{pid}"))
    }

    /// The NBD server of a VBD.
    #[must_use]
    pub fn nbd(&self, pid: u32, minor: Minor) -> PathBuf {
        self.path.join(format!("nbd{pid}.{minor}"))
    }

    /// The second NBD server of a VBD.
    #[must_use]
    pub fn nbd_old(&self, pid: u32, minor: Minor) -> PathBuf {
        self.path.join(format!("nbd-old{pid}.{minor}"))
    }

    /// Where a VBD receives connections, to greet them in the old style.
    #[must_use]
    pub fn nbdserver(&self, pid: u32, minor: Minor) -> PathBuf {
        self.path.join(format!("nbdserver{pid}.{minor}"))
    }

    /// Where a VBD receives connections, to greet them in the new style.
    #[must_use]
    pub fn nbdserver_new(&self, pid: u32, minor: Minor) -> PathBuf {
        self.path.join(format!("nbdserver-new{pid}.{minor}"))
    }

    /// The numbers that have a control socket, in the order of their names as `tap-ctl` has them:
    /// `ctl10` before `ctl9`. The tapdisk of a socket may be dead.
    ///
    /// # Errors
    /// Those of readdir(3); a directory that does not exist is empty.
    pub fn tapdisks(&self) -> Result<Vec<u32>> {
        self.numbers(&self.path, "ctl")
    }

    /// The minors that are reserved, in the order of their names.
    ///
    /// # Errors
    /// Those of readdir(3); a directory that does not exist is empty.
    pub fn reserved(&self) -> Result<Vec<Minor>> {
        let numbers = self.numbers(&self.minors(), "tapdisk-")?;
        Ok(numbers
            .into_iter()
            .filter_map(|number| Minor::try_from(number).ok())
            .filter(|minor| *minor < MINORS_MAX)
            .collect())
    }

    /// Removes the sockets and the statistics of a tapdisk that died without doing it, and says
    /// which.
    ///
    /// `known` is the identity that the tapdisk had, where the caller knows it. Sockets on which
    /// a process listens stay: the number may belong to a new tapdisk by now. The minors' files
    /// are not touched, see [`crate::minors::free`].
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] where `known` still lives; otherwise those of readdir(3) and unlink(2).
    pub fn remove_leftovers(&self, pid: u32, known: Option<&Identity>) -> Result<Vec<PathBuf>> {
        let action = "remove what was left by process";
        if known.is_some_and(Identity::is_same) {
            return Err(Error::new(ErrorKind::Busy, action, pid));
        }
        let (mut removed, mut is_used) = (Vec::new(), false);
        for name in self.names(&self.path)? {
            if owner(&name) != Some(pid) {
                continue;
            }
            let path = self.path.join(OsStr::from_bytes(&name));
            if !is_dead_socket(&path) {
                // Also where the process of that number is dead: a server whose keeper it was goes on.
                is_used = true;
                continue;
            }
            match fs::remove_file(&path) {
                Ok(()) => removed.push(path),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("remove", path.display(), error)),
            }
        }
        if !is_used {
            removed.extend(self.metrics.remove_leftovers(pid)?);
        }
        Ok(removed)
    }

    /// Every number in the names `<prefix><number>`, in the order of the names.
    fn numbers(&self, directory: &Path, prefix: &str) -> Result<Vec<u32>> {
        let mut names = self.names(directory)?;
        names.sort_unstable();
        Ok(names.iter().filter_map(|name| number(name.strip_prefix(prefix.as_bytes())?)).collect())
    }

    fn names(&self, directory: &Path) -> Result<Vec<Vec<u8>>> {
        let failed = |cause| Error::io("read the directory", directory.display(), cause);
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        entries.map(|entry| Ok(entry.map_err(failed)?.file_name().as_bytes().to_vec())).collect()
    }
}

/// The process that a socket's name belongs to; `None` for every name that is not a tapdisk's.
fn owner(name: &[u8]) -> Option<u32> {
    let process =
        PROCESS_SOCKETS.iter().find_map(|prefix| number(name.strip_prefix(prefix.as_bytes())?));
    process.or_else(|| {
        VBD_SOCKETS.iter().find_map(|prefix| {
            let rest = name.strip_prefix(prefix.as_bytes())?;
            let dot = rest.iter().position(|&byte| byte == b'.')?;
            number(&rest[dot + 1..])?;
            number(&rest[..dot])
        })
    })
}

/// A number as tapdisk prints it: digits alone, no zero in front.
fn number(digits: &[u8]) -> Option<u32> {
    let plain = digits.iter().all(u8::is_ascii_digit)
        && (digits.len() == 1 || digits.first() != Some(&b'0'));
    if digits.is_empty() || !plain {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Whether no process listens on a socket. A process that hangs still listens: the kernel accepts
/// connections into its queue, and answers EAGAIN where that is full.
fn is_dead_socket(path: &Path) -> bool {
    // A blocking connect on a full queue would wait for a process that hangs.
    let probe = connection::probe(path);
    matches!(probe, Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
#[path = "dir_tests.rs"]
mod tests;
