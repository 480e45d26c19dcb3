//! Locks: of an SR, held while its structure changes, and of a volume, held by the process that
//! serves it. Each is a flock(2) on a file, let go of by the kernel when its holder dies.

use std::{
    cell::Cell,
    fs::{File, TryLockError},
    io,
    os::fd::OwnedFd,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, fstat, statat, unlinkat},
    io::Errno,
    process::geteuid,
};

use super::{Directory, Dirs, Entry, Mark, steps};
use crate::{
    error::{Context, Error, ErrorKind, Result},
    host::{Host, Name},
};

/// How long a call waits for its turn.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// The longest pause between two looks at a lock.
const PAUSE_MAX: Duration = Duration::from_millis(5);
/// How long a lock that is only being looked at (see [`is_held`]) counts as free. A look takes
/// microseconds.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// The order in which a thread takes the locks that it holds at the same time: it waits only for
/// locks of a later sort than those it has, so that no two wait for each other, nor one for itself.
/// The locks of volumes come after all of these, and are waited for only briefly.
#[derive(Clone, Copy, Debug)]
enum Rank {
    Promises = 1,
    Sr = 2,
}

thread_local! {
    /// The ranks that this thread holds, added up.
    static HELD: Cell<u8> = const { Cell::new(0) };
}

/// An exclusive flock(2), released on drop.
///
/// The length of the file tells the next holder of an SR's lock what became of the one before: see [`note`].
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    rank: Option<Rank>,
    note: u64,
    /// Whether nothing is left of the changes that were begun.
    is_done: bool,
    /// Whether something is left for a collection.
    collects_next: Cell<bool>,
    /// Whether its holder goes on under a mark when it has released the lock.
    is_marked: bool,
}

/// What the length of a lock file says, added up. A length takes no memory, so there is always room for it.
mod note {
    /// Its holder is changing the SR. Where a free lock says this, its holder was killed, has failed half-way, or
    /// has found what another process left.
    pub(super) const CHANGING: u64 = 1;
    /// A holder has released it and goes on freeing memory, under a [mark](crate::files::Mark).
    pub(super) const MARKED: u64 = 2;
}

impl Drop for Lock {
    fn drop(&mut self) {
        let note = self.note_at_release();
        if note != self.note {
            // Where this fails, the next holder may collect in vain.
            let _kept = self.write_note(note);
        }
        if let Some(rank) = self.rank {
            HELD.set(HELD.get() & !(rank as u8));
        }
        // Closing the file is not enough where another process keeps it open for a successor.
        let _unlocked_when_closed = self.file.unlock();
    }
}

impl Lock {
    fn held(file: File, rank: Option<Rank>, note: u64) -> Self {
        Self { file, rank, note, is_done: true, collects_next: Cell::new(false), is_marked: false }
    }

    /// Takes the lock of the SR `uuid`.
    pub(crate) fn sr(host: &Host, uuid: &Name) -> Result<Self> {
        Self::named(host, Rank::Sr, uuid.as_str(), &format!("SR {uuid}"))
    }

    /// Takes the lock that is held while memory is promised to an SR. No SR has this name.
    pub(crate) fn promises(host: &Host) -> Result<Self> {
        Self::named(host, Rank::Promises, ".promises", "the attaching of SRs")
    }

    fn named(host: &Host, rank: Rank, name: &str, what: &str) -> Result<Self> {
        // In every build: a fault of the program is an error of the call at once, not a call that waits for
        // itself.
        assert!(HELD.get() < rank as u8, "{what}: this thread holds such a lock already");
        let directory = open_directory(&host.lock_dir)?;
        let path = host.lock_dir.join(name);
        let start = Instant::now();
        loop {
            steps::step();
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let mode = Mode::RUSR | Mode::WUSR;
            let file = rustix::fs::openat(&directory, name, flags | OFlags::CLOEXEC, mode)
                .doing("opening the lock", || &*path)?;
            let file = File::from(file);
            if !lock_within(&file, WAIT_MAX.saturating_sub(start.elapsed()))
                .doing("locking", || &*path)?
            {
                break;
            }
            // The holder before may have removed the file with the SR that it locked.
            if let Some(length) =
                length_if_named(&directory, name, &file).doing("looking up the lock", || &*path)?
            {
                HELD.set(HELD.get() | rank as u8);
                return Ok(Self::held(file, Some(rank), length));
            }
        }
        Err(Error::new(
            ErrorKind::Busy,
            format!(
                "{what} has been locked by another operation for {} s ({} is held; fuser names the \
                 process): repeat when it has ended",
                WAIT_MAX.as_secs(),
                path.display()
            ),
        ))
    }

    /// Keeps the disks that are served from freeing pages of their maps, for as long as it is held.
    ///
    /// An operation reads the index of a served volume and then the pages that it names. Between the two
    /// the disk may write a page anew and free the old one, which would read as if the volume named no
    /// blocks, and they would be freed. A disk that finds the lock held frees its pages later.
    pub(crate) fn maps(dirs: &Dirs) -> Result<Self> {
        let path = || dirs.path(Entry::Sr);
        let file = dirs.maps_lock().doing("opening the directory of", path)?;
        if lock_within(&file, WAIT_MAX).doing("locking the directory of", path)? {
            return Ok(Self::held(file, None, 0));
        }
        let sentence = format!(
            "the maps of SR {} have been locked by a tapdisk for {} s, which is stopped or hangs (fuser \
             {} names it): repeat when it goes on",
            dirs.layout().uuid(),
            WAIT_MAX.as_secs(),
            dirs.layout().directory(Directory::Meta).display()
        );
        Err(Error::new(ErrorKind::Busy, sentence))
    }

    /// Removes the file of the lock of SR `uuid`, which is destroyed, and releases the lock. Calls
    /// that wait for it find that it has lost its name, and lock a new one.
    pub(crate) fn remove_sr(self, host: &Host, uuid: &Name) -> Result<()> {
        let directory = open_directory(&host.lock_dir)?;
        steps::step();
        unlinkat(&directory, uuid.as_str(), AtFlags::empty())
            .doing("removing the lock", || host.lock_dir.join(uuid.as_str()))
    }

    /// Takes the lock of a volume, if that is possible within `patience`.
    pub(crate) fn volume(dirs: &Dirs, key: &Name, patience: Duration) -> Result<Option<Self>> {
        Self::try_volume(dirs, key, patience).map(std::result::Result::ok)
    }

    /// The same; where it is not possible, the file that another process has locked.
    pub(crate) fn try_volume(
        dirs: &Dirs,
        key: &Name,
        patience: Duration,
    ) -> Result<std::result::Result<Self, File>> {
        let entry = Entry::Serving(key);
        let file = match dirs.edit_or_create(entry) {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                // Something that is not a file cannot be locked, and so protects nothing.
                dirs.remove(entry)?;
                dirs.edit_or_create(entry)?
            }
            file => file?,
        };
        let locked = lock_within(&file, patience).doing("locking", || dirs.path(entry))?;
        Ok(if locked { Ok(Self::held(file, None, 0)) } else { Err(file) })
    }

    /// Goes on with the lock of a volume that a process had which has died since: with the file that it had
    /// locked, and that a third process has kept open. `None` where it is not locked any more, and another
    /// process has it, or where the file has lost its name.
    pub(crate) fn inherited_volume(dirs: &Dirs, key: &Name, file: File) -> Result<Option<Self>> {
        let entry = Entry::Serving(key);
        let path = || dirs.path(entry);
        let (ours, named) =
            (fstat(&file).doing("looking up", path)?, dirs.stat(entry).doing("looking up", path)?);
        if (ours.st_dev, ours.st_ino) != (named.st_dev, named.st_ino) {
            return Ok(None);
        }
        let locked = lock_within(&file, Duration::ZERO).doing("locking", path)?;
        Ok(locked.then(|| Self::held(file, None, 0)))
    }

    /// Notes, for the next holder should this one be killed, that the SR is being changed. A directory of
    /// locks that cannot be written to leaves that to the collection at the next SR.attach.
    pub(crate) fn begin(&mut self) {
        self.is_done = false;
        if self.note & note::CHANGING == 0 {
            let _unnoted = self.write_note(self.note | note::CHANGING);
        }
    }

    /// Says that the changes are complete, and nothing is left of them.
    pub(crate) fn done(&mut self) {
        self.is_done = true;
    }

    /// Has the next holder collect what is left: what other processes left behind, or cannot be freed now.
    pub(crate) fn collect_next(&self) {
        self.collects_next.set(true);
    }

    /// Says that a collection is complete.
    pub(crate) fn collected(&mut self) {
        self.is_done = true;
        self.collects_next.set(false);
    }

    /// Notes that the holder goes on after it has released the lock, under a mark, which is there.
    pub(crate) fn mark(&mut self) {
        self.is_marked = true;
    }

    fn note_at_release(&self) -> u64 {
        let marked = if self.is_marked { note::MARKED } else { self.note & note::MARKED };
        let is_left = !self.is_done || self.collects_next.get();
        marked | if is_left { note::CHANGING } else { 0 }
    }

    /// Whether a holder before was killed while it changed the SR, or while it freed memory under a mark.
    pub(crate) fn killed_before(&mut self, dirs: &Dirs) -> Result<bool> {
        let mut killed = self.note & note::CHANGING != 0;
        if self.note & note::MARKED != 0 {
            let marks = Mark::all(dirs)?;
            killed |= marks.iter().any(|mark| mark.is_left);
            if marks.is_empty() {
                let _kept = self.write_note(self.note & !note::MARKED);
            }
        }
        Ok(killed)
    }

    fn write_note(&mut self, note: u64) -> io::Result<()> {
        steps::set_len(&self.file, note)?;
        self.note = note;
        Ok(())
    }

    /// The file that is locked.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

/// Opens the directory of locks, and makes it where it is missing. No other user may write to it: a
/// user could plant links in it, and hold up every call with a lock.
fn open_directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::open(path, flags, Mode::empty());
    let directory = match open() {
        Err(Errno::NOENT) => {
            steps::make_dir(path).doing("creating", || path)?;
            open()
        }
        opened => opened,
    };
    let directory = directory.doing("opening the directory of locks", || path)?;
    let stat = fstat(&directory).doing("looking up", || path)?;
    let is_private =
        Mode::from_raw_mode(stat.st_mode).intersection(Mode::WGRP | Mode::WOTH).is_empty();
    if stat.st_uid == geteuid().as_raw() && is_private {
        return Ok(directory);
    }
    Err(Error::new(
        ErrorKind::BadArgument,
        format!(
            "the directory of locks {} belongs to user {} with mode {:o}, and must belong to user {} \
             with write permission for nobody else: remove it and repeat",
            path.display(),
            stat.st_uid,
            stat.st_mode & 0o7777,
            geteuid().as_raw()
        ),
    ))
}

/// The length of a file, if a name in a directory is that of this very file.
fn length_if_named(
    directory: &OwnedFd,
    name: &str,
    file: &File,
) -> rustix::io::Result<Option<u64>> {
    let ours = fstat(file)?;
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(named) if (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino) => {
            Ok(Some(u64::try_from(ours.st_size).unwrap_or_default()))
        }
        Ok(_) | Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Waits for an exclusive lock; `false` where it was held until the end of `patience`.
pub(crate) fn lock_within(file: &File, patience: Duration) -> io::Result<bool> {
    let start = Instant::now();
    let mut pause = Duration::from_micros(100);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // A process that only looks lets go at once: it does not count as a holder.
        let patience = if is_held(file)? { patience } else { patience.max(LOOK_MAX) };
        if start.elapsed() >= patience {
            return Ok(false);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Whether a lock has a holder. Looking takes a shared lock for a moment, so that any number of
/// processes may look at once, and none of them takes another for the holder.
pub(crate) fn is_held(file: &File) -> io::Result<bool> {
    match file.try_lock_shared() {
        Ok(()) => {
            file.unlock()?;
            Ok(false)
        }
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}
