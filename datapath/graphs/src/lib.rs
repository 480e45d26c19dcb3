//! What an SR and its guests' disks do, as series for xapi's metrics daemon: one file for each SR, which
//! SR.attach makes and SR.stat names, and which one process at a time writes.
//!
//! Every tapdisk of the SR tries to lock the file; the one that has the lock writes it every five seconds,
//! from the counters that all tapdisks keep in shared memory ([`tapctl::metrics`]). When it ends, the next
//! one takes over, with the totals that it finds in the file. Where no disk is plugged, the plugin writes
//! at each SR.stat. `series` has the names, `sample` reads the counters, `totals` sums them up over
//! processes that come and go, `protocol` is the file's format, `file` the file.

mod file;
mod protocol;
mod sample;
mod series;
mod totals;

use std::{path::PathBuf, time::Duration};

pub use file::{Elected, GraphFile};
pub use protocol::crc32;
use tapctl::MetricsDir;

/// How often the elected writer writes: the daemon reads as often.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// The space of an SR, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes that data and metadata take.
    pub used: u64,
    /// Bytes that can still be written.
    pub free: u64,
}

/// A disk of a guest, as the metrics daemon knows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuestDisk {
    /// UUID of the machine.
    pub machine: String,
    /// What the device is called there, such as `xvda`.
    pub device: String,
}

/// The name by which the daemon knows an SR's file: the path of the URI in SR.stat's datasources.
#[must_use]
pub fn uid(sr: &str) -> String {
    format!("xapi-storage-ram-{sr}")
}

/// The URI of an SR's file.
#[must_use]
pub fn uri(sr: &str) -> String {
    format!("xeno+shm:///{}", uid(sr))
}

fn path(dir: &MetricsDir, sr: &str) -> PathBuf {
    dir.path().join("metrics").join(uid(sr))
}
