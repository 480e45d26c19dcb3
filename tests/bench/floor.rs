//! The floor: the least that has to be done to move the same bytes over a UNIX socket. A process
//! of its own, so that its CPU time can be told from the generator's.
//!
//! It reads whatever is there, answers every request in it with one vectored write, and looks at
//! nothing of a request but its cookie and its offset: the length and the direction of all of
//! them are said once, before the first. No checks, no map, no other clients while one is served
//! but threads for several.

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    os::unix::{
        fs::FileExt,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    thread,
};

use anyhow::{Context, Result};
use nbd::wire;

/// A request as NBD has it.
pub(crate) const HEAD: usize = wire::Request::BYTES;
/// A simple reply as NBD has it.
const REPLY: usize = wire::SimpleReply::BYTES;
/// How many bytes one receive takes at most.
const BUFFER_BYTES: usize = 256 << 10;
/// Requests of this size and more have their payload received where it belongs.
const DIRECT_BYTES: usize = 64 << 10;
/// Replies in one write: two parts each, and the kernel takes 1024.
const REPLIES_MAX: usize = 256;

/// The message that a client sends before the first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Read,
    Write,
    /// Write to memory that is not allocated yet.
    Fresh,
}

/// The words in which it is said.
pub(crate) fn preamble(mode: Mode, length: u32) -> [u8; 8] {
    let mode = match mode {
        Mode::Read => 0_u32,
        Mode::Write => 1,
        Mode::Fresh => 2,
    };
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&mode.to_be_bytes());
    bytes[4..].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// Serves `bytes` of memory for ever. `fresh` is the file on tmpfs that fresh writes go to.
pub(crate) fn serve(socket: &Path, bytes: usize, fresh: &Path) -> Result<()> {
    let listener = UnixListener::bind(socket).context("listening")?;
    for client in listener.incoming() {
        let client = client.context("accepting")?;
        let fresh = fresh.to_owned();
        thread::spawn(move || {
            // The server ends when its client disconnects.
            let _over = run(&client, bytes, &fresh);
        });
    }
    Ok(())
}

fn run(mut socket: &UnixStream, bytes: usize, fresh: &Path) -> io::Result<()> {
    let mut said = [0; 8];
    socket.read_exact(&mut said)?;
    let length = u32::from_be_bytes([said[4], said[5], said[6], said[7]]) as usize;
    if said[3] == 2 {
        let file = File::create(fresh)?;
        file.set_len(bytes as u64)?;
        return write_fresh(socket, &file, length);
    }
    // Touched, not only promised.
    let mut memory = vec![0x5a; bytes];
    socket.write_all(&said)?;
    match said[3] {
        0 => read(socket, &memory, length),
        _ if length < DIRECT_BYTES => write_small(socket, &mut memory, length),
        _ => write_direct(socket, &mut memory, length),
    }
}

/// Copies the one thing that a reply owes to its request.
fn reply(request: &[u8]) -> [u8; REPLY] {
    let mut reply = [0; REPLY];
    reply[..4].copy_from_slice(&wire::SIMPLE_REPLY_MAGIC.to_be_bytes());
    reply[8..].copy_from_slice(&request[8..16]);
    reply
}

fn offset(request: &[u8]) -> usize {
    request[16..24].iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte))
}

fn read(mut socket: &UnixStream, memory: &[u8], length: usize) -> io::Result<()> {
    let mut buffer = vec![0; HEAD * REPLIES_MAX];
    let mut heads = [[0; REPLY]; REPLIES_MAX];
    let mut end = 0;
    loop {
        end += received(socket.read(&mut buffer[end..])?)?;
        let count = end / HEAD;
        for (head, request) in heads.iter_mut().zip(buffer[..end].chunks_exact(HEAD)) {
            *head = reply(request);
        }
        let requests = buffer[..end].chunks_exact(HEAD);
        let mut parts: Vec<IoSlice<'_>> = heads[..count]
            .iter()
            .zip(requests)
            .flat_map(|(head, request)| {
                let data = &memory[offset(request)..][..length];
                [IoSlice::new(head), IoSlice::new(data)]
            })
            .collect();
        write_parts(socket, &mut parts)?;
        buffer.copy_within(count * HEAD..end, 0);
        end -= count * HEAD;
    }
}

fn write_small(socket: &UnixStream, memory: &mut [u8], length: usize) -> io::Result<()> {
    buffered(socket, length, |offset, data| {
        memory[offset..offset + length].copy_from_slice(data);
        Ok(())
    })
}

fn write_fresh(mut socket: &UnixStream, file: &File, length: usize) -> io::Result<()> {
    socket.write_all(&[0; 8])?;
    buffered(socket, length, |offset, data| file.write_all_at(data, offset as u64))
}

/// Requests with their payload through one buffer.
fn buffered(
    mut socket: &UnixStream,
    length: usize,
    mut store: impl FnMut(usize, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let unit = HEAD + length;
    let mut buffer = vec![0; BUFFER_BYTES.max(unit)];
    let mut replies = Vec::with_capacity(REPLIES_MAX * REPLY);
    let mut end = 0;
    loop {
        end += received(socket.read(&mut buffer[end..])?)?;
        replies.clear();
        for request in buffer[..end].chunks_exact(unit) {
            store(offset(request), &request[HEAD..])?;
            replies.extend_from_slice(&reply(request));
        }
        socket.write_all(&replies)?;
        let done = end - end % unit;
        buffer.copy_within(done..end, 0);
        end -= done;
    }
}

/// Each payload to its place, together with the head of the next request.
fn write_direct(mut socket: &UnixStream, memory: &mut [u8], length: usize) -> io::Result<()> {
    let mut head = [0; HEAD];
    socket.read_exact(&mut head)?;
    loop {
        let answer = reply(&head);
        let start = offset(&head);
        let (mut done, mut next) = (0, 0);
        while done < length {
            let place = &mut memory[start + done..start + length];
            let mut parts = [IoSliceMut::new(place), IoSliceMut::new(&mut head)];
            let count = received(socket.read_vectored(&mut parts)?)?;
            next = (done + count).saturating_sub(length);
            done += count - next;
        }
        socket.write_all(&answer)?;
        if next < HEAD {
            socket.read_exact(&mut head[next..])?;
        }
    }
}

fn received(count: usize) -> io::Result<usize> {
    if count == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(count) }
}

/// Writes all of the parts.
pub(crate) fn write_parts(
    mut socket: &UnixStream,
    mut parts: &mut [IoSlice<'_>],
) -> io::Result<()> {
    while !parts.is_empty() {
        let sent = socket.write_vectored(&parts[..parts.len().min(1024)])?;
        IoSlice::advance_slices(&mut parts, sent);
    }
    Ok(())
}
