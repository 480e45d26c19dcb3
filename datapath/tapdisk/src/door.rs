//! The four sockets of a VBD, through which its clients come (`drivers/tapdisk-nbdserver.c`,
//! `drivers/tapdisk-fdreceiver.c` of blktap).
//!
//! At two of them a client connects; at the other two somebody connects who passes on a connection
//! that he has, by SCM_RIGHTS (unix(7)): xapi does so with an import. Invariant: the names exist
//! for as long as somebody listens on them.

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use tapctl::{ControlDir, Minor};

/// One of the ways in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// `nbd<pid>.<minor>`: fixed newstyle.
    Nbd,
    /// `nbd-old<pid>.<minor>`: fixed newstyle as well, whatever its name says.
    NbdOld,
    /// `nbdserver<pid>.<minor>`: descriptors of connections, to be greeted in the old style.
    Receiver,
    /// `nbdserver-new<pid>.<minor>`: descriptors of connections, to be greeted in the new style.
    ReceiverNew,
}

/// Which of a VBD's two NBD servers, as blktap counts them, a client is one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Counted in the statistics `nbd-<minor>`.
    New,
    /// Counted in the statistics `nbd-old-<minor>`.
    Old,
}

impl Door {
    pub(crate) const ALL: [Self; 4] = [Self::Nbd, Self::NbdOld, Self::Receiver, Self::ReceiverNew];

    fn path(self, dir: &ControlDir, minor: Minor) -> PathBuf {
        let pid = std::process::id();
        match self {
            Self::Nbd => dir.nbd(pid, minor),
            Self::NbdOld => dir.nbd_old(pid, minor),
            Self::Receiver => dir.nbdserver(pid, minor),
            Self::ReceiverNew => dir.nbdserver_new(pid, minor),
        }
    }

    /// Whether connections are passed on here.
    pub(crate) fn receives(self) -> bool {
        matches!(self, Self::Receiver | Self::ReceiverNew)
    }

    /// Whose requests those of its clients are.
    pub(crate) fn side(self) -> Side {
        match self {
            Self::Nbd | Self::ReceiverNew => Side::New,
            Self::NbdOld | Self::Receiver => Side::Old,
        }
    }
}

/// A door that somebody listens at.
#[derive(Debug)]
pub(crate) struct Listening {
    listener: UnixListener,
    path: PathBuf,
}

/// All doors of a VBD. Dropping them removes their names.
#[derive(Debug)]
pub(crate) struct Doors([Listening; 4]);

impl Doors {
    /// Listens at each of them. A name that is there already was left by a dead process that had
    /// the number before.
    pub(crate) fn open(dir: &ControlDir, minor: Minor) -> io::Result<Self> {
        let open = |door: Door| Listening::open(door.path(dir, minor));
        // In the order of Door::ALL. Where one fails, those before it are closed again.
        Ok(Self([
            open(Door::Nbd)?,
            open(Door::NbdOld)?,
            open(Door::Receiver)?,
            open(Door::ReceiverNew)?,
        ]))
    }

    pub(crate) fn get(&self, door: Door) -> &Listening {
        &self.0[door as usize]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Door, &Listening)> {
        Door::ALL.into_iter().zip(&self.0)
    }
}

impl Listening {
    fn open(path: PathBuf) -> io::Result<Self> {
        let listener = listen(&path).map_err(|error| {
            io::Error::new(error.kind(), format!("listening on {}: {error}", path.display()))
        })?;
        Ok(Self { listener, path })
    }

    /// Accepts a connection, if one is waiting.
    pub(crate) fn accept(&self) -> io::Result<Option<UnixStream>> {
        loop {
            match self.listener.accept() {
                Ok((socket, _)) => {
                    socket.set_nonblocking(true)?;
                    return Ok(Some(socket));
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(None),
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => return Err(error),
                },
            }
        }
    }
}

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // Nobody is to find a socket that nobody listens on.
        let _gone_already = fs::remove_file(&self.path);
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
