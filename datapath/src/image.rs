//! The image that the host's tapdisk is given: a volume's bytes in a plain file, for as long as that
//! tapdisk takes to load them.
//!
//! It lies beside the tapdisks' statistics, in `/dev/shm`, and not in the SR, where a volume would
//! count twice. The stock driver never reads it again and never closes it: its memory is freed
//! by truncating it, and without its name a tapdisk that is paused fails to resume instead of
//! serving old contents.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use smapiv3::{Error, Failure};
use store::{Disk, Memory, Name, Piece, Status, human};
use tapctl::ControlDir;

use crate::errors;

/// The image of one volume.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    path: PathBuf,
}

impl Image {
    /// The one of volume `key`.
    pub(crate) fn new(control: &ControlDir, key: &Name) -> Self {
        Self { path: control.metrics().path().join(format!("xapi-storage-ram-{key}")) }
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the contents of `disk` into it. A file of that name was left by a call that was killed.
    pub(crate) fn lay_out(&self, disk: &mut Disk) -> Result<(), Error> {
        require_memory(disk)?;
        self.remove()?;
        let written = self.create().map_err(|error| self.failed(error)).and_then(|file| {
            file.set_len(disk.size()).map_err(|error| self.failed(error))?;
            self.fill(&file, disk)
        });
        if written.is_err()
            && let Err(error) = self.remove()
        {
            return Err(error);
        }
        written
    }

    fn create(&self) -> io::Result<File> {
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        // A new file: an existing one could be a link that another user has put there.
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.path)
    }

    fn fill(&self, file: &File, disk: &mut Disk) -> Result<(), Error> {
        let (mut at, mut done, mut buffer) = (0, Ok(()), Vec::new());
        disk.read(0, disk.size(), |piece| match piece {
            Piece::Zeroes(count) => at += count,
            Piece::Data(slice) => {
                buffer.resize(slice.length(), 0);
                slice.read(0, &mut buffer);
                if done.is_ok() {
                    done = file.write_all_at(&buffer, at);
                }
                at += buffer.len() as u64;
            }
        })?;
        done.map_err(|error| self.failed(error))
    }

    /// Frees its memory, and removes it.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        let emptied = OpenOptions::new().write(true).custom_flags(no_follow()).open(&self.path);
        let removed = emptied.and_then(|file| file.set_len(0)).and_then(|()| self.unlink());
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                // It is no file of this plugin, and in the way.
                self.unlink().map_err(|error| self.failed(error))
            }
            _ => Ok(()),
        }
    }

    fn unlink(&self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }

    fn failed(&self, error: io::Error) -> Error {
        errors::io(format!("laying out the image {}", self.path.display()), error)
    }
}

fn no_follow() -> i32 {
    i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default()
}

/// Checks that the host has room for the memory that a disk takes beside the SR: all of it in the tapdisk's
/// memory, and its data once more until it is loaded.
fn require_memory(disk: &mut Disk) -> Result<(), Error> {
    let mut data = 0;
    disk.status(0, disk.size(), |length, status| {
        data += if status == Status::Data { length } else { 0 };
        std::ops::ControlFlow::Continue(())
    })?;
    let memory = Memory::now()?;
    let (wanted, free) = (disk.size() + data, memory.available.saturating_sub(memory.reserve()));
    if wanted <= free {
        return Ok(());
    }
    Err(Error::new(
        Failure::SrNoSpace,
        format!(
            "a disk of {} with {} of data takes {} of this host's memory beside the SR's while the \
             host's own tapdisk loads it (device-config:tapdisk=blktap), and {} are free: unplug \
             other disks, or use an SR with device-config:tapdisk=ram, which takes none",
            human(disk.size()),
            human(data),
            human(wanted),
            human(free)
        ),
    ))
}
