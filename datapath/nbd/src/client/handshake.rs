//! The client's half of the handshake, piece by piece: for [`Client::negotiate`](super::Client)
//! and for tests that negotiate in their own way.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
};

use super::{Error, REPLY_BYTES_MAX, Result};
use crate::wire::{self, option_reply};

/// Receives exactly one fixed-size part of a message.
pub(super) fn array<const LENGTH: usize>(mut socket: &UnixStream) -> io::Result<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    socket.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Sends an option.
///
/// # Errors
/// Those of the socket.
pub fn send_option(mut socket: &UnixStream, code: u32, data: &[u8]) -> Result<()> {
    let length = u32::try_from(data.len()).map_err(|_| Error::Protocol("option too long"))?;
    let head = wire::OptionHead { magic: wire::OPTION_MAGIC, option: code, length };
    socket.write_all(&[&head.to_bytes(), data].concat())?;
    Ok(())
}

/// Receives a reply to an option: its type and its data.
///
/// # Errors
/// Those of the socket, and a reply that is none to this option.
pub fn receive_option_reply(mut socket: &UnixStream, code: u32) -> Result<(u32, Vec<u8>)> {
    let head = wire::OptionReply::from_bytes(&array(socket)?);
    if head.magic != wire::OPTION_REPLY_MAGIC || head.option != code {
        return Err(Error::Protocol("not a reply to the option"));
    }
    if head.length > REPLY_BYTES_MAX {
        return Err(Error::Protocol("endless reply to an option"));
    }
    let mut data = vec![0; head.length as usize];
    socket.read_exact(&mut data)?;
    Ok((head.kind, data))
}

/// Sends an option and receives every reply before the last one, which has to be `ACK`.
///
/// # Errors
/// Those of the socket, and a refusal.
pub fn option(socket: &UnixStream, code: u32, data: &[u8]) -> Result<Vec<(u32, Vec<u8>)>> {
    send_option(socket, code, data)?;
    let mut replies = Vec::new();
    loop {
        let (kind, data) = receive_option_reply(socket, code)?;
        match kind {
            option_reply::ACK => return Ok(replies),
            kind if kind & option_reply::ERROR != 0 => {
                return Err(Error::Option(kind, String::from_utf8_lossy(&data).into_owned()));
            }
            kind => replies.push((kind, data)),
        }
    }
}

/// Receives the greeting and answers it with these client flags. Returns the server's flags.
///
/// # Errors
/// Those of the socket, and another greeting.
pub fn greet(mut socket: &UnixStream, flags: u32) -> Result<u16> {
    let greeting = wire::Greeting::from_bytes(&array(socket)?);
    if greeting.magic != wire::GREETING_MAGIC || greeting.style != wire::OPTION_MAGIC {
        return Err(Error::Protocol("not a newstyle server"));
    }
    socket.write_all(&flags.to_be_bytes())?;
    Ok(greeting.flags)
}

/// Data of `INFO` and `GO`.
#[must_use]
pub fn info_request(name: &[u8], wanted: &[u16]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(name);
    data.extend_from_slice(&(wanted.len() as u16).to_be_bytes());
    data.extend(wanted.iter().flat_map(|kind| kind.to_be_bytes()));
    data
}

/// Data of `LIST_META_CONTEXT` and `SET_META_CONTEXT`.
#[must_use]
pub fn meta_query(name: &[u8], queries: &[&[u8]]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(name);
    data.extend_from_slice(&(queries.len() as u32).to_be_bytes());
    for query in queries {
        data.extend_from_slice(&(query.len() as u32).to_be_bytes());
        data.extend_from_slice(query);
    }
    data
}
