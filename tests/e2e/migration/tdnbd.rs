//! A stand-in for the client of blktap's tapdisk (`drivers/block-nbd.c`), which a SMAPIv1 disk is mirrored
//! with: it takes each part of the protocol by one receive, and wants all of it.

use std::{
    io::{Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    path::Path,
    time::Duration,
};

use nbd::wire::{self, command};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::tapctl::pass;

pub(super) struct Tdnbd {
    socket: UnixStream,
    pub(super) size: u64,
    cookie: u64,
}

impl Tdnbd {
    /// Has the plugin's socket take one end of a connection, as xapi does, and negotiates on the other.
    pub(super) fn import(receiver: &Path, text: &[u8]) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        pass(receiver, text, &[theirs.as_fd()]);
        drop(theirs);
        let mut client = Self { socket: ours, size: 0, cookie: 0 };
        client.negotiate();
        client
    }

    /// One receive, which has to bring all bytes.
    fn receive(&mut self, length: usize) -> Vec<u8> {
        let timeout = Timespec::try_from(Duration::from_secs(10)).unwrap();
        let ready = poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&timeout)).unwrap();
        assert_eq!(ready, 1, "nothing comes");
        let mut bytes = vec![0; length];
        assert_eq!(self.socket.read(&mut bytes).unwrap(), length, "a part of a reply");
        bytes
    }

    fn negotiate(&mut self) {
        let magics = self.receive(16);
        assert_eq!(magics[..8], wire::GREETING_MAGIC.to_be_bytes());
        if magics[8..] == wire::OLD_STYLE_MAGIC.to_be_bytes() {
            let rest = self.receive(8 + 4 + 124);
            self.size = u64::from_be_bytes(rest[..8].try_into().unwrap());
            return;
        }
        assert_eq!(magics[8..], wire::OPTION_MAGIC.to_be_bytes());
        let flags = self.receive(2);
        assert_eq!(flags, [0, 3]);
        self.socket.write_all(&3_u32.to_be_bytes()).unwrap();
        let name = b"tapdisk_client\0";
        let (option, length) = (wire::option::EXPORT_NAME, name.len() as u32);
        let head = wire::OptionHead { magic: wire::OPTION_MAGIC, option, length };
        self.socket.write_all(&[&head.to_bytes()[..], name].concat()).unwrap();
        let answer = self.receive(wire::ExportName::BYTES);
        self.size = wire::ExportName::from_bytes(answer[..].try_into().unwrap()).size;
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        self.cookie += 1;
        let (magic, command, cookie) = (wire::REQUEST_MAGIC, command::WRITE, self.cookie);
        let length = data.len() as u32;
        let head = wire::Request { magic, flags: 0, command, cookie, offset, length };
        self.socket.write_all(&[&head.to_bytes()[..], data].concat()).unwrap();
        let reply = self.receive(wire::SimpleReply::BYTES);
        let reply = wire::SimpleReply::from_bytes(reply[..].try_into().unwrap());
        assert_eq!((reply.magic, reply.error, reply.cookie), (0x6744_6698, 0, cookie));
    }

    /// Its one other request.
    pub(super) fn disconnect(mut self) {
        let (magic, command) = (wire::REQUEST_MAGIC, command::DISC);
        let head = wire::Request { magic, flags: 0, command, cookie: 0, offset: 0, length: 0 };
        self.socket.write_all(&head.to_bytes()).unwrap();
        assert_eq!(self.socket.read(&mut [0]).unwrap(), 0);
    }
}
