//! A load generator that costs as little as one can: a blocking socket, a fixed number of requests
//! in flight, all requests that are due in one vectored write, payloads received only to be
//! dropped. Beside it fio is the one that is believed; this one shows what fio's own thread hides.

use std::{
    io::{IoSlice, Read},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nbd::{
    client::{Client, Wish},
    wire::{self, command},
};

use crate::{
    floor::{self, HEAD, Mode},
    load::{Load, Outcome},
};

/// How many bytes one receive takes at most; a UNIX socket rarely holds more.
const BUFFER_BYTES: usize = 256 << 10;
const REPLY: usize = wire::SimpleReply::BYTES;

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    Time(Duration),
    /// So many requests.
    Count(u64),
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    Data,
    /// Blocks of zeroes but for their last byte.
    NearlyZeroes,
    Zeroes,
}

impl Contents {
    fn bytes(self, length: usize) -> Vec<u8> {
        let mut bytes = vec![if self == Self::Data { 0xa5 } else { 0 }; length];
        if self == Self::NearlyZeroes {
            bytes.iter_mut().skip(4095).step_by(4096).for_each(|last| *last = 1);
        }
        bytes
    }
}

/// A connection that takes load.
#[derive(Debug)]
pub(crate) struct Lean {
    socket: UnixStream,
    size: u64,
    state: u64,
    contents: Contents,
}

/// When a request was sent and when it was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flight {
    pub(crate) sent: Instant,
    pub(crate) answered: Instant,
}

impl Lean {
    /// To an NBD server, with simple replies: fewer bytes, the same for all.
    pub(crate) fn nbd(socket: &Path, export: &str) -> Result<Self> {
        let wish = Wish { name: export.as_bytes(), structured: false, allocation: false };
        let client = Client::connect(socket, &wish).context("connecting")?;
        let socket = client.socket().try_clone().context("keeping the socket")?;
        Ok(Self::new(socket, client.size()))
    }

    fn new(socket: UnixStream, size: u64) -> Self {
        Self { socket, size, state: 0x9e37_79b9_7f4a_7c15, contents: Contents::Data }
    }

    /// Writes other contents.
    pub(crate) fn writing(self, contents: Contents) -> Self {
        Self { contents, ..self }
    }

    /// Only to the first bytes of the disk.
    pub(crate) fn within(self, bytes: u64) -> Self {
        Self { size: bytes.min(self.size), ..self }
    }

    /// To the floor, for one kind of load.
    pub(crate) fn floor(path: &Path, size: u64, mode: Mode, length: u32) -> Result<Self> {
        let mut socket = UnixStream::connect(path).context("connecting")?;
        floor::write_parts(&socket, &mut [IoSlice::new(&floor::preamble(mode, length))])?;
        // It has its memory.
        socket.read_exact(&mut [0; 8])?;
        Ok(Self::new(socket, size))
    }

    /// Puts load on it. `each` learns of every request.
    pub(crate) fn run(
        &mut self,
        load: &Load,
        until: Until,
        mut each: impl FnMut(Flight),
    ) -> Result<Outcome> {
        let length = load.bytes as usize;
        let payload = self.contents.bytes(if load.write { length } else { 0 });
        let awaited = if load.write { 0 } else { length };
        let mut heads = vec![[0; HEAD]; load.depth];
        let start = Instant::now();
        let mut sent = vec![start; load.depth];
        let mut due: Vec<usize> = (0..load.depth).collect();
        let mut input = Input::new();
        let (mut issued, mut answered, mut position) = (0_u64, 0_u64, 0_u64);
        let mut waited = Duration::ZERO;
        let mut now = start;
        let is_over = |issued: u64, now: Instant| match until {
            Until::Time(time) => now - start >= time,
            Until::Count(count) => issued >= count,
        };
        loop {
            let mut open = 0;
            for &slot in &due {
                if is_over(issued, now) {
                    break;
                }
                let offset = load.place(self.size, &mut self.state, &mut position);
                heads[slot] = request(load, slot, offset);
                sent[slot] = now;
                issued += 1;
                open += 1;
            }
            if open > 0 {
                let mut parts = Vec::with_capacity(2 * open);
                for &slot in &due[..open] {
                    parts.push(IoSlice::new(&heads[slot]));
                    if load.write {
                        parts.push(IoSlice::new(&payload));
                    }
                }
                floor::write_parts(&self.socket, &mut parts)?;
            }
            if answered == issued {
                break;
            }
            due.clear();
            input.receive(&self.socket, awaited, &mut due)?;
            now = Instant::now();
            for &slot in &due {
                let sent = *sent.get(slot).context("a reply to no request")?;
                waited += now - sent;
                each(Flight { sent, answered: now });
            }
            answered += due.len() as u64;
        }
        Ok(Outcome {
            requests: answered,
            elapsed: start.elapsed(),
            latency: waited.div_f64(answered.max(1) as f64),
        })
    }
}

fn request(load: &Load, slot: usize, offset: u64) -> [u8; HEAD] {
    let command = if load.write { command::WRITE } else { command::READ };
    let head = wire::Request {
        magic: wire::REQUEST_MAGIC,
        flags: 0,
        command,
        cookie: slot as u64,
        offset,
        length: load.bytes,
    };
    head.to_bytes()
}

/// Replies as they come in.
struct Input {
    buffer: Vec<u8>,
    end: usize,
    /// Bytes of a payload that are still to come.
    payload: usize,
    /// The request that the payload belongs to.
    slot: usize,
}

impl Input {
    fn new() -> Self {
        Self { buffer: vec![0; BUFFER_BYTES], end: 0, payload: 0, slot: 0 }
    }

    /// Receives once, and appends the requests that are answered.
    fn receive(
        &mut self,
        mut socket: &UnixStream,
        awaited: usize,
        done: &mut Vec<usize>,
    ) -> Result<()> {
        let count = socket.read(&mut self.buffer[self.end..])?;
        if count == 0 {
            bail!("the server has closed the socket");
        }
        self.end += count;
        let mut at = 0;
        loop {
            if self.payload > 0 {
                let here = self.payload.min(self.end - at);
                at += here;
                self.payload -= here;
                if self.payload > 0 {
                    break;
                }
                done.push(self.slot);
            }
            let Some(head) = self.buffer[at..self.end].first_chunk::<REPLY>() else { break };
            let reply = wire::SimpleReply::from_bytes(head);
            ensure!(reply.magic == wire::SIMPLE_REPLY_MAGIC, "not a simple reply");
            ensure!(reply.error == 0, "the server answers with error {}", reply.error);
            at += REPLY;
            self.slot = usize::try_from(reply.cookie)?;
            self.payload = awaited;
            if awaited == 0 {
                done.push(self.slot);
            }
        }
        self.buffer.copy_within(at..self.end, 0);
        self.end -= at;
        Ok(())
    }
}
