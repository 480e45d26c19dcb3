//! The four sockets of a VBD (`drivers/tapdisk-nbdserver.c`, `drivers/tapdisk-fdreceiver.c` of blktap).
//!
//! Clients connect to two of them. To the other two connects a process that passes on a connection that
//! it has, by SCM_RIGHTS (unix(7)): xapi does so with an import. Invariant: the names exist as long as
//! this process listens on them.

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use block::Interest;
use tapctl::{ControlDir, Minor};

use crate::poll::{Endpoint, Source, Sources, VbdKey, Watched};

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
pub(crate) struct Listeners([Watched<Listening>; 4]);

impl Listeners {
    /// Listens on each of them, and accepts from now on. A name that exists already was left by a dead
    /// process that had the same pid.
    pub(crate) fn open(
        sources: &Sources,
        dir: &ControlDir,
        vbd: VbdKey,
        minor: Minor,
    ) -> io::Result<Self> {
        let open = |endpoint: Endpoint| {
            let listening = Listening::open(path(endpoint, dir, minor))?;
            sources.watch(listening, Source::Listener(vbd, endpoint), READABLE)
        };
        // In the order of Endpoint::ALL. Where one fails, those before it are closed again.
        Ok(Self([
            open(Endpoint::Nbd)?,
            open(Endpoint::NbdOld)?,
            open(Endpoint::Receiver)?,
            open(Endpoint::ReceiverNew)?,
        ]))
    }

    pub(crate) fn get(&self, endpoint: Endpoint) -> &Listening {
        &self.0[endpoint as usize]
    }

    /// Listens again under each name that something has removed; whether one was. Connections that were
    /// not accepted yet are lost.
    pub(crate) fn restore(&mut self) -> io::Result<bool> {
        let mut restored = false;
        for watched in &mut self.0 {
            if watched.path.symlink_metadata().is_err() {
                watched.replace(|listening| {
                    listening.listener = listen(&listening.path)?;
                    io::Result::Ok(())
                })?;
                restored = true;
            }
        }
        Ok(restored)
    }

    /// Accepts clients from now on, or leaves them in the queues of the kernel.
    pub(crate) fn set_accepting(&mut self, accepting: bool) -> io::Result<()> {
        let interest = if accepting { READABLE } else { NOTHING };
        self.0.iter_mut().try_for_each(|listener| listener.wait_for(interest))
    }
}

fn path(endpoint: Endpoint, dir: &ControlDir, minor: Minor) -> PathBuf {
    let pid = std::process::id();
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
