//! One connection: moves bytes between the socket and the two queues, and has messages handled.

use std::{
    cell::RefCell,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    rc::Rc,
};

use block::{Budget, Clock, Disk, Drive, Frontend, Interest, Pins, Progress, Stats};

use super::{
    end::End,
    greeting,
    input::{Input, Received},
    output::Output,
    session::{Charged, Export, PENDING_MAX, Phase, Session},
    turn::{Scratch, Turn},
};

/// The cost of a request beside its bytes, in the unit of [`Budget`].
const REQUEST_COST_BYTES: usize = 1 << 10;

/// How a turn of a connection ended.
#[derive(Debug)]
pub enum Turned {
    /// There was nothing to do.
    Idle,
    /// Something was done; the rest waits for the socket or the drive.
    Worked,
    /// The budget was spent before the work was done: the next turn need not wait for the socket.
    More,
    /// Over. The connection can be dropped, which closes the socket.
    Closed(End),
}

/// Why handling messages has paused.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// The next message is not complete.
    Starved,
    /// Too much is unsent, or too many large changes are under way.
    Full,
    /// Enough for one turn.
    Spent,
}

/// The server side of a connection.
///
/// The loop calls [`turn`](Self::turn) whenever the socket is ready for what
/// [`interest`](Self::interest) says and when the drive has finished a large change, asks for the
/// interest again, and drops the connection when a turn says that it is over.
#[derive(Debug)]
pub struct Connection {
    socket: UnixStream,
    export: Rc<Export>,
    session: Session,
    input: Input,
    output: Rc<RefCell<Output>>,
    stats: Stats,
    /// Why the connection ends as soon as everything queued is sent.
    end: Option<End>,
    scratch: Scratch,
}

impl Connection {
    /// A connection that begins with the newstyle greeting, which is queued. Its replies may point into
    /// the disk of the drive to which `pins` belongs.
    ///
    /// # Errors
    /// Where the socket cannot be made non-blocking.
    pub fn new(socket: UnixStream, export: Rc<Export>, pins: &Pins) -> io::Result<Self> {
        Self::begin(socket, export, pins, Phase::ClientFlags, &greeting::newstyle())
    }

    /// A connection that begins with the old-style greeting, after which requests follow at once.
    ///
    /// # Errors
    /// Where the socket cannot be made non-blocking.
    pub fn old_style<D: Disk>(
        socket: UnixStream,
        export: Rc<Export>,
        drive: &Drive<D>,
    ) -> io::Result<Self> {
        let flags = greeting::transmission_flags(drive.read_only(), false);
        let greeting = greeting::oldstyle(drive.size(), flags);
        let pins = drive.attachments().pins();
        Self::begin(socket, export, pins, Phase::Transmission, &greeting)
    }

    fn begin(
        socket: UnixStream,
        export: Rc<Export>,
        pins: &Pins,
        phase: Phase,
        greeting: &[u8],
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let mut output = Output::default();
        output.push(greeting);
        let output = Rc::new(RefCell::new(output));
        pins.register(&output);
        Ok(Self {
            socket,
            session: Session::new(phase),
            input: Input::new(&export.limit),
            export,
            output,
            stats: Stats::default(),
            end: None,
            scratch: Scratch::default(),
        })
    }

    /// Receives what has arrived, handles every request that is complete, and sends the replies.
    pub fn turn<D: Disk>(&mut self, drive: &mut Drive<D>, budget: &mut Budget) -> Turned {
        let mut end = self.end.take();
        let turned = self.begin_turn(drive, budget).run(&mut end);
        self.end = end;
        if matches!(turned, Turned::Closed(_)) {
            self.complete_write(drive);
        }
        self.input.rest();
        turned
    }

    fn begin_turn<'a, D: Disk>(
        &'a mut self,
        drive: &'a mut Drive<D>,
        budget: &'a mut Budget,
    ) -> Turn<'a, D> {
        Turn {
            socket: &self.socket,
            export: &self.export,
            session: &mut self.session,
            input: &mut self.input,
            output: &self.output,
            scratch: &mut self.scratch,
            drive,
            stats: &mut self.stats,
            clock: Clock::start(),
            budget,
        }
    }

    /// Completes a write that a turn has begun, so that the disk never has half of it: before its
    /// structure changes, before it is paused or closed, and before the connection is dropped.
    pub fn complete_write<D: Disk>(&mut self, drive: &mut Drive<D>) {
        if self.session.written > 0 {
            let mut budget = Budget::bytes(usize::MAX);
            // It is all here, and was checked: this cannot end the session.
            let _done = self.begin_turn(drive, &mut budget).request();
        }
    }

    /// Sends replies that wait, and takes no request: while the disk is paused, or closed.
    pub fn drain(&mut self) -> Turned {
        self.session.answer_completed(&mut self.output.borrow_mut(), &mut self.stats);
        let mut output = self.output.borrow_mut();
        let before = output.unsent();
        if let Err(error) = output.send(&self.socket) {
            return Turned::Closed(End::of(error));
        }
        let worked = output.unsent() < before;
        drop(output);
        match self.end.take_if(|end| may_end(end, &self.output, &self.session)) {
            Some(end) => Turned::Closed(end),
            None if worked => Turned::Worked,
            None => Turned::Idle,
        }
    }

    /// The readiness of the socket to wait for before the next turn.
    #[must_use]
    pub fn interest(&self) -> Interest {
        let output = self.output.borrow();
        let takes_more = !output.is_full() && self.session.pending.len() < PENDING_MAX;
        Interest { readable: self.end.is_none() && takes_more, writable: !output.is_empty() }
    }

    /// From now on requests are answered with `ESHUTDOWN` and have no effect. The connection is over
    /// when a turn finds nothing more to answer and everything sent.
    pub fn stop(&mut self) {
        self.session.stopping = true;
    }

    /// Bytes of replies that are not sent.
    #[must_use]
    pub fn unsent_bytes(&self) -> usize {
        self.output.borrow().unsent()
    }

    /// Counters of the requests that this connection has served.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<D: Disk> Frontend<D> for Connection {
    fn interest(&self) -> Interest {
        Self::interest(self)
    }

    fn turn(&mut self, drive: &mut Drive<D>, budget: &mut Budget) -> Progress {
        Self::turn(self, drive, budget).into()
    }

    fn complete_write(&mut self, drive: &mut Drive<D>) {
        Self::complete_write(self, drive);
    }

    fn drain(&mut self) -> Progress {
        Self::drain(self).into()
    }

    fn stop(&mut self) {
        Self::stop(self);
    }

    fn is_drained(&self) -> bool {
        self.unsent_bytes() == 0 && self.session.pending.is_empty()
    }

    /// It takes everything that comes, unless it waits for room to answer.
    fn is_caught_up(&self) -> bool {
        Self::interest(self).readable && self.session.written == 0
    }

    fn is_established(&self) -> bool {
        self.session.phase == Phase::Transmission
    }

    fn outstanding(&self) -> usize {
        let begun = usize::from(self.session.written > 0);
        self.output.borrow().replies() + self.session.pending.len() + begun
    }

    fn stats(&self) -> &Stats {
        &self.stats
    }

    fn relax(&mut self) {
        self.input.relax();
        self.scratch = Scratch::default();
    }
}

impl From<Turned> for Progress {
    fn from(turned: Turned) -> Self {
        match turned {
            Turned::Idle => Self::Idle,
            Turned::Worked => Self::Worked,
            Turned::More => Self::More,
            Turned::Closed(end) => Self::Closed { fault: end.is_fault().then(|| end.to_string()) },
        }
    }
}

/// Whether a connection that is to end may do so now: every reply is sent that can be.
fn may_end(end: &End, output: &RefCell<Output>, session: &Session) -> bool {
    output.borrow().is_empty() && (session.pending.is_empty() || end.is_unreachable())
}

impl<D: Disk> Turn<'_, D> {
    /// One turn: handle, send, receive, until the socket has no more or the budget is spent.
    fn run(&mut self, end: &mut Option<End>) -> Turned {
        let mut worked = false;
        // The last receive has emptied the socket: another one would only say so.
        let mut drained = false;
        loop {
            self.session.answer_completed(&mut self.output.borrow_mut(), self.stats);
            let handled = match end {
                Some(_) => Ok(Pause::Starved),
                None => self.handle(),
            };
            match self.send() {
                Ok(0) => {}
                Ok(_) => worked = true,
                Err(error) => return Turned::Closed(End::of(error)),
            }
            let pause = match handled {
                Ok(pause) => pause,
                // Replies so far are queued, and sent as far as the socket takes them.
                Err(fault @ (End::Violation(_) | End::Failed(_) | End::SocketClosed)) => {
                    return Turned::Closed(fault);
                }
                Err(last) => {
                    *end = Some(last);
                    Pause::Starved
                }
            };
            if end.is_some() {
                return match end.take_if(|end| may_end(end, self.output, self.session)) {
                    Some(end) => Turned::Closed(end),
                    None if worked => Turned::Worked,
                    None => Turned::Idle,
                };
            }
            let spent = self.budget.is_spent();
            match pause {
                Pause::Full | Pause::Spent if self.is_full() => break,
                Pause::Full if !spent => {}
                Pause::Full | Pause::Spent => return Turned::More,
                Pause::Starved if drained => break,
                Pause::Starved if spent => return Turned::More,
                Pause::Starved => match self.input.receive(self.socket) {
                    Ok(Received::Bytes { count, drained: empty }) => {
                        worked = true;
                        self.budget.spend(count);
                        drained = empty;
                    }
                    Ok(Received::Nothing) => {
                        drained = true;
                        break;
                    }
                    Ok(Received::End) if self.input.is_empty() => *end = Some(End::SocketClosed),
                    Ok(Received::End) => *end = Some(End::Truncated),
                    Err(error) => return Turned::Closed(End::of(error)),
                },
            }
        }
        let answered = self.session.pending.is_empty() && self.output().is_empty();
        if self.session.stopping && drained && answered {
            return Turned::Closed(End::Stopped);
        }
        if worked { Turned::Worked } else { Turned::Idle }
    }

    /// Handles every message that is here, until too much is unsent.
    #[inline]
    fn handle(&mut self) -> Result<Pause, End> {
        while !self.is_full() {
            if self.input.skipping() {
                return Ok(Pause::Starved);
            }
            self.answer_refused();
            let handled = match self.session.phase {
                Phase::Transmission => self.request()?,
                Phase::Options => self.option()?,
                Phase::ClientFlags => self.client_flags()?,
            };
            if !handled {
                let is_begun = self.session.written > 0;
                return Ok(if is_begun { Pause::Spent } else { Pause::Starved });
            }
            self.budget.spend(REQUEST_COST_BYTES);
            if self.budget.is_spent() {
                return Ok(Pause::Spent);
            }
        }
        Ok(Pause::Full)
    }

    /// Whether no further request may be taken.
    #[inline]
    fn is_full(&self) -> bool {
        self.session.pending.len() >= PENDING_MAX || self.output.borrow().is_full()
    }

    /// Sends as much as the socket takes; how many bytes that were.
    fn send(&mut self) -> io::Result<usize> {
        let mut output = self.output.borrow_mut();
        let before = output.unsent();
        if before == 0 {
            return Ok(0);
        }
        output.send(self.socket)?;
        let unsent = output.unsent();
        drop(output);
        self.budget.spend(before - unsent);
        self.charge(self.session.replying);
        if unsent == 0 {
            self.session.replying = Charged::Neither;
        }
        Ok(before - unsent)
    }
}
