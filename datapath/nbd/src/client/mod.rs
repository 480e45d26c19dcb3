//! A small blocking client: for tests, benchmarks and copying a disk.
//!
//! [`Client`] does one request at a time. Callers that want more of them in flight, or malformed
//! ones, use [`Client::submit`] and [`Client::receive`], or the socket itself.

mod handshake;

use std::{
    fmt,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use handshake::array;
pub use handshake::{greet, info_request, meta_query, option, receive_option_reply, send_option};

use block::StatusExtent;

use crate::{
    errno::Errno,
    wire::{
        self, BASE_ALLOCATION, PAYLOAD_BYTES_MAX, chunk, client_flag, command, command_flag, info,
        option, state,
    },
};

/// The longest reply that is believed, in bytes.
const REPLY_BYTES_MAX: u32 = PAYLOAD_BYTES_MAX + 4096;

/// Why a request or a handshake has failed.
#[derive(Debug)]
pub enum Error {
    /// The socket failed, or the server has closed it.
    Socket(io::Error),
    /// The server has answered with an error.
    Refused(Errno, String),
    /// The server has refused an option.
    Option(u32, String),
    /// The server broke the protocol.
    Protocol(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(_) => f.write_str("NBD socket"),
            Self::Refused(errno, message) if message.is_empty() => write!(f, "NBD: {errno}"),
            Self::Refused(errno, message) => write!(f, "NBD: {errno}: {message}"),
            Self::Option(code, message) => write!(f, "NBD option refused: {code:#x} {message}"),
            Self::Protocol(what) => write!(f, "NBD server breaks the protocol: {what}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Socket(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Socket(error)
    }
}

/// Result of what a client does.
pub type Result<T> = std::result::Result<T, Error>;

/// The features to negotiate.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Name of the export.
    pub name: &'a [u8],
    /// Structured replies.
    pub structured: bool,
    /// `base:allocation`, which needs structured replies.
    pub allocation: bool,
}

impl Default for Wish<'_> {
    fn default() -> Self {
        Self { name: b"", structured: true, allocation: true }
    }
}

/// A message of the transmission phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A simple reply; data that follows it is not received yet.
    Simple {
        /// The request's.
        cookie: u64,
        /// The error, if the request failed.
        error: Option<Errno>,
    },
    /// A chunk of a structured reply.
    Chunk {
        /// The request's.
        cookie: u64,
        /// Whether it is the last one.
        done: bool,
        /// See [`wire::chunk`].
        kind: u16,
        /// The bytes behind the head of the chunk.
        payload: Vec<u8>,
    },
}

/// A connection to a server, past the handshake.
#[derive(Debug)]
pub struct Client {
    socket: UnixStream,
    size: u64,
    flags: u16,
    structured: bool,
    allocation: bool,
    cookie: u64,
}

/// The number at the front of `bytes`.
fn number32(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().copied().map(u32::from_be_bytes)
}

impl Client {
    /// Connects to a socket and negotiates.
    ///
    /// # Errors
    /// Where there is no server, or it refuses.
    pub fn connect(path: impl AsRef<Path>, wish: &Wish<'_>) -> Result<Self> {
        Self::negotiate(UnixStream::connect(path)?, wish)
    }

    /// Negotiates on a socket that is connected.
    ///
    /// # Errors
    /// Where the server refuses.
    pub fn negotiate(socket: UnixStream, wish: &Wish<'_>) -> Result<Self> {
        greet(&socket, client_flag::FIXED_NEWSTYLE | client_flag::NO_ZEROES)?;
        if wish.structured {
            option(&socket, option::STRUCTURED_REPLY, &[])?;
        }
        let mut allocation = false;
        if wish.allocation {
            let query = meta_query(wish.name, &[BASE_ALLOCATION]);
            allocation = !option(&socket, option::SET_META_CONTEXT, &query)?.is_empty();
        }
        let replies = option(&socket, option::GO, &info_request(wish.name, &[info::BLOCK_SIZE]))?;
        let export = replies
            .iter()
            .filter_map(|(_, data)| <&[u8; wire::InfoExport::BYTES]>::try_from(&**data).ok())
            .map(wire::InfoExport::from_bytes)
            .find(|info| info.kind == info::EXPORT)
            .ok_or(Error::Protocol("no information about the export"))?;
        Ok(Self {
            socket,
            size: export.size,
            flags: export.flags,
            structured: wish.structured,
            allocation,
            cookie: 0,
        })
    }

    /// Receives the greeting of an old-style server.
    ///
    /// # Errors
    /// Those of the socket, and another greeting.
    pub fn old_style(socket: UnixStream) -> Result<Self> {
        let greeting = wire::OldGreeting::from_bytes(&array(&socket)?);
        let _zeroes: [u8; wire::RESERVED_ZEROES] = array(&socket)?;
        if greeting.magic != wire::GREETING_MAGIC || greeting.style != wire::OLD_STYLE_MAGIC {
            return Err(Error::Protocol("not an old-style server"));
        }
        Ok(Self {
            socket,
            size: greeting.size,
            // The upper half is reserved.
            flags: greeting.flags as u16,
            structured: false,
            allocation: false,
            cookie: 0,
        })
    }

    /// Size of the export in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// See [`wire::transmission_flag`].
    #[must_use]
    pub fn flags(&self) -> u16 {
        self.flags
    }

    /// The socket, for what this client does not do.
    #[must_use]
    pub fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Reads.
    ///
    /// # Errors
    /// Where the server refuses or breaks the protocol.
    pub fn read(&mut self, offset: u64, length: u32) -> Result<Vec<u8>> {
        self.read_with(0, offset, length)
    }

    /// Reads with the flags of [`wire::command_flag`].
    ///
    /// # Errors
    /// Where the server refuses or breaks the protocol.
    pub fn read_with(&mut self, flags: u16, offset: u64, length: u32) -> Result<Vec<u8>> {
        let cookie = self.submit(flags, command::READ, offset, length, &[])?;
        self.finish_read(cookie, offset, length)
    }

    /// Receives the reply to a read that was submitted.
    ///
    /// # Errors
    /// Where the server refuses or breaks the protocol.
    pub fn finish_read(&mut self, cookie: u64, offset: u64, length: u32) -> Result<Vec<u8>> {
        let mut data = vec![0; length as usize];
        let mut covered = 0;
        loop {
            let chunk = self.receive_for(cookie)?;
            let Reply::Chunk { done, kind, payload, .. } = chunk else {
                if self.structured {
                    return Err(Error::Protocol("a simple reply to a structured read"));
                }
                self.socket.read_exact(&mut data)?;
                return Ok(data);
            };
            if kind != chunk::NONE {
                covered += place(&mut data, offset, kind, &payload)?;
            }
            if done && covered == data.len() {
                return Ok(data);
            }
            if done {
                return Err(Error::Protocol("not all of what was read"));
            }
        }
    }

    /// Writes, with flags of [`wire::command_flag`].
    ///
    /// # Errors
    /// Where the server refuses.
    pub fn write_with(&mut self, flags: u16, offset: u64, data: &[u8]) -> Result<()> {
        let length = u32::try_from(data.len()).map_err(|_| Error::Protocol("write too long"))?;
        let cookie = self.submit(flags, command::WRITE, offset, length, data)?;
        self.finish(cookie)
    }

    /// Writes.
    ///
    /// # Errors
    /// Where the server refuses.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.write_with(0, offset, data)
    }

    /// Writes zeroes; `keep_allocated` asks the server to keep the range allocated.
    ///
    /// # Errors
    /// Where the server refuses.
    pub fn write_zeroes(&mut self, offset: u64, length: u32, keep_allocated: bool) -> Result<()> {
        let flags = if keep_allocated { command_flag::NO_HOLE } else { 0 };
        self.command(flags, command::WRITE_ZEROES, offset, length)
    }

    /// Gives a range up.
    ///
    /// # Errors
    /// Where the server refuses.
    pub fn trim(&mut self, offset: u64, length: u32) -> Result<()> {
        self.command(0, command::TRIM, offset, length)
    }

    /// Makes everything acknowledged permanent.
    ///
    /// # Errors
    /// Where the server refuses.
    pub fn flush(&mut self) -> Result<()> {
        self.command(0, command::FLUSH, 0, 0)
    }

    /// A command without payload in either direction.
    ///
    /// # Errors
    /// Where the server refuses.
    pub fn command(&mut self, flags: u16, code: u16, offset: u64, length: u32) -> Result<()> {
        let cookie = self.submit(flags, code, offset, length, &[])?;
        self.finish(cookie)
    }

    /// The allocation status of the blocks of a range.
    ///
    /// # Errors
    /// Where the server refuses or `base:allocation` was not negotiated.
    pub fn status(&mut self, offset: u64, length: u32, one: bool) -> Result<Vec<StatusExtent>> {
        if !self.allocation {
            return Err(Error::Protocol("base:allocation was not negotiated"));
        }
        let flags = if one { command_flag::REQ_ONE } else { 0 };
        let cookie = self.submit(flags, command::BLOCK_STATUS, offset, length, &[])?;
        let reply = self.receive_for(cookie)?;
        let Reply::Chunk { done: true, kind: chunk::BLOCK_STATUS, payload, .. } = reply else {
            return Err(Error::Protocol("not a status"));
        };
        let descriptors = payload.get(4..).unwrap_or_default().chunks_exact(8);
        if descriptors.len() == 0 || !descriptors.remainder().is_empty() {
            return Err(Error::Protocol("a malformed status"));
        }
        Ok(descriptors
            .filter_map(|bytes| bytes.try_into().ok().map(wire::Descriptor::from_bytes))
            .map(|descriptor| StatusExtent {
                length: descriptor.length.into(),
                hole: descriptor.flags & state::HOLE != 0,
                zero: descriptor.flags & state::ZERO != 0,
            })
            .collect())
    }

    /// Takes leave and waits until the server has closed the socket.
    ///
    /// # Errors
    /// Where the server sends something else than the end.
    pub fn disconnect(mut self) -> Result<()> {
        self.submit(0, command::DISC, 0, 0, &[])?;
        let mut rest = [0; 1];
        match self.socket.read(&mut rest)? {
            0 => Ok(()),
            _ => Err(Error::Protocol("something follows the end")),
        }
    }

    /// Sends a request and does not wait. Returns its cookie.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn submit(
        &mut self,
        flags: u16,
        command: u16,
        offset: u64,
        length: u32,
        payload: &[u8],
    ) -> Result<u64> {
        self.cookie += 1;
        let cookie = self.cookie;
        let magic = wire::REQUEST_MAGIC;
        let head = wire::Request { magic, flags, command, cookie, offset, length };
        self.socket.write_all(&head.to_bytes())?;
        self.socket.write_all(payload)?;
        Ok(cookie)
    }

    /// Receives the next message, whatever request it belongs to.
    ///
    /// # Errors
    /// Errors of the socket, and bytes that are no reply.
    pub fn receive(&mut self) -> Result<Reply> {
        let magic: [u8; 4] = array(&self.socket)?;
        match u32::from_be_bytes(magic) {
            wire::SIMPLE_REPLY_MAGIC => {
                let rest: [u8; 12] = array(&self.socket)?;
                let mut bytes = [0; wire::SimpleReply::BYTES];
                bytes[4..].copy_from_slice(&rest);
                let reply = wire::SimpleReply::from_bytes(&bytes);
                Ok(Reply::Simple { cookie: reply.cookie, error: Errno::from_code(reply.error) })
            }
            wire::CHUNK_MAGIC => {
                let rest: [u8; 16] = array(&self.socket)?;
                let mut bytes = [0; wire::Chunk::BYTES];
                bytes[4..].copy_from_slice(&rest);
                let head = wire::Chunk::from_bytes(&bytes);
                if head.length > REPLY_BYTES_MAX {
                    return Err(Error::Protocol("endless chunk"));
                }
                let mut payload = vec![0; head.length as usize];
                self.socket.read_exact(&mut payload)?;
                Ok(Reply::Chunk {
                    cookie: head.cookie,
                    done: head.flags & chunk::DONE != 0,
                    kind: head.kind,
                    payload,
                })
            }
            _ => Err(Error::Protocol("a reply without its magic")),
        }
    }

    /// Receives the reply to a request without data.
    ///
    /// # Errors
    /// Where the server refuses or breaks the protocol.
    pub fn finish(&mut self, cookie: u64) -> Result<()> {
        match self.receive_for(cookie)? {
            Reply::Simple { .. } | Reply::Chunk { done: true, kind: chunk::NONE, .. } => Ok(()),
            Reply::Chunk { .. } => Err(Error::Protocol("data that nobody asked for")),
        }
    }

    /// Receives a message of that request which is no error.
    fn receive_for(&mut self, wanted: u64) -> Result<Reply> {
        let reply = self.receive()?;
        let cookie = match &reply {
            Reply::Simple { cookie, .. } | Reply::Chunk { cookie, .. } => *cookie,
        };
        if cookie != wanted {
            return Err(Error::Protocol("a reply to another request"));
        }
        match &reply {
            Reply::Simple { error: Some(errno), .. } => Err(Error::Refused(*errno, String::new())),
            Reply::Chunk { kind, payload, .. } if kind & chunk::ERROR_BIT != 0 => {
                let errno = number32(payload).and_then(Errno::from_code);
                let message = String::from_utf8_lossy(payload.get(6..).unwrap_or_default());
                Err(Error::Refused(errno.unwrap_or(Errno::EINVAL), message.into_owned()))
            }
            _ => Ok(reply),
        }
    }
}

/// Puts a content chunk where it belongs. Returns how many bytes it covers.
fn place(data: &mut [u8], start: u64, kind: u16, payload: &[u8]) -> Result<usize> {
    const BAD: Error = Error::Protocol("a malformed content chunk");
    let (offset, rest) = payload.split_first_chunk::<8>().ok_or(BAD)?;
    let at = u64::from_be_bytes(*offset).checked_sub(start).ok_or(BAD)? as usize;
    let rest = data.get_mut(at..).zip(Some(rest)).ok_or(BAD)?;
    match (kind, rest) {
        (chunk::OFFSET_DATA, (room, bytes)) => {
            room.get_mut(..bytes.len()).ok_or(BAD)?.copy_from_slice(bytes);
            Ok(bytes.len())
        }
        (chunk::OFFSET_HOLE, (room, bytes)) => {
            let count = number32(bytes).ok_or(BAD)? as usize;
            room.get_mut(..count).ok_or(BAD)?.fill(0);
            Ok(count)
        }
        _ => Err(BAD),
    }
}
