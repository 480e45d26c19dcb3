//! A client with one request at a time. It uses NBD_OPT_EXPORT_NAME alone, which every server has to
//! offer: that is what xapi's own clients use.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use super::{GREETING, OLD_STYLE, OPTION, REPLY, REQUEST, command, flag, option};

/// A server that does not answer for this long is taken for a hanging one.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to an export.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    size: u64,
    flags: u16,
    handle: u64,
}

impl Client {
    /// Connects to a socket and chooses an export.
    ///
    /// # Errors
    /// Where nothing listens there, or that is no NBD server.
    pub fn connect(socket: &Path, export: &str) -> io::Result<Self> {
        Self::on(UnixStream::connect(socket)?, export)
    }

    /// Takes a connection that is there already.
    ///
    /// # Errors
    /// Where the other end is no NBD server.
    pub fn on(mut stream: UnixStream, export: &str) -> io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        if number(&mut stream)? != GREETING {
            return Err(io::Error::other("the server does not begin with NBDMAGIC"));
        }
        match number(&mut stream)? {
            OLD_STYLE => {
                let size = number(&mut stream)?;
                let mut rest = [0; 128];
                stream.read_exact(&mut rest)?;
                let flags = u16::from_be_bytes([rest[2], rest[3]]);
                return Ok(Self { stream, size, flags, handle: 0 });
            }
            OPTION => {}
            _ => return Err(io::Error::other("the handshake is neither newstyle nor oldstyle")),
        }
        let mut handshake = [0; 2];
        stream.read_exact(&mut handshake)?;
        let no_zeroes = handshake[1] & 2;
        let length = u32::try_from(export.len()).map_err(io::Error::other)?;
        let mut hello = u32::from(1 | no_zeroes).to_be_bytes().to_vec();
        hello.extend(OPTION.to_be_bytes());
        hello.extend(option::EXPORT_NAME.to_be_bytes());
        hello.extend(length.to_be_bytes());
        hello.extend(export.as_bytes());
        stream.write_all(&hello)?;
        let size = number(&mut stream).map_err(|error| {
            io::Error::other(format!("the server refused the export {export:?}: {error}"))
        })?;
        let mut flags = [0; 2];
        stream.read_exact(&mut flags)?;
        if no_zeroes == 0 {
            stream.read_exact(&mut [0; 124])?;
        }
        Ok(Self { stream, size, flags: u16::from_be_bytes(flags), handle: 0 })
    }

    /// The size of the export.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether the export says that it cannot be written.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.flags & flag::READ_ONLY != 0
    }

    /// Reads.
    ///
    /// # Errors
    /// Those of the server and of the connection.
    pub fn read(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.request(command::READ, offset, bytes.len(), &[])?;
        self.stream.read_exact(bytes)
    }

    /// Writes.
    ///
    /// # Errors
    /// Those of the server and of the connection.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.request(command::WRITE, offset, bytes.len(), bytes)
    }

    /// Flushes, where the server offers it.
    ///
    /// # Errors
    /// Those of the server and of the connection.
    pub fn flush(&mut self) -> io::Result<()> {
        match self.flags & flag::SEND_FLUSH {
            0 => Ok(()),
            _ => self.request(command::FLUSH, 0, 0, &[]),
        }
    }

    fn request(&mut self, kind: u16, offset: u64, length: usize, data: &[u8]) -> io::Result<()> {
        self.handle += 1;
        let length = u32::try_from(length).map_err(io::Error::other)?;
        let mut request = header(kind, self.handle, offset, length);
        request.extend(data);
        self.stream.write_all(&request)?;
        let mut reply = [0; 16];
        self.stream.read_exact(&mut reply)?;
        let word = |at: usize| u32::from_be_bytes(reply[at..at + 4].try_into().expect("4 bytes"));
        if word(0) != REPLY || reply[8..] != self.handle.to_be_bytes() {
            return Err(io::Error::other("the reply is not one to this request"));
        }
        match word(4) {
            0 => Ok(()),
            number => Err(io::Error::from_raw_os_error(number.cast_signed())),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // A server that has ended needs no goodbye.
        let _ended = self.stream.write_all(&header(command::DISC, 0, 0, 0));
    }
}

fn header(kind: u16, handle: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = REQUEST.to_be_bytes().to_vec();
    bytes.extend([0, 0]);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(handle.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes
}

fn number(stream: &mut UnixStream) -> io::Result<u64> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}
