//! The four sockets of a VBD (`drivers/tapdisk-nbdserver.c`, `drivers/tapdisk-fdreceiver.c` of blktap).
//!
//! Clients connect to two of them. To the other two connects a process that passes on a connection that
//! it has, by SCM_RIGHTS (unix(7)): xapi does so with an import. Invariant: the names exist as long as
//! this process listens on them.

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use block::Interest;
use tapctl::{ControlDir, Minor};

use crate::{
    kept::{Group, Keeper},
    poll::{Endpoint, Source, Sources, VbdKey, Watched},
};

const READABLE: Interest = Interest { readable: true, writable: false };
const NOTHING: Interest = Interest { readable: false, writable: false };

/// A socket that accepts connections. Dropping it removes its name.
#[derive(Debug)]
pub(crate) struct Listening {
    listener: UnixListener,
    path: PathBuf,
}

/// All sockets of a VBD.
#[derive(Debug)]
pub(crate) struct Listeners {
    /// In the order of [`ENDPOINTS`].
    sockets: [Watched<Listening>; 4],
    /// They, as the keeper holds them.
    group: Group,
}

/// Where the sockets of a VBD are, who waits for them, and who keeps them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) sources: &'a Sources,
    pub(crate) keeper: &'a Keeper,
    pub(crate) dir: &'a ControlDir,
    /// The number in their names.
    pub(crate) pid: u32,
    pub(crate) vbd: VbdKey,
    pub(crate) minor: Minor,
}

const ENDPOINTS: [Endpoint; 4] =
    [Endpoint::Nbd, Endpoint::NbdOld, Endpoint::Receiver, Endpoint::ReceiverNew];

impl Listeners {
    /// Listens on each of them, and accepts from now on. A name that exists already was left by a dead
    /// process that had the same pid.
    pub(crate) fn open(place: Place<'_>) -> io::Result<Self> {
        let Place { dir, pid, minor, .. } = place;
        let open = |endpoint| Listening::open(path(endpoint, dir, pid, minor));
        let sockets = Self::watch_all(place, open)?;
        let group = keep(place.keeper, &sockets)?;
        Ok(Self { sockets, group })
    }

    /// Goes on with the sockets of a process that has died, and accepts those who have connected meanwhile.
    pub(crate) fn inherited(
        place: Place<'_>,
        group: Group,
        descriptors: Vec<OwnedFd>,
    ) -> io::Result<Self> {
        let mut descriptors = descriptors.into_iter();
        let sockets = Self::watch_all(place, |endpoint| {
            let socket = descriptors.next().ok_or(io::ErrorKind::NotFound)?;
            let path = path(endpoint, place.dir, place.pid, place.minor);
            Ok(Listening { listener: socket.into(), path })
        })?;
        Ok(Self { sockets, group })
    }

    /// Waits for clients at each. Where one fails, those before it are closed again.
    fn watch_all(
        place: Place<'_>,
        mut make: impl FnMut(Endpoint) -> io::Result<Listening>,
    ) -> io::Result<[Watched<Listening>; 4]> {
        let mut watch = |endpoint: Endpoint| {
            let source = Source::Listener(place.vbd, endpoint);
            place.sources.watch(make(endpoint)?, source, READABLE)
        };
        let [first, second, third, fourth] = ENDPOINTS;
        Ok([watch(first)?, watch(second)?, watch(third)?, watch(fourth)?])
    }

    /// Removes the names that a dead process has left which was about to open or close a disk.
    pub(crate) fn remove_names(dir: &ControlDir, pid: u32, minor: Minor) {
        for endpoint in ENDPOINTS {
            let _not_there = fs::remove_file(path(endpoint, dir, pid, minor));
        }
    }

    pub(crate) fn get(&self, endpoint: Endpoint) -> &Listening {
        &self.sockets[endpoint as usize]
    }

    /// The number of the sockets with the keeper.
    pub(crate) fn group(&self) -> u32 {
        self.group.number()
    }

    /// Listens again under each name that something has removed; whether one was. Connections that were
    /// not accepted yet are lost.
    pub(crate) fn restore(&mut self, keeper: &Keeper) -> io::Result<bool> {
        let mut restored = false;
        for watched in &mut self.sockets {
            if watched.path.symlink_metadata().is_err() {
                watched.replace(|listening| {
                    listening.listener = listen(&listening.path)?;
                    io::Result::Ok(())
                })?;
                restored = true;
            }
        }
        if restored {
            self.group = keep(keeper, &self.sockets)?;
        }
        Ok(restored)
    }

    /// Accepts clients from now on, or leaves them in the queues of the kernel.
    pub(crate) fn set_accepting(&mut self, accepting: bool) -> io::Result<()> {
        let interest = if accepting { READABLE } else { NOTHING };
        self.sockets.iter_mut().try_for_each(|listener| listener.wait_for(interest))
    }
}

fn keep(keeper: &Keeper, sockets: &[Watched<Listening>; 4]) -> io::Result<Group> {
    keeper.keep(&sockets.each_ref().map(AsFd::as_fd))
}

fn path(endpoint: Endpoint, dir: &ControlDir, pid: u32, minor: Minor) -> PathBuf {
    match endpoint {
        Endpoint::Nbd => dir.nbd(pid, minor),
        Endpoint::NbdOld => dir.nbd_old(pid, minor),
        Endpoint::Receiver => dir.nbdserver(pid, minor),
        Endpoint::ReceiverNew => dir.nbdserver_new(pid, minor),
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
        // A client must not find a name that leads nowhere.
        let _removed_already = fs::remove_file(&self.path);
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
