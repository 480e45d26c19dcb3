//! A client's connection: every step of it ends before the same deadline.

use std::{
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
    time::Duration,
};

use rustix::{
    event::PollFlags,
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect,
        recv, send, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};

use crate::{
    deadline::Deadline,
    error::{Error, ErrorKind, Result},
    message::{MESSAGE_BYTES, Raw},
};

/// The longest path of a socket: `sun_path` less its NUL (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// A connected socket, with the exchange that it is for, as errors name it.
pub(crate) struct Connection {
    socket: OwnedFd,
    deadline: Deadline,
    action: &'static str,
    on: String,
}

impl Connection {
    pub(crate) fn open(
        path: &Path,
        deadline: Deadline,
        action: &'static str,
        on: String,
    ) -> Result<Self> {
        let failed = |kind, cause: io::Error| Error::new(kind, action, &on).caused_by(cause);
        let address = address(path).map_err(|cause| failed(ErrorKind::Invalid, cause))?;
        let socket = stream(SocketFlags::CLOEXEC).map_err(|cause| failed(ErrorKind::Io, cause))?;
        loop {
            // A connect to a full queue waits for as long as a send may take (socket(7)).
            let Some(remaining) = deadline.remaining() else {
                return Err(Error::new(ErrorKind::Timeout, action, &on));
            };
            // A limit of 0 would be none.
            let limit = Some(remaining.max(Duration::from_millis(1)));
            set_socket_timeout(&socket, Timeout::Send, limit)
                .map_err(|errno| failed(ErrorKind::Io, errno.into()))?;
            match connect(&socket, &address) {
                Ok(()) => return Ok(Self { socket, deadline, action, on }),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno @ (Errno::NOENT | Errno::CONNREFUSED)) => {
                    return Err(failed(ErrorKind::Gone, errno.into()));
                }
                Err(errno) => return Err(failed(ErrorKind::Io, errno.into())),
            }
        }
    }

    pub(crate) fn send(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT)?,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.lost(errno.into())),
            }
        }
        Ok(())
    }

    /// Receives exactly so many bytes.
    pub(crate) fn receive(&mut self, mut buffer: &mut [u8]) -> Result<()> {
        while !buffer.is_empty() {
            match recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
                Ok((received, _)) => buffer = &mut buffer[received..],
                Err(Errno::AGAIN) => self.wait(PollFlags::IN)?,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.lost(errno.into())),
            }
        }
        Ok(())
    }

    pub(crate) fn receive_message(&mut self) -> Result<Raw> {
        let mut bytes = [0; MESSAGE_BYTES];
        self.receive(&mut bytes)?;
        Ok(Raw::from_bytes(bytes))
    }

    fn wait(&self, events: PollFlags) -> Result<()> {
        match self.deadline.wait(&self.socket, events) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::new(ErrorKind::Timeout, self.action, &self.on)),
            Err(cause) => Err(Error::new(ErrorKind::Io, self.action, &self.on).caused_by(cause)),
        }
    }

    /// The tapdisk closed the connection, or died, before it had answered.
    fn lost(&self, cause: io::Error) -> Error {
        Error::new(ErrorKind::Lost, self.action, &self.on).caused_by(cause)
    }
}

/// Whether a process listens on a socket; sends nothing and never waits.
pub(crate) fn probe(path: &Path) -> io::Result<()> {
    let socket = stream(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    Ok(connect(socket, &address(path)?)?)
}

/// A unix stream socket.
pub(crate) fn stream(flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

/// The address of a socket's file, where the path is short enough for every client.
pub(crate) fn address(path: &Path) -> io::Result<SocketAddrUnix> {
    if path.as_os_str().as_bytes().len() > SOCKET_PATH_BYTES_MAX {
        return Err(Errno::NAMETOOLONG.into());
    }
    Ok(SocketAddrUnix::new(path)?)
}
