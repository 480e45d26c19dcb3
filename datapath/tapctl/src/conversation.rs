//! One client's connection at the server: a request in, an answer out, never waiting.
//!
//! For a single-threaded event loop: it says which readiness it waits for ([`Interest`]) and goes
//! as far as it can when it is told of one. A client that sends half a request, or does not read,
//! costs a descriptor until its deadline and nothing else.
//!
//! A request is answered exactly once, now or later. One that is dropped without an answer is a
//! bug: it panics in debug builds, and in release builds the client gets EIO.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};

use crate::{
    message::{MESSAGE_BYTES, Raw},
    reply::{Failure, Reply, encode_error},
    request::Request,
    text::Malformed,
};

/// How long a client may take to send its request, and how long to receive the answer
/// (`TD_CTL_RECV_TIMEOUT`, `TD_CTL_SEND_TIMEOUT` of `drivers/tapdisk-control.c`).
pub const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// How much of what a client sent behind its request is thrown away for it: a log path or a key
/// (flags ADD_LOG and OPEN_ENCRYPTED) is 385 bytes at most.
const TRAILING_BYTES_MAX: usize = 4096;

/// The readiness that a conversation waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// The rest of the request.
    Read,
    /// Room for the rest of the answer.
    Write,
    /// None: the request is being worked on. (epoll reports a client's hangup all the same.)
    None,
}

/// How far a conversation got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It waits for what [`Conversation::interest`] says.
    Waiting,
    /// A request to be answered with [`Conversation::answer`], now or later.
    Asked(Request),
    /// It is over; drop it.
    Finished,
}

enum State {
    Reading { bytes: Box<[u8; MESSAGE_BYTES]>, have: usize },
    Asked(Request),
    Writing { bytes: Vec<u8>, sent: usize },
    Over,
}

/// A client's connection.
pub struct Conversation {
    socket: OwnedFd,
    state: State,
    since: Instant,
}

impl Conversation {
    /// A connection that was accepted; every operation on it is non-blocking, whatever its mode.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        let state = State::Reading { bytes: Box::new([0; MESSAGE_BYTES]), have: 0 };
        Self { socket, state, since: Instant::now() }
    }

    /// What to be told of.
    #[must_use]
    pub fn interest(&self) -> Interest {
        match self.state {
            State::Reading { .. } => Interest::Read,
            State::Writing { .. } => Interest::Write,
            State::Asked(_) | State::Over => Interest::None,
        }
    }

    /// When to drop it; `None` while its request is being worked on.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.waiting_since().map(|since| since + STEP_TIMEOUT)
    }

    /// Since when it has been waiting for its client; `None` while the client waits for it.
    #[must_use]
    pub fn waiting_since(&self) -> Option<Instant> {
        match self.state {
            State::Reading { .. } | State::Writing { .. } => Some(self.since),
            State::Asked(_) | State::Over => None,
        }
    }

    /// Goes on, after any event on the descriptor; one that was not real does no harm.
    pub fn ready(&mut self) -> Progress {
        match self.state {
            State::Reading { .. } => self.read(),
            State::Writing { .. } => self.write(),
            State::Asked(_) if !self.is_hung_up() => Progress::Waiting,
            State::Asked(_) | State::Over => self.finish(),
        }
    }

    /// Answers the request: sends what the socket takes at once and keeps the rest for
    /// [`Self::ready`]. Never [`Progress::Asked`].
    ///
    /// # Panics
    /// In debug builds where there is no request to answer.
    pub fn answer(&mut self, reply: &Reply) -> Progress {
        let State::Asked(request) = &self.state else {
            debug_assert!(matches!(self.state, State::Over), "an answer without a request");
            return Progress::Finished;
        };
        let bytes = reply.encode(request);
        self.start_writing(bytes)
    }

    fn start_writing(&mut self, bytes: Vec<u8>) -> Progress {
        self.since = Instant::now();
        self.state = State::Writing { bytes, sent: 0 };
        self.write()
    }

    fn read(&mut self) -> Progress {
        let State::Reading { bytes, have } = &mut self.state else { return Progress::Waiting };
        while *have < MESSAGE_BYTES {
            match recv(&self.socket, &mut bytes[*have..], RecvFlags::DONTWAIT) {
                // Short: dropped without a word, as blktap's tapdisk does.
                Ok((0, _)) => return self.finish(),
                Ok((received, _)) => *have += received,
                Err(Errno::AGAIN) => return Progress::Waiting,
                Err(Errno::INTR) => {}
                Err(_) => return self.finish(),
            }
        }
        let raw = Raw::from_bytes(**bytes);
        match Request::parse(&raw) {
            Ok(request) => {
                self.state = State::Asked(request.clone());
                Progress::Asked(request)
            }
            Err(malformed) => {
                let text = match malformed {
                    Malformed::Kind(kind) => format!("no request has type {kind}"),
                    Malformed::Text => "a text without an end".into(),
                    Malformed::Number => "a number out of range".into(),
                };
                // blktap's answer to what it does not understand has a cookie of 0.
                self.start_writing(encode_error(&Failure::new(Errno::INVAL, text), 0))
            }
        }
    }

    fn write(&mut self) -> Progress {
        let State::Writing { bytes, sent } = &mut self.state else { return Progress::Waiting };
        while *sent < bytes.len() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match send(&self.socket, &bytes[*sent..], flags) {
                Ok(count) => *sent += count,
                Err(Errno::AGAIN) => return Progress::Waiting,
                Err(Errno::INTR) => {}
                Err(_) => return self.finish(),
            }
        }
        self.discard_trailing();
        self.finish()
    }

    /// Closing a socket with unread bytes tells the client of a reset instead of an end.
    fn discard_trailing(&self) {
        let mut buffer = [0; TRAILING_BYTES_MAX];
        let _nothing_more = recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT);
    }

    /// Whether the client closed its end. One that only said that it sends no more still waits.
    fn is_hung_up(&self) -> bool {
        let mut descriptors = [PollFd::new(&self.socket, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let polled = poll(&mut descriptors, Some(&now));
        polled.is_ok_and(|count| count > 0)
    }

    fn finish(&mut self) -> Progress {
        self.state = State::Over;
        Progress::Finished
    }
}

impl AsRef<Self> for Conversation {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl AsMut<Self> for Conversation {
    fn as_mut(&mut self) -> &mut Self {
        self
    }
}

impl AsFd for Conversation {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        if let State::Asked(request) = &self.state {
            debug_assert!(std::thread::panicking(), "{request:?} was dropped without an answer");
            let failure = Failure::new(Errno::IO, "the tapdisk lost the request");
            self.answer(&Reply::Error(failure));
        }
    }
}

#[cfg(test)]
#[path = "conversation_tests.rs"]
mod tests;
