//! An event channel: a pipe with a name for each direction.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt,
    },
    path::PathBuf,
};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

/// Events taken at a time. More than one says no more than one.
const EVENTS_MAX: usize = 4096;

/// One end of an event channel.
#[derive(Debug)]
pub(super) struct Events {
    incoming: File,
    outgoing: File,
}

impl Events {
    /// Makes the pipes, where they are not there.
    pub(super) fn create(paths: &[PathBuf; 2]) -> io::Result<()> {
        for path in paths {
            match mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Opens both directions. The other end need not be there.
    pub(super) fn open([incoming, outgoing]: [PathBuf; 2]) -> io::Result<Self> {
        let open = |path: PathBuf| {
            let flags = OFlags::NONBLOCK.bits() as i32;
            OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
        };
        Ok(Self { incoming: open(incoming)?, outgoing: open(outgoing)? })
    }

    /// Tells the other end. If it has not taken events for long, it still has one to take.
    pub(super) fn notify(&self) -> io::Result<()> {
        match (&self.outgoing).write(&[1]) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes the events that have come; whether there were any.
    pub(super) fn take(&self) -> io::Result<bool> {
        let mut events = [0; EVENTS_MAX];
        match (&self.incoming).read(&mut events) {
            Ok(count) => Ok(count > 0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.incoming.as_fd()
    }
}
