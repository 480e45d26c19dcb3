//! A server of one file for one connection, which takes any export name.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::{fs::FileExt, net::UnixStream},
};

use super::{GREETING, OPTION, OPTION_REPLY, REPLY, REQUEST, command, flag, option};

/// Replies to options.
const ACK: u32 = 1;
const INFO: u32 = 3;
const UNSUPPORTED: u32 = 0x8000_0001;
/// NBD_EPERM and NBD_EINVAL.
const EPERM: u32 = 1;
const EINVAL: u32 = 22;
/// The longest request.
const LENGTH_MAX: u32 = 32 << 20;

/// Serves a file until the client disconnects.
///
/// # Errors
/// Those of the connection, and a client that does not keep the protocol.
pub fn serve(mut stream: UnixStream, file: &File, read_only: bool) -> io::Result<()> {
    let size = file.metadata()?.len();
    let flags = flag::HAS_FLAGS | flag::SEND_FLUSH | if read_only { flag::READ_ONLY } else { 0 };
    if !negotiate(&mut stream, size, flags)? {
        return Ok(());
    }
    loop {
        let mut header = [0; 28];
        stream.read_exact(&mut header)?;
        let long = |at: usize| u64::from_be_bytes(header[at..at + 8].try_into().expect("8 bytes"));
        let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("4 bytes"));
        let (kind, offset, length) =
            (u16::from_be_bytes([header[6], header[7]]), long(16), word(24));
        if word(0) != REQUEST || length > LENGTH_MAX {
            return Err(io::Error::other("no request of NBD"));
        }
        let mut data = vec![0; if kind == command::WRITE { length as usize } else { 0 }];
        stream.read_exact(&mut data)?;
        let is_inside = offset.checked_add(length.into()).is_some_and(|end| end <= size);
        let mut error = 0;
        match kind {
            command::DISC => return Ok(()),
            command::FLUSH => file.sync_data()?,
            command::READ if is_inside => {
                data = vec![0; length as usize];
                file.read_exact_at(&mut data, offset)?;
            }
            command::WRITE if read_only => error = EPERM,
            command::WRITE if is_inside => file.write_all_at(&data, offset)?,
            _ => error = EINVAL,
        }
        let mut reply = REPLY.to_be_bytes().to_vec();
        reply.extend(error.to_be_bytes());
        reply.extend(long(8).to_be_bytes());
        if kind == command::READ && error == 0 {
            reply.extend(data);
        }
        stream.write_all(&reply)?;
    }
}

/// The fixed newstyle handshake; whether the client goes on to the transmission.
fn negotiate(stream: &mut UnixStream, size: u64, flags: u16) -> io::Result<bool> {
    let mut greeting = GREETING.to_be_bytes().to_vec();
    greeting.extend(OPTION.to_be_bytes());
    greeting.extend(3u16.to_be_bytes());
    stream.write_all(&greeting)?;
    let mut client = [0; 4];
    stream.read_exact(&mut client)?;
    let no_zeroes = client[3] & 2 != 0;
    loop {
        let mut header = [0; 16];
        stream.read_exact(&mut header)?;
        let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("4 bytes"));
        let (kind, length) = (word(8), word(12));
        if header[..8] != OPTION.to_be_bytes() || length > 64 << 10 {
            return Err(io::Error::other("no option of NBD"));
        }
        stream.read_exact(&mut vec![0; length as usize])?;
        let answer = |code: u32, data: &[u8]| {
            let mut bytes = OPTION_REPLY.to_be_bytes().to_vec();
            let length = u32::try_from(data.len()).expect("a few bytes");
            [kind, code, length].iter().for_each(|it| bytes.extend(it.to_be_bytes()));
            bytes.extend(data);
            bytes
        };
        let mut export = size.to_be_bytes().to_vec();
        export.extend(flags.to_be_bytes());
        match kind {
            option::EXPORT_NAME => {
                export.extend(vec![0; if no_zeroes { 0 } else { 124 }]);
                stream.write_all(&export)?;
                return Ok(true);
            }
            option::GO => {
                let mut bytes = answer(INFO, &[&[0, 0], export.as_slice()].concat());
                bytes.extend(answer(ACK, &[]));
                stream.write_all(&bytes)?;
                return Ok(true);
            }
            option::ABORT => {
                stream.write_all(&answer(ACK, &[]))?;
                return Ok(false);
            }
            _ => stream.write_all(&answer(UNSUPPORTED, &[]))?,
        }
    }
}
