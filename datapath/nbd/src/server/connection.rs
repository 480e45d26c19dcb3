//! One connection: moves bytes between the socket, the two queues and whoever obeys.

use std::{
    cell::RefCell,
    fmt, io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    rc::Rc,
};

use super::{
    handshake,
    input::{Input, Received},
    loans::Loans,
    output::Output,
    request::Refusal,
};
use crate::{
    export::{Export, Extent, Stats, StatusExtent},
    wire::STRING_BYTES_MAX,
};

/// Work of one turn before other connections get theirs, in bytes received or sent.
const TURN_BYTES: usize = 4 << 20;
/// What a request costs beside its bytes, in the same unit.
const REQUEST_COST_BYTES: usize = 1 << 10;
/// What a disk is called by clients that ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub(super) name: String,
    pub(super) description: String,
}

impl Identity {
    /// `name` is answered to `LIST` and `INFO`, `description` is for people. Both are cut to
    /// what the protocol allows.
    #[must_use]
    pub fn new(name: &str, description: &str) -> Self {
        let cut = |text: &str| {
            let mut length = text.len().min(STRING_BYTES_MAX);
            while !text.is_char_boundary(length) {
                length -= 1;
            }
            text[..length].to_owned()
        };
        Self { name: cut(name), description: cut(description) }
    }
}

/// What the loop has to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Until the socket has something to receive.
    pub readable: bool,
    /// Until the socket takes something.
    pub writable: bool,
}

/// How a turn ended.
#[derive(Debug)]
pub enum Progress {
    /// There was nothing to do.
    Idle,
    /// Something was done; the rest has to wait for the socket.
    Worked,
    /// The turn was over before the work: the next one need not wait for the socket.
    More,
    /// Over. The connection can be dropped, which closes the socket.
    Closed(End),
}

/// Why a connection is over.
#[derive(Debug)]
pub enum End {
    /// The client took its leave, and has every reply.
    Disconnected,
    /// The client gave up during the handshake.
    Aborted,
    /// The client closed the socket between two requests, without taking its leave.
    Gone,
    /// The client closed the socket in the middle of a message, which had no effect.
    Truncated,
    /// [`Connection::shutdown`], and the client has every reply.
    Shutdown,
    /// The client broke the protocol where it has no error reply.
    Violation(&'static str),
    /// The socket failed.
    Failed(io::Error),
}

impl End {
    /// What an error of the socket means.
    pub(super) fn of(error: io::Error) -> Self {
        match error.kind() {
            // What a socket says whose other end was closed with something unread.
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Gone,
            _ => Self::Failed(error),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected => f.write_str("the client has disconnected"),
            Self::Aborted => f.write_str("the client has aborted the handshake"),
            Self::Gone => f.write_str("the client has closed the socket"),
            Self::Truncated => f.write_str("the client has closed the socket within a message"),
            Self::Shutdown => f.write_str("shut down"),
            Self::Violation(what) => write!(f, "protocol violation: {what}"),
            Self::Failed(error) => write!(f, "socket: {error}"),
        }
    }
}

/// Which messages are expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    ClientFlags,
    Options,
    Transmission,
}

/// What was negotiated, and what is under way.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) phase: Phase,
    /// No zeroes after `EXPORT_NAME`.
    pub(super) no_zeroes: bool,
    /// Structured replies.
    pub(super) structured: bool,
    /// The export name for which `base:allocation` was chosen.
    pub(super) allocation_of: Option<Vec<u8>>,
    /// `base:allocation` can be asked for.
    pub(super) allocation: bool,
    /// To be answered when the payload that is being dropped is through.
    pub(super) refused: Option<(u64, Refusal)>,
    /// Requests are answered and not obeyed any more.
    pub(super) stopping: bool,
}

/// Everything that obeying a message may touch, for the length of one turn.
pub(super) struct Turn<'a, E> {
    pub(super) socket: &'a UnixStream,
    pub(super) identity: &'a Identity,
    pub(super) session: &'a mut Session,
    pub(super) input: &'a mut Input,
    pub(super) output: &'a mut Output,
    pub(super) loans: Option<&'a Loans>,
    pub(super) extents: &'a mut Vec<Extent>,
    pub(super) statuses: &'a mut Vec<StatusExtent>,
    pub(super) descriptors: &'a mut Vec<u8>,
    pub(super) export: &'a mut E,
    pub(super) stats: &'a mut Stats,
    /// Work done, in bytes: see [`TURN_BYTES`].
    pub(super) spent: usize,
}

/// Why obeying has paused.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// The next message is not complete.
    Starved,
    /// Too much is unsent.
    Full,
    /// Enough for one turn.
    Over,
}

impl<E: Export> Turn<'_, E> {
    /// Obeys every message that is here, until too much is unsent.
    #[inline]
    fn obey(&mut self) -> Result<Pause, End> {
        while !self.output.is_full() {
            if self.input.skipping() {
                return Ok(Pause::Starved);
            }
            self.answer_refused();
            let obeyed = match self.session.phase {
                Phase::Transmission => self.request()?,
                Phase::Options => self.option()?,
                Phase::ClientFlags => self.client_flags()?,
            };
            if !obeyed {
                return Ok(Pause::Starved);
            }
            self.spent += REQUEST_COST_BYTES;
            if self.spent >= TURN_BYTES {
                return Ok(Pause::Over);
            }
        }
        Ok(Pause::Full)
    }
}

/// The server side of a connection.
///
/// The loop calls [`ready`](Self::ready) whenever the socket is ready for what
/// [`interest`](Self::interest) says, asks for the interest again, and drops the connection when
/// it is told that it is over.
#[derive(Debug)]
pub struct Connection {
    socket: UnixStream,
    identity: Rc<Identity>,
    session: Session,
    input: Input,
    output: Rc<RefCell<Output>>,
    loans: Option<Rc<Loans>>,
    /// The last turn, when everything queued is sent.
    end: Option<End>,
    // Kept for their capacity.
    extents: Vec<Extent>,
    statuses: Vec<StatusExtent>,
    descriptors: Vec<u8>,
}

impl Connection {
    /// A connection that begins with the newstyle greeting, which is queued.
    ///
    /// # Errors
    /// Where the socket cannot be made non-blocking.
    pub fn new(socket: UnixStream, identity: Rc<Identity>) -> io::Result<Self> {
        Self::begin(socket, identity, Phase::ClientFlags, &handshake::greeting())
    }

    /// A connection that begins with the old-style greeting, after which requests follow at once.
    ///
    /// # Errors
    /// Where the socket cannot be made non-blocking.
    pub fn old_style<E: Export>(
        socket: UnixStream,
        identity: Rc<Identity>,
        export: &E,
    ) -> io::Result<Self> {
        let flags = handshake::transmission_flags(export.read_only(), false);
        let greeting = handshake::old_greeting(export.size(), flags);
        Self::begin(socket, identity, Phase::Transmission, &greeting)
    }

    fn begin(
        socket: UnixStream,
        identity: Rc<Identity>,
        phase: Phase,
        greeting: &[u8],
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let mut output = Output::default();
        output.push(greeting);
        Ok(Self {
            socket,
            identity,
            session: Session {
                phase,
                no_zeroes: false,
                structured: false,
                allocation_of: None,
                allocation: false,
                refused: None,
                stopping: false,
            },
            input: Input::new(),
            output: Rc::new(RefCell::new(output)),
            loans: None,
            end: None,
            extents: Vec::new(),
            statuses: Vec::new(),
            descriptors: Vec::new(),
        })
    }

    /// Lets replies point into the export from one turn to the next: see [`Loans`] for what the
    /// owner of the disk promises. Otherwise what is not sent at the end of a turn is copied.
    #[must_use]
    pub fn lending(mut self, loans: &Rc<Loans>) -> Self {
        loans.enter(&self.output);
        self.loans = Some(Rc::clone(loans));
        self
    }

    /// Receives what is there, obeys every request that is complete, and sends the replies.
    pub fn ready<E: Export>(&mut self, export: &mut E, stats: &mut Stats) -> Progress {
        let queue = Rc::clone(&self.output);
        let mut output = queue.borrow_mut();
        let mut turn = Turn {
            socket: &self.socket,
            identity: &self.identity,
            session: &mut self.session,
            input: &mut self.input,
            output: &mut output,
            loans: self.loans.as_deref(),
            extents: &mut self.extents,
            statuses: &mut self.statuses,
            descriptors: &mut self.descriptors,
            export,
            stats,
            spent: 0,
        };
        let progress = run(&mut turn, &mut self.end);
        if self.loans.is_none() {
            output.settle_all();
        }
        self.input.rest();
        progress
    }

    /// Sends replies that wait, and obeys nothing: for a disk that is paused.
    pub fn drain(&mut self) -> Progress {
        let mut output = self.output.borrow_mut();
        let before = output.unsent();
        if let Err(error) = output.send(&self.socket) {
            return Progress::Closed(End::of(error));
        }
        match self.end.take_if(|_| output.is_empty()) {
            Some(end) => Progress::Closed(end),
            None if output.unsent() < before => Progress::Worked,
            None => Progress::Idle,
        }
    }

    /// What to wait for before the next turn.
    #[must_use]
    pub fn interest(&self) -> Interest {
        let output = self.output.borrow();
        Interest { readable: self.end.is_none() && !output.is_full(), writable: !output.is_empty() }
    }

    /// From now on requests are answered with `ESHUTDOWN` and have no effect. The connection is
    /// over when a turn finds nothing more to answer and everything sent.
    pub fn shutdown(&mut self) {
        self.session.stopping = true;
    }

    /// Gives back memory that is held only to be quick: for a connection that has been idle.
    pub fn relax(&mut self) {
        self.input.relax();
        self.extents = Vec::new();
        self.statuses = Vec::new();
        self.descriptors = Vec::new();
    }

    /// Whether the client has not finished the handshake yet.
    #[must_use]
    pub fn is_negotiating(&self) -> bool {
        self.session.phase != Phase::Transmission
    }

    /// At most that many requests were obeyed whose replies are not sent.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.output.borrow().replies()
    }

    /// Bytes of replies that are not sent.
    #[must_use]
    pub fn unsent_bytes(&self) -> usize {
        self.output.borrow().unsent()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// One turn: obey, send, receive, until the socket has no more or it is others' turn.
fn run<E: Export>(turn: &mut Turn<'_, E>, end: &mut Option<End>) -> Progress {
    let mut worked = false;
    // The last receive has emptied the socket: another one would only be told so.
    let mut drained = false;
    loop {
        let obeyed = match end {
            Some(_) => Ok(Pause::Starved),
            None => turn.obey(),
        };
        let before = turn.output.unsent();
        if before > 0 {
            if let Err(error) = turn.output.send(turn.socket) {
                return Progress::Closed(End::of(error));
            }
            turn.spent += before - turn.output.unsent();
            worked |= turn.output.unsent() < before;
        }
        let pause = match obeyed {
            Ok(pause) => pause,
            // Answered so far, and nothing after it: what is queued is sent as far as it goes.
            Err(violation @ (End::Violation(_) | End::Failed(_) | End::Gone)) => {
                return Progress::Closed(violation);
            }
            Err(last) => {
                *end = Some(last);
                Pause::Starved
            }
        };
        if end.is_some() {
            return match end.take_if(|_| turn.output.is_empty()) {
                Some(end) => Progress::Closed(end),
                None if worked => Progress::Worked,
                None => Progress::Idle,
            };
        }
        let over = turn.spent >= TURN_BYTES;
        match pause {
            Pause::Full | Pause::Over if turn.output.is_full() => break,
            Pause::Full if !over => {}
            Pause::Full | Pause::Over => return Progress::More,
            Pause::Starved if drained => break,
            Pause::Starved if over => return Progress::More,
            Pause::Starved => match turn.input.receive(turn.socket) {
                Ok(Received::Bytes { count, drained: empty }) => {
                    worked = true;
                    turn.spent += count;
                    drained = empty;
                }
                Ok(Received::Nothing) => {
                    drained = true;
                    break;
                }
                Ok(Received::End) if turn.input.is_empty() => *end = Some(End::Gone),
                Ok(Received::End) => *end = Some(End::Truncated),
                Err(error) => return Progress::Closed(End::of(error)),
            },
        }
    }
    if turn.session.stopping && drained && turn.output.is_empty() {
        return Progress::Closed(End::Shutdown);
    }
    if worked { Progress::Worked } else { Progress::Idle }
}
