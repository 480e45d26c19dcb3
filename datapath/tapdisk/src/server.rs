//! The event loop: one thread, which never waits for anybody but in [`Poller::wait`].

use std::{
    fmt, io,
    io::Write,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nbd::Progress;
use plugin::{
    Env,
    syslog::{Severity, Syslog},
};
use rustix::io::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};
use tapctl::{ControlDir, Conversations, Failure, Interest, Listener, Progress as Conversed};

use crate::{
    client::Clients,
    daemon,
    disk::Served,
    poller::{Key, Poller},
    vbd::{Image, Vbd},
};

/// The environment variable that names the directory of control sockets.
const CONTROL_DIR_VARIABLE: &str = "XAPI_RAM_CONTROL_DIR";
/// How many clients one process serves at a time.
const CLIENTS_MAX: usize = 256;
/// After how long without requests clients give back what they hold only to be quick.
const IDLE: Duration = Duration::from_secs(1);
/// How long the last answers may take when the process ends.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Everything that the process serves.
pub(crate) struct Server {
    pub(crate) dir: ControlDir,
    pub(crate) vbds: Vec<Option<Vbd>>,
    pub(crate) clients: Clients,
    /// Whether the process is to end once everything is answered.
    pub(crate) stopping: bool,
    /// Clients that go on without waiting for their sockets.
    pub(crate) unfinished: Vec<usize>,
    poller: Poller,
    conversations: Conversations,
    log: Syslog,
}

/// Detaches this process from its caller, announces its control socket, and serves until the last
/// VBD is detached or a signal ends it.
pub(crate) fn run() -> Result<()> {
    let log = Syslog::open(&Env::process(), "tapdisk-ram");
    daemon::detach(&|text| log.send(Severity::Warning, text))?;
    let dir = match Env::process().get(CONTROL_DIR_VARIABLE) {
        Some(path) => ControlDir::new(path),
        None => ControlDir::default(),
    };
    dir.create().context("making the control directory")?;
    let listener = Listener::bind(&dir, std::process::id()).context("making the control socket")?;
    let signals = signals().context("preparing for signals")?;
    let poller = Poller::new().context("making an epoll")?;
    poller.add(&signals, Key::Signal, true, false).context("waiting for signals")?;
    poller.add(&listener, Key::Control, true, false).context("waiting for callers")?;
    let mut server = Server {
        dir,
        vbds: Vec::new(),
        clients: Clients::default(),
        stopping: false,
        unfinished: Vec::new(),
        poller,
        conversations: Conversations::new(),
        log,
    };
    let mut stdout = io::stdout();
    writeln!(stdout, "{}", listener.path().display()).context("announcing the control socket")?;
    stdout.flush().context("announcing the control socket")?;
    daemon::release_streams()?;
    server.info(format_args!("started, control socket {}", listener.path().display()));
    let done = server.serve(&listener);
    server.info(format_args!("ended"));
    done.context("serving")
}

/// A socket that has something to read when a signal to end has come.
fn signals() -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::low_level::pipe::register(signal, theirs.try_clone()?)?;
    }
    Ok(ours)
}

impl Server {
    fn serve(&mut self, listener: &Listener) -> io::Result<()> {
        let mut idle_since = Instant::now();
        let mut relaxed = true;
        let mut end = None;
        loop {
            if self.stopping {
                let end = *end.get_or_insert_with(|| Instant::now() + LAST_WORDS);
                if self.conversations.is_empty() || Instant::now() >= end {
                    return Ok(());
                }
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
                match key {
                    Key::Signal => self.stopping = true,
                    Key::Control => self.accept_callers(listener)?,
                    Key::Conversation(place) => self.converse(place)?,
                    Key::Export(place) => self.accept_clients(place),
                    Key::Client(place) => self.turn(place),
                }
            }
            self.conversations.expire(Instant::now());
            if busy {
                (idle_since, relaxed) = (Instant::now(), false);
            } else if !relaxed && idle_since.elapsed() >= IDLE {
                self.clients.iter_mut().for_each(|client| client.connection.relax());
                relaxed = true;
            }
        }
    }

    /// How long there is nothing to do even if nothing happens.
    fn timeout(&self, relaxed: bool) -> Option<Duration> {
        let now = Instant::now();
        let deadline =
            self.conversations.next_deadline().map(|at| at.saturating_duration_since(now));
        let idle = (!relaxed).then_some(IDLE);
        let last_words = self.stopping.then_some(LAST_WORDS);
        [deadline, idle, last_words].into_iter().flatten().min()
    }

    fn accept_callers(&mut self, listener: &Listener) -> io::Result<()> {
        while let Some(key) = self.conversations.accept(listener, Instant::now())? {
            if let Some(conversation) = self.conversations.get_mut(key) {
                self.poller.add(&*conversation, Key::Conversation(key), true, false)?;
            }
            self.converse(key)?;
        }
        Ok(())
    }

    fn converse(&mut self, key: usize) -> io::Result<()> {
        let Some(conversation) = self.conversations.get_mut(key) else { return Ok(()) };
        let mut progress = conversation.ready();
        if let Conversed::Asked(request) = progress {
            let reply = self.obey(&request);
            let Some(conversation) = self.conversations.get_mut(key) else { return Ok(()) };
            progress = conversation.answer(&reply);
        }
        if matches!(progress, Conversed::Finished) {
            self.conversations.remove(key);
        } else if let Some(conversation) = self.conversations.get_mut(key) {
            let interest = conversation.interest();
            let (read, write) = (interest == Interest::Read, interest == Interest::Write);
            self.poller.change(&*conversation, Key::Conversation(key), read, write)?;
        }
        Ok(())
    }

    /// Waits for the clients of a VBD from now on.
    pub(crate) fn listen(&self, place: usize, image: &Image) -> Result<(), Failure> {
        let added = self.poller.add(&image.listener, Key::Export(place), true, false);
        added.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO).into())
    }

    fn accept_clients(&mut self, place: usize) {
        while let Some(image) = self.vbds.get(place).and_then(|vbd| vbd.as_ref()?.image.as_ref()) {
            let accepted = match image.accept() {
                Ok(Some(socket)) if self.clients.iter_mut().count() < CLIENTS_MAX => {
                    let (identity, loans) = (&image.identity, &image.loans);
                    self.clients.add(&self.poller, socket, place, identity, loans).map(Some)
                }
                // Dropping the socket closes it.
                Ok(Some(_)) => Err(io::Error::other(format!("more than {CLIENTS_MAX} clients"))),
                Ok(None) => Ok(None),
                Err(error) => Err(error),
            };
            match accepted {
                Ok(Some(client)) => self.rearm_client(client),
                Ok(None) => break,
                Err(error) => {
                    self.warn(format_args!("a client was not accepted: {error}"));
                    break;
                }
            }
        }
    }

    /// Gives a client its turn.
    fn turn(&mut self, place: usize) {
        let Some(client) = self.clients.get(place) else { return };
        let Some(vbd) = self.vbds[client.vbd].as_mut() else { return };
        let Some(image) = vbd.image.as_mut() else { return };
        let progress = match &mut image.disk {
            Some(disk) if !image.paused => {
                client.connection.ready(&mut Served(disk), &mut vbd.stats)
            }
            _ => client.connection.drain(),
        };
        match progress {
            Progress::Closed(end) => {
                let minor = vbd.minor();
                self.clients.remove(place);
                if matches!(end, nbd::End::Violation(_) | nbd::End::Failed(_) | nbd::End::Truncated)
                {
                    self.warn(format_args!("minor {minor}: a client was dropped: {end}"));
                }
            }
            Progress::More => self.unfinished.push(place),
            Progress::Idle | Progress::Worked => self.rearm_client(place),
        }
    }

    /// Lets the loop wait for what a VBD's clients need now.
    pub(crate) fn rearm(&mut self, place: usize) {
        for client in self.clients.of(place) {
            self.rearm_client(client);
        }
    }

    fn rearm_client(&mut self, place: usize) {
        let Some(client) = self.clients.get(place) else { return };
        let image = self.vbds[client.vbd].as_ref().and_then(|vbd| vbd.image.as_ref());
        let paused = image.is_some_and(|image| image.paused);
        if let Err(error) = client.wait(&self.poller, place, paused) {
            self.clients.remove(place);
            self.warn(format_args!("a client was dropped: {error}"));
        }
    }

    /// Takes leave of a VBD's clients, each with the replies that its socket takes at once.
    pub(crate) fn dismiss(&mut self, place: usize) {
        for client in self.clients.of(place) {
            if let Some(client) = self.clients.get(client) {
                let _sent_or_not = client.connection.drain();
            }
            self.clients.remove(client);
        }
    }

    pub(crate) fn info(&self, text: fmt::Arguments<'_>) {
        self.log.send(Severity::Info, text);
    }

    pub(crate) fn warn(&self, text: fmt::Arguments<'_>) {
        self.log.send(Severity::Warning, text);
    }
}
