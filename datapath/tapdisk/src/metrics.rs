//! What was served, counted for those who look on: the statistics files in shared memory.
//!
//! The loop writes them at most once a second, and only what has changed; nothing here is on a
//! request's way. A host without room for them is served without them.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::PathBuf,
    time::Duration,
};

use nbd::Stats;
use tapctl::{
    MetricsDir, Minor,
    metrics::{Counters, Direction, FILE_BYTES},
};

use crate::door::Side;

/// What the clients of one of a VBD's NBD servers got, since its image was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) stats: Stats,
    /// What its reads took, all together: a request counts with the turn that obeyed it.
    pub(crate) read_time: Duration,
    /// What its writes took.
    pub(crate) write_time: Duration,
}

/// What all clients of a VBD got, since its image was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    new: Tally,
    old: Tally,
    failed: Failed,
}

/// What the store did not do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failed {
    /// Sectors of reads.
    pub(crate) read_sectors: u64,
    /// Sectors of writes.
    pub(crate) write_sectors: u64,
}

impl Tally {
    /// Takes note of how long a turn took that changed the counters from `before` on.
    pub(crate) fn took(&mut self, before: &Stats, turn: Duration) {
        let times = |now: u64, before: u64| {
            turn.saturating_mul(u32::try_from(now.saturating_sub(before)).unwrap_or(u32::MAX))
        };
        self.read_time += times(reads(&self.stats), reads(before));
        self.write_time += times(writes(&self.stats), writes(before));
    }

    fn counters(&self) -> Counters {
        let Stats { read_sectors, write_sectors, .. } = self.stats;
        let direction = |requests, sectors, time: Duration| Direction {
            submitted: requests,
            completed: requests,
            sectors,
            microseconds: u64::try_from(time.as_micros()).unwrap_or(u64::MAX),
        };
        Counters {
            read: direction(reads(&self.stats), read_sectors, self.read_time),
            write: direction(writes(&self.stats), write_sectors, self.write_time),
            errors: self.stats.read_fails + self.stats.write_fails + self.stats.other_fails,
        }
    }
}

fn reads(stats: &Stats) -> u64 {
    stats.reads + stats.read_fails
}

fn writes(stats: &Stats) -> u64 {
    stats.writes + stats.write_fails
}

impl Counts {
    /// Where to count what the clients of one server get.
    pub(crate) fn of(&mut self, side: Side) -> (&mut Tally, &mut Failed) {
        let tally = match side {
            Side::New => &mut self.new,
            Side::Old => &mut self.old,
        };
        (tally, &mut self.failed)
    }

    /// Sectors read and written.
    pub(crate) fn sectors(&self) -> [u64; 2] {
        let (new, old) = (&self.new.stats, &self.old.stats);
        [new.read_sectors + old.read_sectors, new.write_sectors + old.write_sectors]
    }

    /// Sectors of reads and of writes that failed.
    pub(crate) fn failed_sectors(&self) -> [u64; 2] {
        [self.failed.read_sectors, self.failed.write_sectors]
    }

    /// The image's, the server's and the second server's.
    fn all(&self) -> [Counters; 3] {
        let (new, old) = (self.new.counters(), self.old.counters());
        let sum = |left: Direction, right: Direction| Direction {
            submitted: left.submitted + right.submitted,
            completed: left.completed + right.completed,
            sectors: left.sectors + right.sectors,
            microseconds: left.microseconds + right.microseconds,
        };
        let image = Counters {
            read: sum(new.read, old.read),
            write: sum(new.write, old.write),
            errors: new.errors + old.errors,
        };
        [image, new, old]
    }
}

/// The files of a VBD. Dropping them removes them.
#[derive(Debug)]
pub(crate) struct Files {
    files: [(PathBuf, File); 3],
    written: [Counters; 3],
}

impl Files {
    /// Creates them, with zeroes.
    pub(crate) fn create(dir: &MetricsDir, minor: Minor) -> io::Result<Self> {
        let pid = std::process::id();
        let paths = [dir.vdi(pid, minor), dir.nbd(pid, minor), dir.nbd_old(pid, minor)];
        let mut created = Vec::new();
        for path in &paths {
            match create(path) {
                Ok(file) => created.push(file),
                Err(error) => {
                    for path in paths.iter().take(created.len() + 1) {
                        let _not_there = fs::remove_file(path);
                    }
                    return Err(error);
                }
            }
        }
        let files: Vec<_> = paths.into_iter().zip(created).collect();
        let files = files.try_into().expect("a file for each path");
        Ok(Self { files, written: Default::default() })
    }

    /// Writes what has changed since the last time.
    pub(crate) fn write(&mut self, counts: &Counts) -> io::Result<()> {
        let counters = counts.all();
        for (index, (_, file)) in self.files.iter().enumerate() {
            if counters[index] != self.written[index] {
                file.write_all_at(&counters[index].encode(), 0)?;
                self.written[index] = counters[index];
            }
        }
        Ok(())
    }
}

fn create(path: &PathBuf) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    file.set_len(FILE_BYTES)?;
    // The page is there from now on: later writes need no room.
    file.write_all_at(&Counters::default().encode(), 0)?;
    Ok(file)
}

impl Drop for Files {
    fn drop(&mut self) {
        for (path, _) in &self.files {
            let _gone_already = fs::remove_file(path);
        }
    }
}
