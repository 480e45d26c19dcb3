//! Opening a disk: a volume whose lock another process may hold for a moment, or a plain file, which a
//! thread loads into memory.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, TryRecvError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use block::Interest;
use rustix::{
    event::{EventfdFlags, eventfd},
    fd::OwnedFd,
    io::Errno,
};
use store::{Disk, ErrorKind, Loaded, Open, Serving};
use tapctl::Failure;

use crate::{
    poll::{Source, Sources, VbdKey, Watched},
    volume::{Volume, failure, is_volume, path_of},
};

/// How long the lock of a volume is waited for: an operation on the volume may just be finishing.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// The time between two tries.
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// The disk to open, and the VBD to open it for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted<'a> {
    /// `<type>:<path>`.
    pub(crate) params: &'a str,
    /// What the process says of itself, and whether writes are refused.
    pub(crate) serving: Serving,
    pub(crate) vbd: VbdKey,
}

/// A disk that is being opened. Dropping it gives up.
#[derive(Debug)]
pub(crate) struct Opening {
    params: String,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Volume { path: PathBuf, open: Open, until: Instant, next: Instant },
    File(Loading),
}

impl Opening {
    /// Begins; a volume that is free is there at the first [`Self::poll`].
    pub(crate) fn start(wanted: Wanted<'_>, sources: &Sources) -> Result<Self, Failure> {
        let path = path_of(wanted.params)?;
        let way = if is_volume(path) {
            let serving = wanted.serving;
            let now = Instant::now();
            let (path, open) = (path.to_owned(), Open { serving });
            Way::Volume { path, open, until: now + LOCK_TIMEOUT, next: now }
        } else {
            Way::File(Loading::start(path, wanted.serving.read_only, wanted.vbd, sources)?)
        };
        Ok(Self { params: wanted.params.to_owned(), way })
    }

    /// The disk that is being opened: `<type>:<path>`.
    pub(crate) fn params(&self) -> &str {
        &self.params
    }

    /// The disk, once it is open, or the reason why it cannot be opened.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Result<Volume, Failure>> {
        match &mut self.way {
            Way::Volume { next, .. } if now < *next => None,
            Way::Volume { path, open, until, next } => match Disk::try_open(path, open) {
                Err(error) if error.kind() == ErrorKind::VolumeInUse && now < *until => {
                    *next = now + LOCK_RETRY;
                    None
                }
                opened => Some(opened.map(Volume::of_sr).map_err(|error| failure(&error))),
            },
            Way::File(loading) => loading.poll(),
        }
    }

    /// When to poll again where no event tells of it.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        match &self.way {
            Way::Volume { next, .. } => Some(*next),
            Way::File(_) => None,
        }
    }
}

/// A file that a thread reads into memory: reading may take long, or never end where the file lies on a
/// file system that does not answer.
#[derive(Debug)]
struct Loading {
    cancelled: Arc<AtomicBool>,
    result: Receiver<store::Result<Loaded>>,
    /// Readable when the thread is done.
    _done: Watched<OwnedFd>,
}

impl Loading {
    fn start(
        path: &Path,
        read_only: bool,
        vbd: VbdKey,
        sources: &Sources,
    ) -> Result<Self, Failure> {
        let failed = |error: io::Error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            Failure::new(errno, format!("loading {}: {error}", path.display()))
        };
        let done = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let done = done.map_err(|errno| failed(errno.into()))?;
        let tell = done.try_clone().map_err(failed)?;
        let readable = Interest { readable: true, writable: false };
        let done = sources.watch(done, Source::Opening(vbd), readable).map_err(failed)?;
        let cancelled = Arc::new(AtomicBool::new(false));
        let (sender, result) = channel();
        let (path_of_thread, stop) = (path.to_owned(), Arc::clone(&cancelled));
        let load = move || {
            // The receiver is gone where the opening was given up.
            let _given_up = sender.send(Loaded::read(&path_of_thread, read_only, &stop));
            let _told = rustix::io::write(&tell, &1u64.to_ne_bytes());
        };
        thread::Builder::new().name("load".into()).spawn(load).map_err(failed)?;
        Ok(Self { cancelled, result, _done: done })
    }

    fn poll(&mut self) -> Option<Result<Volume, Failure>> {
        let loaded = match self.result.try_recv() {
            Ok(loaded) => loaded,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => {
                return Some(Err(Failure::new(
                    Errno::IO,
                    "the thread that loads the file has died",
                )));
            }
        };
        let disk = loaded.and_then(Disk::try_from);
        Some(disk.map(Volume::loaded).map_err(|error| failure(&error)))
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}
