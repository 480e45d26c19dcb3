//! A server with a disk in memory, as poor as a server may be: without options of the handshake, with a
//! few requests at a time, which it carries out in any order. It remembers what it was asked.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    sync::{Arc, Mutex, MutexGuard},
    thread::{self, JoinHandle},
    time::Duration,
};

use nbd::wire::{self, command, handshake_flag, transmission_flag};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::source::Random;

/// How a server greets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// The size at once.
    Old,
    /// An export name, then the size and 124 zeroes.
    New,
    /// Options, of which it knows EXPORT_NAME alone, as blktap's older tapdisks do.
    Fixed,
}

/// What is different about a server.
#[derive(Clone, Debug)]
pub(crate) struct Manner {
    pub(crate) style: Style,
    pub(crate) size: u64,
    pub(crate) flags: u16,
    /// Which bytes its disk has at first.
    pub(crate) filling: u8,
    /// How many requests it takes; then it does this.
    pub(crate) requests: Option<(u64, Trouble)>,
    /// How long it takes for each request.
    pub(crate) delay: Duration,
    pub(crate) seed: u64,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It closes the connection.
    Leave,
    /// It neither reads nor answers any more.
    Hang,
    /// It answers that there is no space.
    Full,
    /// It answers a request that nothing has sent.
    Confuse,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            style: Style::Fixed,
            size: 8 << 20,
            // `NBD_FLAGS` of tapdisk-nbdserver.c.
            flags: transmission_flag::HAS_FLAGS,
            filling: 0x55,
            requests: None,
            delay: Duration::ZERO,
            seed: 1,
        }
    }
}

/// What a server has seen, and its disk.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) bytes: Vec<u8>,
    /// How many of each command.
    pub(crate) commands: BTreeMap<u16, u64>,
    pub(crate) written_bytes: u64,
    pub(crate) connections: u64,
    pub(crate) most_at_a_time: usize,
    pub(crate) export: Vec<u8>,
    /// Two requests at a time that change the same bytes.
    pub(crate) overlaps: u64,
}

/// A server that runs in a thread until it is dropped.
pub(crate) struct Server {
    directory: tempfile::TempDir,
    seen: Arc<Mutex<Seen>>,
    _thread: JoinHandle<()>,
}

impl Server {
    pub(crate) fn start(manner: Manner) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("s")).unwrap();
        let bytes = vec![manner.filling; manner.size as usize];
        let seen = Arc::new(Mutex::new(Seen { bytes, ..Seen::default() }));
        let _thread = thread::spawn({
            let seen = Arc::clone(&seen);
            move || {
                for socket in listener.incoming() {
                    seen.lock().unwrap().connections += 1;
                    let mut session = Session::new(socket.unwrap(), &manner, &seen);
                    // The end of the other side is the end of the session, whenever it comes.
                    let _ended = session.run();
                }
            }
        });
        Self { directory, seen, _thread }
    }

    pub(crate) fn uri(&self) -> String {
        let path = self.directory.path().join("s");
        format!("nbd+unix:///an%20export?socket={}", path.display())
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }
}

/// A request that was received and not carried out.
struct Waiting {
    head: wire::Request,
    payload: Vec<u8>,
}

struct Session<'a> {
    socket: UnixStream,
    manner: &'a Manner,
    seen: &'a Mutex<Seen>,
    random: Random,
    waiting: Vec<Waiting>,
    taken: u64,
}

/// How many requests it takes at a time (`NBD_SERVER_NUM_REQS`).
const AT_A_TIME: usize = 8;

impl<'a> Session<'a> {
    fn new(socket: UnixStream, manner: &'a Manner, seen: &'a Mutex<Seen>) -> Self {
        let random = Random(manner.seed);
        Self { socket, manner, seen, random, waiting: Vec::new(), taken: 0 }
    }

    fn run(&mut self) -> io::Result<()> {
        self.handshake()?;
        loop {
            while self.waiting.len() < AT_A_TIME && (self.waiting.is_empty() || self.is_readable())
            {
                if !self.receive()? {
                    return Ok(());
                }
            }
            let mut seen = self.seen.lock().unwrap();
            seen.most_at_a_time = seen.most_at_a_time.max(self.waiting.len());
            drop(seen);
            let next = self.random.below(self.waiting.len() as u64) as usize;
            let request = self.waiting.swap_remove(next);
            self.carry_out(&request)?;
        }
    }

    fn is_readable(&self) -> bool {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&zero)).unwrap() > 0
    }

    fn array<const LENGTH: usize>(&mut self) -> io::Result<[u8; LENGTH]> {
        let mut bytes = [0; LENGTH];
        self.socket.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn bytes(&mut self, length: u32) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length as usize];
        self.socket.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn handshake(&mut self) -> io::Result<()> {
        let Manner { style, size, flags, .. } = *self.manner;
        if style == Style::Old {
            let (magic, style) = (wire::GREETING_MAGIC, wire::OLD_STYLE_MAGIC);
            let greeting = wire::OldGreeting { magic, style, size, flags: flags.into() };
            return self.socket.write_all(&[&greeting.to_bytes()[..], &[0; 124]].concat());
        }
        let offered = if style == Style::Fixed {
            handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES
        } else {
            0
        };
        let (magic, style) = (wire::GREETING_MAGIC, wire::OPTION_MAGIC);
        let greeting = wire::Greeting { magic, style, flags: offered };
        self.socket.write_all(&greeting.to_bytes())?;
        assert_eq!(u32::from_be_bytes(self.array()?), u32::from(offered));
        loop {
            let head = wire::OptionHead::from_bytes(&self.array()?);
            assert_eq!(head.magic, wire::OPTION_MAGIC);
            let data = self.bytes(head.length)?;
            if head.option == wire::option::EXPORT_NAME {
                self.seen.lock().unwrap().export = data;
                let zeroes = if offered == 0 { 124 } else { 0 };
                let answer = wire::ExportName { size, flags }.to_bytes();
                return self.socket.write_all(&[&answer[..], &vec![0; zeroes]].concat());
            }
            assert_ne!(offered, 0, "an option for a server that knows none");
            let (magic, kind) = (wire::OPTION_REPLY_MAGIC, wire::option_reply::ERR_UNSUP);
            let reply = wire::OptionReply { magic, option: head.option, kind, length: 0 };
            self.socket.write_all(&reply.to_bytes())?;
        }
    }

    /// Receives a request; whether the session goes on.
    fn receive(&mut self) -> io::Result<bool> {
        let head = wire::Request::from_bytes(&self.array()?);
        assert_eq!(head.magic, wire::REQUEST_MAGIC);
        let is_write = head.command == command::WRITE;
        let payload = self.bytes(if is_write { head.length } else { 0 })?;
        self.taken += 1;
        let mut seen = self.seen.lock().unwrap();
        *seen.commands.entry(head.command).or_default() += 1;
        seen.written_bytes += payload.len() as u64;
        let end = |it: &wire::Request| it.offset + u64::from(it.length);
        let touches = |it: &&Waiting| it.head.offset < end(&head) && head.offset < end(&it.head);
        seen.overlaps += self.waiting.iter().filter(touches).count() as u64;
        drop(seen);
        self.waiting.push(Waiting { head, payload });
        Ok(head.command != command::DISC)
    }

    fn carry_out(&mut self, request: &Waiting) -> io::Result<()> {
        let wire::Request { command, offset, cookie, .. } = request.head;
        thread::sleep(self.manner.delay);
        let trouble = self.manner.requests.filter(|(count, _)| self.taken > *count);
        let (error, cookie) = match trouble.map(|(_, trouble)| trouble) {
            Some(Trouble::Leave) => return Err(io::ErrorKind::ConnectionReset.into()),
            Some(Trouble::Hang) => {
                thread::sleep(Duration::from_secs(60));
                return Ok(());
            }
            Some(Trouble::Full) => (28, cookie),
            Some(Trouble::Confuse) => (0, cookie ^ 1),
            None if command == command::WRITE => {
                let start = offset as usize;
                let mut seen = self.seen.lock().unwrap();
                let end = start + request.payload.len();
                seen.bytes[start..end].copy_from_slice(&request.payload);
                (0, cookie)
            }
            // Nothing else is offered.
            None => (22, cookie),
        };
        let magic = wire::SIMPLE_REPLY_MAGIC;
        self.socket.write_all(&wire::SimpleReply { magic, error, cookie }.to_bytes())
    }
}
