//! Statistics in shared memory: the paths of a tapdisk's files, and their layout.
//!
//! `<directory>/td3-<pid>/` holds for each VBD `vdi-<minor>` (the image), `nbd-<minor>` and
//! `nbd-old-<minor>` (its two NBD servers), a page each, and for a disk of an SR `sr-<minor>` with its UUID (`drivers/tapdisk-metrics.h` of blktap).
//! Written by tapdisk-ram. The files of a dead tapdisk are removed by the next process that notices.
//!
//! All of them begin with the same structure (`drivers/tapdisk-metrics-stats.h`), which readers on
//! the host map (`blktap3_stats.ml` of xapi's metrics daemon); the rest of the page is zero.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    minor::Minor,
    process,
};

/// Where blktap keeps its files.
pub const METRICS_DIR: &str = "/dev/shm";

/// The length of a file: a page.
pub const FILE_BYTES: u64 = 4096;

/// The length of the structure at the front of each file.
pub const COUNTERS_BYTES: usize = 96;

/// What the names of files begin with that say of which SR a disk is. Ours alone.
const SR: &str = "sr-";

/// Where the host's daemon cpumond says how much of the processors is idle, and where in that file it does: a
/// percentage, a float of 32 bits (`cpumond/` of blktap).
const PROCESSORS: &str = "cpu_util_monitor";
const IDLE_AT: std::ops::Range<usize> = 4..8;

/// The version of the structure in a ring's file; in the others it is 0.
const RING_VERSION: u32 = 1;

/// One direction of an image's or a server's requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Direction {
    /// Requests that came.
    pub submitted: u64,
    /// Requests that were answered, with an error or without.
    pub completed: u64,
    /// Sectors of 512 bytes.
    pub sectors: u64,
    /// Total time of the answered requests.
    pub microseconds: u64,
}

/// The contents of a file (`struct stats`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Reads.
    pub read: Direction,
    /// Writes.
    pub write: Direction,
    /// Requests of any sort that were answered with an error.
    pub errors: u64,
}

/// `struct stats`, for its layout.
#[allow(dead_code, reason = "the offsets of the fields are all that is used")]
#[repr(C)]
struct Layout {
    version: u32,
    pad: u32,
    out_of_requests: u64,
    read: [u64; 4],
    write: [u64; 4],
    errors: u64,
    flags: u64,
}

const READ: usize = std::mem::offset_of!(Layout, read);
const WRITE: usize = std::mem::offset_of!(Layout, write);
const ERRORS: usize = std::mem::offset_of!(Layout, errors);
const _: () = assert!(size_of::<Layout>() == COUNTERS_BYTES && READ == 16 && ERRORS == 80);

impl Counters {
    /// The front of a file. Version and flags are zero, as blktap's are in these files.
    #[must_use]
    pub fn encode(&self) -> [u8; COUNTERS_BYTES] {
        let mut bytes = [0; COUNTERS_BYTES];
        let mut put = |at: usize, value: u64| {
            bytes[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        };
        for (at, direction) in [(READ, &self.read), (WRITE, &self.write)] {
            put(at, direction.submitted);
            put(at + 8, direction.completed);
            put(at + 16, direction.sectors);
            put(at + 24, direction.microseconds);
        }
        put(ERRORS, self.errors);
        bytes
    }

    /// The front of a ring's file, which has a version.
    #[must_use]
    pub fn encode_ring(&self) -> [u8; COUNTERS_BYTES] {
        let mut bytes = self.encode();
        bytes[..4].copy_from_slice(&RING_VERSION.to_ne_bytes());
        bytes
    }

    /// Parses the front of a file; `None` where it is too short.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let get = |at: usize| {
            let field = bytes.get(at..at + 8)?;
            Some(u64::from_ne_bytes(field.try_into().ok()?))
        };
        let direction = |at| {
            Some(Direction {
                submitted: get(at)?,
                completed: get(at + 8)?,
                sectors: get(at + 16)?,
                microseconds: get(at + 24)?,
            })
        };
        Some(Self { read: direction(READ)?, write: direction(WRITE)?, errors: get(ERRORS)? })
    }
}

/// The directory that holds one for each tapdisk; it need not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsDir(PathBuf);

impl MetricsDir {
    /// The directory of that path.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The directory of a tapdisk.
    #[must_use]
    pub fn process(&self, pid: u32) -> PathBuf {
        self.0.join(format!("td3-{pid}"))
    }

    /// The file of a VBD's image.
    #[must_use]
    pub fn vdi(&self, pid: u32, minor: Minor) -> PathBuf {
        self.process(pid).join(format!("vdi-{minor}"))
    }

    /// The file of a VBD's NBD server.
    #[must_use]
    pub fn nbd(&self, pid: u32, minor: Minor) -> PathBuf {
        self.process(pid).join(format!("nbd-{minor}"))
    }

    /// The file of a VBD's second NBD server.
    #[must_use]
    pub fn nbd_old(&self, pid: u32, minor: Minor) -> PathBuf {
        self.process(pid).join(format!("nbd-old-{minor}"))
    }

    /// The file of a guest's ring.
    #[must_use]
    pub fn ring(&self, pid: u32, domid: u32, devid: u32) -> PathBuf {
        self.process(pid).join(format!("vbd-{domid}-{devid}"))
    }

    /// The file that says of which SR the disk of a VBD is.
    #[must_use]
    pub fn sr(&self, pid: u32, minor: Minor) -> PathBuf {
        self.process(pid).join(format!("{SR}{minor}"))
    }

    /// The minors under which a tapdisk serves disks of SRs, with the SR of each.
    #[must_use]
    pub fn served_by(&self, pid: u32) -> Vec<(Minor, String)> {
        let entries = fs::read_dir(self.process(pid)).into_iter().flatten().flatten();
        let served = entries.filter_map(|entry| {
            let minor = entry.file_name().to_str()?.strip_prefix(SR)?.parse().ok()?;
            Some((minor, fs::read_to_string(entry.path()).ok()?))
        });
        served.collect()
    }

    /// The directory of a guest's device. xapi's metrics daemon learns from its creation and removal that
    /// there is a ring.
    #[must_use]
    pub fn device(&self, domid: u32, devid: u32) -> PathBuf {
        self.0.join(format!("vbd3-{domid}-{devid}"))
    }

    /// How much of the host's processors is idle, in percent; `None` where it is not measured.
    #[must_use]
    pub fn idle_percent(&self) -> Option<f32> {
        let bytes = fs::read(self.0.join(PROCESSORS)).ok()?;
        Some(f32::from_ne_bytes(bytes.get(IDLE_AT)?.try_into().ok()?))
    }

    /// Makes the directory of the tapdisk of that number, 0700. A directory of that name was left by a dead
    /// process that had the number before, and is removed.
    ///
    /// # Errors
    /// Those of mkdir(2), and of removing a directory of that name.
    pub fn create(&self, pid: u32) -> Result<()> {
        let own = self.process(pid);
        let failed = |cause| Error::io("make the directory", own.display(), cause);
        remove(&own).map_err(failed)?;
        fs::create_dir_all(&self.0).map_err(failed)?;
        // Every user may create files in /dev/shm: a new directory is not writable for others.
        DirBuilder::new().mode(0o700).create(&own).map_err(failed)
    }

    /// Removes that directory.
    ///
    /// # Errors
    /// Those of unlink(2) and rmdir(2).
    pub fn remove(&self, pid: u32) -> Result<()> {
        let own = self.process(pid);
        remove(&own).map_err(|cause| Error::io("remove the directory", own.display(), cause))
    }

    /// Removes the directory of a dead tapdisk, and returns its path; nothing is removed while any
    /// process has that number.
    ///
    /// # Errors
    /// Those of unlink(2) and rmdir(2).
    pub fn remove_leftovers(&self, pid: u32) -> Result<Option<PathBuf>> {
        let left = self.process(pid);
        if fs::symlink_metadata(&left).is_err() || process::exists(pid) {
            return Ok(None);
        }
        match remove(&left) {
            Ok(()) => Ok(Some(left)),
            Err(cause) => Err(Error::io("remove the directory", left.display(), cause)),
        }
    }
}

/// Removes a directory and what is in it; one that is not there is removed. Links are not followed.
fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Another user put a file or a link there.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => fs::remove_file(directory),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_readers_of_the_host_look() {
        let direction = |from| Direction {
            submitted: from,
            completed: from + 1,
            sectors: from + 2,
            microseconds: from + 3,
        };
        let counters = Counters { read: direction(10), write: direction(20), errors: 30 };
        let bytes = counters.encode();
        let words: Vec<u64> =
            bytes.chunks(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap())).collect();
        assert_eq!(words, [0, 0, 10, 11, 12, 13, 20, 21, 22, 23, 30, 0]);
        assert_eq!(Counters::parse(&bytes), Some(counters));
        assert_eq!(Counters::parse(&bytes[..80]), None);
    }

    #[test]
    fn a_directory_of_the_same_number_is_replaced_and_that_of_the_living_stays() {
        let root = tempfile::tempdir().unwrap();
        let dir = MetricsDir::new(root.path().join("shm"));
        let pid = std::process::id();
        dir.create(std::process::id()).unwrap();
        fs::write(dir.vdi(pid, 3), "left").unwrap();
        dir.create(std::process::id()).unwrap();
        assert!(!dir.vdi(pid, 3).exists());
        assert_eq!(dir.remove_leftovers(pid).unwrap(), None, "it lives");
        dir.remove(std::process::id()).unwrap();
        dir.remove(std::process::id()).unwrap();
        // No process has this number: it is beyond the highest that there can be.
        let dead = 1 << 30;
        assert_eq!(dir.remove_leftovers(dead).unwrap(), None);
        fs::create_dir(dir.process(dead)).unwrap();
        fs::write(dir.nbd(dead, 0), "left").unwrap();
        assert_eq!(dir.remove_leftovers(dead).unwrap(), Some(dir.process(dead)));
        assert!(!dir.process(dead).exists());
    }

    #[test]
    fn a_link_in_the_way_is_removed_and_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let dir = MetricsDir::new(root.path().join("shm"));
        fs::create_dir_all(dir.path()).unwrap();
        let other = root.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("kept"), "kept").unwrap();
        std::os::unix::fs::symlink(&other, dir.process(std::process::id())).unwrap();
        dir.create(std::process::id()).unwrap();
        assert!(other.join("kept").exists());
    }
}
