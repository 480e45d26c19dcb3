//! The file of an SR: made and removed by the plugin, written by the process that has its lock.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::PathBuf,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use tapctl::MetricsDir;

use crate::{
    GuestDisk, Space, path,
    protocol::{decode, encode},
    sample::Sample,
    series,
    totals::{Running, Totals},
};

/// The file of an SR, for its plugin.
#[derive(Clone, Debug)]
pub struct GraphFile {
    dir: MetricsDir,
    sr: String,
}

impl GraphFile {
    /// The file of that SR, which need not exist.
    #[must_use]
    pub fn new(dir: &MetricsDir, sr: &str) -> Self {
        Self { dir: dir.clone(), sr: sr.to_owned() }
    }

    /// Makes the file, or keeps the one that is there: the daemon has it open.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(&self, space: Space) -> io::Result<()> {
        let path = path(&self.dir, &self.sr);
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
        }
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).open(path)?;
        self.write(space)
    }

    /// Writes the file where no tapdisk does: no disk of the SR is plugged.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, space: Space) -> io::Result<()> {
        let Some(mut elected) = Elected::take(&self.dir, &self.sr)? else { return Ok(()) };
        let sample = Sample::take(&self.dir, &self.sr, &mut |_, _| None);
        // A tapdisk will have the lock soon, and knows of the guests.
        if !sample.vbds.is_empty() && elected.has_values {
            return Ok(());
        }
        elected.write_sample(&sample, space)
    }

    /// Removes the file.
    ///
    /// # Errors
    /// Those of unlink(2), but for a file that is not there.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_file(path(&self.dir, &self.sr)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }
}

/// The right to write an SR's file, until it is dropped.
#[derive(Debug)]
pub struct Elected {
    dir: MetricsDir,
    sr: String,
    path: PathBuf,
    file: File,
    /// Whether the file could be read.
    has_values: bool,
    /// The values that were in the file, by owner and name.
    before: BTreeMap<(String, String), f64>,
    running: Option<Running>,
    disks: BTreeMap<GuestDisk, Running>,
    written_at: Option<Instant>,
}

impl Elected {
    /// Takes the lock; `None` where another process has it, or the SR has no file.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn take(dir: &MetricsDir, sr: &str) -> io::Result<Option<Self>> {
        let path = path(dir, sr);
        let mut file = match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let values = decode(&bytes);
        let has_values = values.is_some();
        let values = values.unwrap_or_default().into_iter();
        let before = values.map(|(owner, name, value)| ((owner, name), value)).collect();
        let (dir, sr, running, disks) = (dir.clone(), sr.to_owned(), None, BTreeMap::new());
        Ok(Some(Self { dir, sr, path, file, has_values, before, running, disks, written_at: None }))
    }

    /// Writes what has happened since the last time. False where the file is not the SR's any more: it
    /// was removed, and perhaps made anew.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(
        &mut self,
        space: Space,
        guest: &mut dyn FnMut(u32, u32) -> Option<GuestDisk>,
    ) -> io::Result<bool> {
        let own = self.file.metadata()?;
        if !fs::metadata(&self.path).is_ok_and(|named| named.ino() == own.ino()) {
            return Ok(false);
        }
        let sample = Sample::take(&self.dir, &self.sr, guest);
        self.write_sample(&sample, space).map(|()| true)
    }

    fn write_sample(&mut self, sample: &Sample, space: Space) -> io::Result<()> {
        let short: String = self.sr.chars().take(8).collect();
        let known = |owner: &str, name: String| self.before.get(&(owner.to_owned(), name)).copied();
        let mut running = self.running.take().unwrap_or_else(|| {
            let total = series::totals(&|key| known("host", format!("{key}_{short}")));
            resumed(total, &sample.vbds)
        });
        running.update(&sample.vbds);
        let mut disks = BTreeMap::new();
        for (disk, (source, totals)) in &sample.disks {
            let sources = BTreeMap::from([(source.clone(), *totals)]);
            let mut running = self.disks.remove(disk).unwrap_or_else(|| {
                let (owner, device) = (format!("vm {}", disk.machine), &disk.device);
                let total = series::totals(&|key| known(&owner, format!("vbd_{device}_{key}")));
                resumed(total, &sources)
            });
            running.update(&sources);
            disks.insert(disk.clone(), running);
        }
        let now = Instant::now();
        let interval = self.written_at.map(|before| now - before);
        let all = series::all(&self.sr, &running, space, disks.iter(), interval);
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let bytes = encode(&all, seconds.as_secs_f64());
        (self.running, self.disks, self.written_at) = (Some(running), disks, Some(now));
        // A reader that comes between sees checksums that do not fit, and reads again.
        self.file.write_all_at(&bytes, 0)?;
        self.file.set_len(bytes.len() as u64)
    }
}

/// Goes on from the total that another writer has left. What the sources have counted is in it, but for the
/// last seconds; where nothing was counted before, they count from their beginning.
fn resumed(total: Totals, sources: &BTreeMap<String, Totals>) -> Running {
    if total == Totals::default() { Running::default() } else { Running::from(total, sources) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SR: &str = "aaaaaaaa-0000-4000-8000-000000000001";
    const SPACE: Space = Space { used: 1, free: 2 };

    fn values(dir: &MetricsDir) -> Vec<(String, String, f64)> {
        decode(&fs::read(path(dir, SR)).unwrap()).unwrap()
    }

    /// The counters of a disk that the process with that number serves.
    fn count(dir: &MetricsDir, pid: u32, reads: u64) {
        let read = tapctl::metrics::Direction {
            submitted: reads,
            completed: reads,
            sectors: reads * 8,
            microseconds: reads * 100,
        };
        let counters = tapctl::metrics::Counters { read, ..Default::default() };
        fs::create_dir_all(dir.process(pid)).unwrap();
        fs::write(dir.sr(pid, 3), SR).unwrap();
        fs::write(dir.vdi(pid, 3), counters.encode()).unwrap();
    }

    #[test]
    fn one_writes_at_a_time_and_the_next_goes_on_with_its_totals() {
        let root = tempfile::tempdir().unwrap();
        let dir = MetricsDir::new(root.path());
        let graph = GraphFile::new(&dir, SR);
        assert!(Elected::take(&dir, SR).unwrap().is_none(), "there is no file");
        graph.create(SPACE).unwrap();
        assert_eq!(values(&dir).len(), 12);
        count(&dir, 7, 10);
        let unknown = &mut |_, _| None;
        let reads =
            || values(&dir).iter().find(|it| it.1 == "iops_read_aaaaaaaa").unwrap().2 as u64;
        let mut first = Elected::take(&dir, SR).unwrap().unwrap();
        assert!(Elected::take(&dir, SR).unwrap().is_none(), "another process has the lock");
        assert!(first.write(SPACE, unknown).unwrap());
        assert_eq!(reads(), 10);
        count(&dir, 8, 5);
        assert!(first.write(SPACE, unknown).unwrap());
        fs::remove_dir_all(dir.process(7)).unwrap();
        assert!(first.write(SPACE, unknown).unwrap());
        assert_eq!(reads(), 15);
        drop(first);
        graph.write(Space { used: 9, free: 2 }).unwrap();
        assert!(values(&dir).iter().all(|it| it.2 != 9.0), "a tapdisk will write");
        let mut second = Elected::take(&dir, SR).unwrap().unwrap();
        assert!(second.write(SPACE, unknown).unwrap());
        count(&dir, 8, 7);
        assert!(second.write(SPACE, unknown).unwrap());
        assert_eq!(reads(), 17);
        graph.remove().unwrap();
        graph.create(SPACE).unwrap();
        assert!(!second.write(SPACE, unknown).unwrap(), "it is another file");
    }
}
