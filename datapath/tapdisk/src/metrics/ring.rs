//! The statistics files of a guest's ring.
//!
//! xapi's metrics daemon watches for the directory `vbd3-<domid>-<devid>`, maps `td3-<pid>/vbd-<domid>-<devid>`
//! when that is created, and keeps the mapping until it is removed (`rrdp_iostat.ml`): the counters are
//! changed in place. `xen-ringwatch` reads `io_ring` (`drivers/td-stats.c`, `drivers/td-blkif.c`). What a
//! dead process left under these names is removed first.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use blkif::{Counters, Indices};
use block::{Direction, Stats};
use graphs::crc32;
use tapctl::{MetricsDir, metrics::FILE_BYTES};

use super::served::counters;

/// The name of the file that makes a directory one of a ring.
const STATISTICS: &str = "statistics";

/// The files of a ring. Dropping them removes them.
#[derive(Debug)]
pub(crate) struct RingFiles {
    directory: PathBuf,
    path: PathBuf,
    file: File,
    statistics: File,
    indices: File,
    written: (Stats, Counters),
}

impl RingFiles {
    /// Creates them, with zeroes.
    pub(crate) fn create(dir: &MetricsDir, pid: u32, domid: u32, devid: u32) -> io::Result<Self> {
        let path = dir.ring(pid, domid, devid);
        let directory = dir.device(domid, devid);
        remove(&directory, &path)?;
        Self::create_new(&directory, &path).inspect_err(|_| {
            // What cannot be removed now is removed before the next is made.
            let _left = remove(&directory, &path);
        })
    }

    fn create_new(directory: &Path, path: &Path) -> io::Result<Self> {
        let file = create(path, &tapctl::metrics::Counters::default().encode_ring())?;
        DirBuilder::new().mode(0o700).create(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            path: path.to_owned(),
            file,
            statistics: create(&directory.join(STATISTICS), &[0; BACKEND_BYTES])?,
            indices: create_empty(&directory.join("io_ring"))?,
            written: Default::default(),
        })
    }

    /// Whether they still have their names.
    pub(crate) fn are_there(&self) -> bool {
        self.path.exists() && self.directory.join(STATISTICS).exists()
    }

    /// Writes what has changed since the last time.
    pub(crate) fn write(&mut self, stats: &Stats, counters_now: &Counters) -> io::Result<()> {
        if counters_now.indices != self.written.1.indices {
            let text = indices(&counters_now.indices);
            self.indices.write_all_at(&text, 0)?;
            self.indices.set_len(text.len() as u64)?;
            self.written.1.indices = counters_now.indices;
        }
        if *stats != self.written.0 {
            self.file.write_all_at(&counters(stats).encode_ring(), 0)?;
            self.statistics.write_all_at(&backend_stats(stats, counters_now), 0)?;
            self.written.0 = *stats;
        }
        Ok(())
    }
}

impl Drop for RingFiles {
    fn drop(&mut self) {
        // What cannot be removed now is removed before the next is made.
        let _left = remove(&self.directory, &self.path);
    }
}

fn remove(directory: &Path, path: &Path) -> io::Result<()> {
    let ignore_missing = |done: io::Result<()>| match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    };
    ignore_missing(fs::remove_dir_all(directory))?;
    ignore_missing(fs::remove_file(path))
}

fn create_empty(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

fn create(path: &Path, front: &[u8]) -> io::Result<File> {
    let file = create_empty(path)?;
    file.set_len(FILE_BYTES)?;
    // The page is there from now on: later writes need no room.
    file.write_all_at(front, 0)?;
    Ok(file)
}

/// Length of `struct blkback_stats` (`include/blktap3.h`): 14 numbers of 64 bits.
const BACKEND_BYTES: usize = 14 * 8;

/// `struct blkback_stats`: discards, flushes, "out of requests", then for reads and for writes their
/// requests, answers, sectors, sum and maximum of microseconds; flags.
fn backend_stats(stats: &Stats, counters: &Counters) -> [u8; BACKEND_BYTES] {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let of = |it: &Direction, longest: Duration| {
        [it.answered(), it.answered(), it.sectors, micros(it.time), micros(longest)]
    };
    let front = [stats.discards, stats.flushes, 0];
    let read = of(&stats.read, counters.read_max);
    let write = of(&stats.write, counters.write_max);
    let numbers = front.into_iter().chain(read).chain(write).chain([0]);
    let mut bytes = [0; BACKEND_BYTES];
    for (part, number) in bytes.chunks_exact_mut(8).zip(numbers) {
        part.copy_from_slice(&number.to_ne_bytes());
    }
    bytes
}

/// `io_ring`: a checksum, then the indices as text.
fn indices(indices: &Indices) -> Vec<u8> {
    let Indices { entries, requests_end, requests_taken, request_event, .. } = indices;
    let Indices { answers_end, answers_recorded, answer_event, .. } = indices;
    let text = format!(
        "nr_ents {entries}\nreq prod {requests_end} cons {requests_taken} event {request_event}\n\
         rsp prod {answers_end} pvt {answers_recorded} event {answer_event}\n"
    );
    let mut bytes = u64::from(crc32(text.as_bytes())).to_ne_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_the_text_that_ringwatch_reads() {
        let indices = Indices {
            entries: 32,
            requests_end: 7,
            requests_taken: 6,
            request_event: 8,
            answers_end: 5,
            answers_recorded: 4,
            answer_event: 9,
        };
        let bytes = super::indices(&indices);
        let text = b"nr_ents 32\nreq prod 7 cons 6 event 8\nrsp prod 5 pvt 4 event 9\n";
        assert_eq!(&bytes[8..], text);
        assert_eq!(bytes[..8], u64::from(crc32(text)).to_ne_bytes());
    }

    #[test]
    fn numbers_lie_where_blktap_has_them() {
        let stats = Stats {
            read: Direction { requests: 1, failed: 1, sectors: 3, time: Duration::from_micros(4) },
            write: Direction { requests: 5, failed: 0, sectors: 6, time: Duration::from_micros(7) },
            flushes: 8,
            discards: 9,
            other_failed: 10,
        };
        let counters = Counters {
            read_max: Duration::from_micros(11),
            write_max: Duration::from_micros(12),
            ..Counters::default()
        };
        let bytes = backend_stats(&stats, &counters);
        let numbers: Vec<u64> = bytes
            .chunks_exact(8)
            .map(|part| u64::from_ne_bytes(part.try_into().expect("eight bytes")))
            .collect();
        assert_eq!(numbers, [9, 8, 0, 2, 2, 3, 4, 11, 5, 5, 6, 7, 12, 0]);
    }
}
