//! The faults of several programs in one small file, for diagnostics: the log itself may have gone to another
//! host, or be read by nothing. Each warning and each error is a line with its time and its program.
//!
//! The file is one of memory. Where it is full, it becomes the older of two, and a new one begins. Nothing is
//! locked, so that no writer waits: where two processes find it full at once, some lines may be lost.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Where the file is full.
const BYTES_MAX: u64 = 64 << 10;

/// Where faults are written to, and read from.
#[derive(Clone, Debug)]
pub struct Faults {
    path: PathBuf,
}

impl Faults {
    /// The faults of the programs that use this directory, which is made where it is missing. Only its owner
    /// may be able to write to it.
    #[must_use]
    pub fn of(directory: &Path) -> Self {
        Self { path: directory.join(".faults") }
    }

    /// The last `count` lines at most, the newest at the end.
    #[must_use]
    pub fn last(&self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        for path in [self.older(), self.path.clone()] {
            let text = fs::read(path).unwrap_or_default();
            lines.extend(String::from_utf8_lossy(&text).lines().map(str::to_owned));
        }
        lines.split_off(lines.len().saturating_sub(count))
    }

    /// Adds a line. A fault that cannot be written is in the log alone.
    pub(crate) fn add(&self, program: &str, kind: &str, message: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line = format!("{} {program} {kind}: {message}\n", utc(now));
        let _in_the_log_alone = self.open().and_then(|mut file| file.write_all(line.as_bytes()));
    }

    fn open(&self) -> io::Result<File> {
        let file = match self.append() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let directory = self.path.parent().unwrap_or(Path::new("/"));
                DirBuilder::new().mode(0o700).create(directory)?;
                self.append()?
            }
            opened => opened?,
        };
        let is_named = |own: &fs::Metadata| {
            fs::symlink_metadata(&self.path).is_ok_and(|named| named.ino() == own.ino())
        };
        let own = file.metadata()?;
        if own.len() < BYTES_MAX || !is_named(&own) {
            return Ok(file);
        }
        fs::rename(&self.path, self.older())?;
        self.append()
    }

    fn append(&self) -> io::Result<File> {
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600).custom_flags(flags.bits().cast_signed());
        options.open(&self.path)
    }

    fn older(&self) -> PathBuf {
        self.path.with_extension("old")
    }
}

/// A time as ISO 8601 has it, in UTC.
fn utc(since_1970: Duration) -> String {
    let seconds = since_1970.as_secs();
    let (day, second) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March end in the leap day; 400 of them have 146,097 days.
    let day = day + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let from_march = (5 * day + 2) / 153;
    let day = day - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year + u64::from(month < 3);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        // By date(1): date -u -d @<seconds> +%FT%TZ
        for (seconds, wanted) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(Duration::from_secs(seconds)), wanted);
        }
    }

    #[test]
    fn the_last_faults_are_kept_in_two_small_files() {
        let root = tempfile::tempdir().unwrap();
        let faults = Faults::of(&root.path().join("made"));
        assert_eq!(faults.last(3), [""; 0]);
        for number in 0..3000 {
            faults.add("p[1]", "error", &format!("number {number} {}", "x".repeat(60)));
        }
        let last = faults.last(1000);
        assert!(last.len() > 500, "{}", last.len());
        assert!(last.last().unwrap().contains("Z p[1] error: number 2999 x"));
        let next = |pair: &[String]| {
            let number = |it: &String| it.split(' ').nth(4).unwrap().parse::<u64>().unwrap();
            number(&pair[0]) + 1 == number(&pair[1])
        };
        assert!(last.windows(2).all(next), "in order, without a gap");
        assert_eq!(faults.last(1).len(), 1);
        let bytes: u64 = fs::read_dir(root.path().join("made"))
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(bytes <= 2 * (BYTES_MAX + 200), "{bytes}");
    }
}
