//! The system calls that change an SR. Every file that the store creates, writes, renames or frees
//! passes through here or through [`Dirs`](super::dirs::Dirs), so that a test can kill a process
//! before each single one of them: an SR has to be sound after any number of steps. Only stores to
//! mapped memory are not seen, which are never the ones that commit.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, FileExt},
    path::Path,
};

use rustix::fs::{FallocateFlags, fallocate};

/// A process that a test has chosen dies here; any other goes on.
pub(crate) fn step() {
    #[cfg(feature = "testing")]
    failpoints::step();
}

/// Creates a directory that is closed to other users, and those above it.
pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    step();
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes all of `bytes` at an offset.
pub(crate) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    step();
    file.write_all_at(bytes, offset)
}

/// Gives a file another length.
pub(crate) fn set_len(file: &File, length: u64) -> io::Result<()> {
    step();
    file.set_len(length)
}

/// Allocates the first `length` bytes of a file.
pub(crate) fn allocate(file: &File, length: u64) -> io::Result<()> {
    step();
    Ok(fallocate(file, FallocateFlags::empty(), 0, length)?)
}

/// Frees a range of a file.
pub(crate) fn punch(file: &File, offset: u64, length: u64) -> io::Result<()> {
    step();
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(fallocate(file, flags, offset, length)?)
}

/// Removes an empty directory.
pub(crate) fn remove_dir(path: &Path) -> io::Result<()> {
    step();
    fs::remove_dir(path)
}

/// Lets a test choose the step before which a process dies.
#[cfg(feature = "testing")]
pub mod failpoints {
    use std::sync::atomic::{AtomicI64, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    /// Steps that this process may still take; below zero, as many as it likes.
    static LEFT: AtomicI64 = AtomicI64::new(i64::MIN);

    /// Lets this process take `steps` more steps and be killed before the next: no destructor and
    /// no error path runs.
    pub fn die_after(steps: u32) {
        LEFT.store(steps.into(), Ordering::Relaxed);
    }

    /// How many steps are left of those that [`die_after`] allowed.
    #[must_use]
    pub fn left() -> i64 {
        LEFT.load(Ordering::Relaxed)
    }

    /// A step.
    pub fn step() {
        if LEFT.load(Ordering::Relaxed) >= 0 && LEFT.fetch_sub(1, Ordering::Relaxed) == 0 {
            kill_process(getpid(), Signal::KILL).expect("a process may kill itself");
        }
    }
}
