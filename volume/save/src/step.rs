//! The system calls that change a save. A test can kill a process before each of them, as it can before those
//! that change an SR.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::Path,
};

/// A process that a test has chosen dies here; any other goes on.
fn step() {
    #[cfg(feature = "testing")]
    store::testing::failpoints::step();
}

/// Makes a directory that is closed to other users, and those above it.
pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    step();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes a file that is closed to other users, or empties the one that is there.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    step();
    File::options().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Writes all of `bytes` at an offset.
pub(crate) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    step();
    file.write_all_at(bytes, offset)
}

/// Waits until what was written to a file is on the disk.
pub(crate) fn sync(file: &File) -> io::Result<()> {
    step();
    file.sync_all()
}

/// Renames a file.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    step();
    fs::rename(from, to)
}

/// Removes a file; one that is not there is no error.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    step();
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
