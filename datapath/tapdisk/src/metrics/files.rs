//! The statistics files of a VBD in shared memory.
//!
//! The loop writes them at most once a second, and only the counters that have changed. A host without
//! room for them is served without them.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::PathBuf,
};

use tapctl::{
    MetricsDir, Minor,
    metrics::{Counters, FILE_BYTES},
};

use super::served::Served;
use crate::volume::path_of;

/// The files of a VBD. Dropping them removes them.
#[derive(Debug)]
pub(crate) struct Files {
    /// The one that says of which SR the disk is, of a disk of an SR.
    sr: Option<PathBuf>,
    files: [(PathBuf, File); 3],
    written: [Counters; 3],
}

impl Files {
    /// Creates them, with zeroes, for a disk of these parameters.
    pub(crate) fn create(
        dir: &MetricsDir,
        pid: u32,
        minor: Minor,
        params: &str,
    ) -> io::Result<Self> {
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
        let mut created = Self { sr: None, files, written: Default::default() };
        let of_sr = path_of(params).ok().and_then(store::Layout::of_volume);
        if let Some((layout, _)) = of_sr {
            let path = dir.sr(pid, minor);
            fs::write(&path, layout.uuid())?;
            created.sr = Some(path);
        }
        Ok(created)
    }

    /// Whether they still have their names.
    pub(crate) fn are_there(&self) -> bool {
        self.files.iter().map(|(path, _)| path).chain(&self.sr).all(|path| path.exists())
    }

    /// Writes what has changed since the last time.
    pub(crate) fn write(&mut self, served: &Served) -> io::Result<()> {
        let counters = served.counters();
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
        for path in self.files.iter().map(|(path, _)| path).chain(&self.sr) {
            let _removed_already = fs::remove_file(path);
        }
    }
}
