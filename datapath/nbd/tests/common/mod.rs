//! A connection and the other end of its socket in one thread: every byte and every turn is
//! under the control of the test.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    rc::Rc,
};

use block::{Budget, Drive, Extent, Stats, memory::Memory};
use nbd::{
    Connection, End, Export, ReceiveLimit, Turned, client,
    wire::{self, command, option, option_reply},
};

/// Size of the disk that most tests use, in bytes.
pub(crate) const SIZE: u64 = 64 << 20;
/// What it is called.
pub(crate) const NAME: &str = "disk";

pub(crate) struct Rig {
    pub(crate) connection: Connection,
    pub(crate) drive: Drive<Memory>,
    pub(crate) client: UnixStream,
    pub(crate) end: Option<End>,
}

pub(crate) fn export(limit: &ReceiveLimit) -> Rc<Export> {
    Rc::new(Export::new(NAME, "a disk for tests", limit))
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::limited(&ReceiveLimit::new())
    }

    /// A connection that shares a bound on memory with others.
    pub(crate) fn limited(limit: &ReceiveLimit) -> Self {
        Self::on(Drive::new(Memory::new(SIZE).unwrap()), limit)
    }

    fn on(drive: Drive<Memory>, limit: &ReceiveLimit) -> Self {
        let (server, client) = UnixStream::pair().unwrap();
        let pins = drive.attachments().pins();
        Self::with(Connection::new(server, export(limit), pins).unwrap(), drive, client)
    }

    pub(crate) fn old_style() -> Self {
        let (server, client) = UnixStream::pair().unwrap();
        let drive = Drive::new(Memory::new(SIZE).unwrap());
        let export = export(&ReceiveLimit::new());
        Self::with(Connection::old_style(server, export, &drive).unwrap(), drive, client)
    }

    fn with(connection: Connection, drive: Drive<Memory>, client: UnixStream) -> Self {
        client.set_nonblocking(true).unwrap();
        Self { connection, drive, client, end: None }
    }

    /// Lets another client use the same drive for a while.
    pub(crate) fn beside(&mut self, use_it: impl FnOnce(&mut Self)) {
        let drive = std::mem::replace(&mut self.drive, Drive::new(Memory::new(4096).unwrap()));
        let mut other = Self::on(drive, &ReceiveLimit::new());
        other.start(false);
        use_it(&mut other);
        self.drive = other.drive;
    }

    /// The disk behind the drive.
    pub(crate) fn disk(&mut self) -> &mut Memory {
        self.drive.structure()
    }

    pub(crate) fn stats(&self) -> Stats {
        *self.connection.stats()
    }

    pub(crate) fn turn(&mut self) -> Turned {
        self.connection.turn(&mut self.drive, &mut Budget::turn())
    }

    /// A connection past the handshake.
    pub(crate) fn started(structured: bool) -> Self {
        let mut rig = Self::new();
        rig.start(structured);
        rig
    }

    pub(crate) fn start(&mut self, structured: bool) {
        self.send(&3u32.to_be_bytes());
        if structured {
            self.send(&option_bytes(option::STRUCTURED_REPLY, &[]));
            let query = client::meta_query(b"", &[wire::BASE_ALLOCATION]);
            self.send(&option_bytes(option::SET_META_CONTEXT, &query));
        }
        self.send(&option_bytes(option::GO, &client::info_request(b"", &[])));
        self.drive();
        assert!(self.end.is_none());
        self.take();
    }

    /// Sends, with turns of the connection in between where the socket is full.
    pub(crate) fn send(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match (&self.client).write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.drive(),
                // The connection has ended: what it has to say is already there.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Turns of the connection and of the drive until there is nothing to do.
    pub(crate) fn drive(&mut self) {
        while self.end.is_none() {
            match self.turn() {
                Turned::Idle if !self.drive.attachments().has_work() => break,
                Turned::Idle => {
                    self.drive.work(&mut Budget::turn());
                }
                Turned::Worked | Turned::More => {}
                Turned::Closed(end) => self.end = Some(end),
            }
        }
    }

    /// Everything that has arrived.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            match (&self.client).read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => all.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => panic!("{error}"),
            }
        }
        all
    }

    /// Sends, drives, and takes until nothing more comes.
    pub(crate) fn exchange(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.send(bytes);
        let mut all = Vec::new();
        loop {
            self.drive();
            let more = self.take();
            if more.is_empty() {
                return all;
            }
            all.extend(more);
        }
    }

    /// Sends an option and takes its replies: type and data of each.
    pub(crate) fn option(&mut self, code: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let bytes = self.exchange(&option_bytes(code, data));
        option_replies(&bytes, code)
    }
}

pub(crate) fn option_bytes(option: u32, data: &[u8]) -> Vec<u8> {
    let length = data.len() as u32;
    let head = wire::OptionHead { magic: wire::OPTION_MAGIC, option, length };
    [head.to_bytes().as_slice(), data].concat()
}

pub(crate) fn option_replies(mut bytes: &[u8], code: u32) -> Vec<(u32, Vec<u8>)> {
    let mut replies = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk() {
        let head = wire::OptionReply::from_bytes(head);
        assert_eq!((head.magic, head.option), (wire::OPTION_REPLY_MAGIC, code));
        let (data, rest) = rest.split_at(head.length as usize);
        replies.push((head.kind, data.to_vec()));
        bytes = rest;
    }
    assert!(bytes.is_empty());
    replies
}

/// The type of the last reply, which has to be the only error.
pub(crate) fn refusal(replies: &[(u32, Vec<u8>)]) -> u32 {
    assert_eq!(replies.len(), 1, "{replies:?}");
    assert_ne!(replies[0].0 & option_reply::ERROR, 0);
    replies[0].0
}

pub(crate) fn request(command: u16, flags: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let magic = wire::REQUEST_MAGIC;
    wire::Request { magic, flags, command, cookie, offset, length }.to_bytes().to_vec()
}

pub(crate) fn write_request(cookie: u64, offset: u64, data: &[u8]) -> Vec<u8> {
    [request(command::WRITE, 0, cookie, offset, data.len() as u32), data.to_vec()].concat()
}

pub(crate) fn simple_reply(cookie: u64, error: u32) -> Vec<u8> {
    let magic = wire::SIMPLE_REPLY_MAGIC;
    wire::SimpleReply { magic, error, cookie }.to_bytes().to_vec()
}

/// The bytes of a disk.
pub(crate) fn contents(drive: &mut Drive<Memory>, offset: u64, length: u32) -> Vec<u8> {
    let mut extents = Vec::new();
    drive.read(offset, length, &mut extents).unwrap();
    let mut all = Vec::new();
    for extent in extents {
        let from = all.len();
        all.resize(from + extent.length(), 0);
        if let Extent::Data(slice) = extent {
            slice.read(0, &mut all[from..]);
        }
    }
    all
}

/// A reproducible stream of numbers (xorshift64*).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
