//! The event loop: one thread, which never waits for anybody but in [`Poller::wait`].

use std::{
    fmt,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use host::{Config, Environment};
use signal_hook::consts::{SIGINT, SIGTERM};
use syslog::{Severity, Syslog};
use tapctl::{ControlDir, Conversations, Interest, Listener, Progress as Conversed};

use crate::{
    client::Clients,
    daemon,
    poller::{Key, Poller},
    polling::Polling,
    receiver::Receivers,
    vbd::{Image, Vbd},
};

/// How many are let in at a time, before others get their turn.
pub(crate) const ACCEPTS_MAX: usize = 16;
/// How long nobody is let in where there is no room, or no descriptor: they wait in the queue.
pub(crate) const REST: Duration = Duration::from_millis(50);
/// After how long without requests clients give back what they hold only to be quick.
const IDLE: Duration = Duration::from_secs(1);
/// How long the last answers may take: to callers when the process ends, to clients when their
/// disk was closed.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(1);
/// How often statistics are written, while they change.
const METRICS_INTERVAL: Duration = Duration::from_secs(1);

/// How clients are taken leave of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// What has come is answered, and clients have [`LAST_WORDS`] to take the answers.
    Polite,
    /// They get what their sockets take at once.
    Forced,
}

/// Everything that the process serves.
pub(crate) struct Server {
    pub(crate) dir: ControlDir,
    pub(crate) vbds: Vec<Option<Vbd>>,
    pub(crate) clients: Clients,
    listener: Listener,
    signals: UnixStream,
    pub(crate) receivers: Receivers,
    /// Clients that go on without waiting for their sockets.
    pub(crate) unfinished: Vec<usize>,
    pub(crate) poller: Poller,
    conversations: Conversations,
    log: Syslog,
    /// Until when the process ends, if it does.
    end: Option<Instant>,
    /// Until when no callers are let in.
    callers_rest: Option<Instant>,
    /// Until when no clients are let in.
    pub(crate) doors_rest: Option<Instant>,
    /// When statistics are to be written, if they may have changed.
    metrics_due: Option<Instant>,
}

/// Detaches this process from its caller, announces its control socket, and serves until the last
/// VBD is detached or a signal ends it.
pub(crate) fn run() -> Result<()> {
    // Before anything changes directory, as paths may be relative.
    let environment = Environment::process();
    let log = host::syslog(&environment, "tapdisk-ram");
    let config = Config::read(&environment)?;
    config.warnings.iter().for_each(|warning| log.send(Severity::Warning, warning));
    daemon::detach(&log)?;
    let dir = config.control;
    dir.create().context("making the control directory")?;
    // What a dead process left that had this number: nobody else can have it now.
    if let Err(error) = dir.remove_leftovers(std::process::id(), None) {
        log.send(Severity::Warning, format_args!("leftovers: {error}"));
    }
    let listener = Listener::bind(&dir, std::process::id()).context("making the control socket")?;
    let signals = signals().context("preparing for signals")?;
    let poller = Poller::new(Polling::new(config.poll)).context("making an epoll")?;
    poller.add(&signals, Key::Signal, true, false).context("waiting for signals")?;
    poller.add(&listener, Key::Control, true, false).context("waiting for callers")?;
    let mut server = Server {
        dir,
        vbds: Vec::new(),
        clients: Clients::default(),
        listener,
        signals,
        receivers: Receivers::default(),
        unfinished: Vec::new(),
        poller,
        conversations: Conversations::new(),
        log,
        end: None,
        callers_rest: None,
        doors_rest: None,
        metrics_due: None,
    };
    let announced = server.listener.path().display().to_string();
    let mut stdout = io::stdout();
    writeln!(stdout, "{announced}").context("announcing the control socket")?;
    stdout.flush().context("announcing the control socket")?;
    // Last: a process that cannot announce itself leaves nothing behind.
    if let Err(error) = server.dir.metrics().create_own() {
        server.warn(format_args!("without statistics: {error}"));
    }
    daemon::release_streams()?;
    server.info(format_args!("started, control socket {announced}"));
    let done = server.serve();
    server.vbds.clear();
    // What is left is removed by whoever finds it.
    let _left = server.dir.metrics().remove_own();
    server.info(format_args!("ended"));
    done.context("serving")
}

/// A socket that has something to read when a signal to end has come.
fn signals() -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::low_level::pipe::register(signal, theirs.try_clone()?)?;
    }
    Ok(ours)
}

impl Server {
    fn serve(&mut self) -> io::Result<()> {
        let mut idle_since = Instant::now();
        let mut relaxed = true;
        loop {
            let answered = self.conversations.is_empty() && !self.clients.some_are_leaving();
            if self.end.is_some_and(|end| answered || end <= Instant::now()) {
                return Ok(());
            }
            let timeout = if self.unfinished.is_empty() {
                self.timeout(relaxed)
            } else {
                Some(Duration::ZERO)
            };
            let mut ready = self.poller.wait(timeout)?.to_vec();
            let busy = !ready.is_empty() || !self.unfinished.is_empty();
            for place in self.unfinished.drain(..) {
                if !ready.contains(&Key::Client(place)) {
                    ready.push(Key::Client(place));
                }
            }
            for key in ready {
                self.go_on_with(key);
            }
            let now = Instant::now();
            self.expire(now);
            if busy {
                (idle_since, relaxed) = (now, false);
                self.metrics_due.get_or_insert(now + METRICS_INTERVAL);
            } else if !relaxed && now - idle_since >= IDLE {
                self.clients.iter_mut().for_each(|client| client.connection.relax());
                relaxed = true;
            }
        }
    }

    fn go_on_with(&mut self, key: Key) {
        match key {
            Key::Signal => self.obey_signal(),
            Key::Control => self.accept_callers(),
            Key::Conversation(key) => self.converse(key),
            Key::Door(place, door) => self.accept_clients(place, door),
            Key::Receiver(place) => self.receive(place),
            Key::Client(place) => self.turn(place),
        }
    }

    /// How long there is nothing to do even if nothing happens.
    fn timeout(&self, relaxed: bool) -> Option<Duration> {
        let now = Instant::now();
        let idle = (!relaxed).then(|| now + IDLE);
        let deadlines = [
            // Where there is no room it may have passed: there is a rest before the next caller.
            self.conversations.next_deadline().map(|at| at.max(now + REST)),
            self.receivers.next_deadline(),
            self.clients.next_deadline(),
            self.end,
            self.callers_rest.filter(|_| self.end.is_none()),
            self.doors_rest,
            self.metrics_due,
            idle,
        ];
        let next = deadlines.into_iter().flatten().min()?;
        Some(next.saturating_duration_since(now))
    }

    /// Does what is due.
    fn expire(&mut self, now: Instant) {
        self.conversations.expire(now);
        self.receivers.expire(now);
        self.clients.expire(now);
        let is_due = |at: &mut Instant| *at <= now;
        if self.end.is_none() && self.callers_rest.take_if(is_due).is_some() {
            self.let_callers(true);
        }
        if self.doors_rest.take_if(is_due).is_some() {
            self.let_clients(true);
        }
        if self.metrics_due.take_if(is_due).is_some() {
            self.write_metrics();
        }
    }

    fn write_metrics(&mut self) {
        let images = self.vbds.iter_mut().flatten().filter_map(|vbd| vbd.image.as_mut());
        // What cannot be written now may be the next time.
        let _written: Vec<io::Result<()>> = images.map(Image::write_metrics).collect();
    }

    fn obey_signal(&mut self) {
        let mut bytes = [0; 16];
        let _taken = (&self.signals).read(&mut bytes);
        if self.end.is_none() {
            self.info(format_args!("ending: told to by a signal"));
        }
        for place in 0..self.vbds.len() {
            self.stop_serving(place, Farewell::Polite);
        }
        self.stop();
    }

    /// Ends the process once everything is answered; nobody is let in any more.
    pub(crate) fn stop(&mut self) {
        if self.end.is_none() {
            self.end = Some(Instant::now() + LAST_WORDS);
            self.let_callers(false);
        }
    }

    /// Whether the process is about to end.
    pub(crate) fn is_stopping(&self) -> bool {
        self.end.is_some()
    }

    fn let_callers(&self, enter: bool) {
        if let Err(error) = self.poller.change(&self.listener, Key::Control, enter, false) {
            self.warn(format_args!("the control socket: {error}"));
        }
    }

    pub(crate) fn let_clients(&self, enter: bool) {
        for (place, vbd) in self.vbds.iter().enumerate() {
            let doors =
                vbd.iter().filter_map(|vbd| vbd.image.as_ref()).flat_map(|it| it.doors.iter());
            for (door, listening) in doors {
                if let Err(error) =
                    self.poller.change(listening, Key::Door(place, door), enter, false)
                {
                    self.warn(format_args!("an NBD socket: {error}"));
                }
            }
        }
    }

    fn accept_callers(&mut self) {
        for _ in 0..ACCEPTS_MAX {
            let now = Instant::now();
            match self.conversations.accept(&self.listener, now) {
                Ok(Some(key)) => self.begin(key),
                Ok(None) if self.conversations.can_accept(now) => return,
                Ok(None) => return self.let_callers_rest(now),
                Err(error) => {
                    self.warn(format_args!("a caller was not accepted: {error}"));
                    return self.let_callers_rest(now);
                }
            }
        }
    }

    fn let_callers_rest(&mut self, now: Instant) {
        self.callers_rest = Some(now + REST);
        self.let_callers(false);
    }

    fn begin(&mut self, key: usize) {
        let Some(conversation) = self.conversations.get_mut(key) else { return };
        if let Err(error) = self.poller.add(&*conversation, Key::Conversation(key), true, false) {
            self.conversations.remove(key);
            self.warn(format_args!("a caller was dropped: {error}"));
            return;
        }
        self.converse(key);
    }

    fn converse(&mut self, key: usize) {
        let Some(conversation) = self.conversations.get_mut(key) else { return };
        let mut progress = conversation.ready();
        if let Conversed::Asked(request) = progress {
            let reply = self.obey(&request);
            let Some(conversation) = self.conversations.get_mut(key) else { return };
            progress = conversation.answer(&reply);
        }
        if matches!(progress, Conversed::Finished) {
            self.conversations.remove(key);
        } else if let Some(conversation) = self.conversations.get_mut(key) {
            let interest = conversation.interest();
            let (read, write) = (interest == Interest::Read, interest == Interest::Write);
            let key_of = Key::Conversation(key);
            if let Err(error) = self.poller.change(&*conversation, key_of, read, write) {
                self.conversations.remove(key);
                self.warn(format_args!("a caller was dropped: {error}"));
            }
        }
    }

    pub(crate) fn info(&self, text: fmt::Arguments<'_>) {
        self.log.send(Severity::Info, text);
    }

    pub(crate) fn warn(&self, text: fmt::Arguments<'_>) {
        self.log.send(Severity::Warning, text);
    }
}
