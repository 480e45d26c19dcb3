//! The keeper: the process whose number is that of the tapdisk to every other program. It starts the
//! server, which does all the work, and starts the next one when that dies.
//!
//! It holds what outlives a server: the descriptors that servers have given it (listening sockets, locks,
//! journals of rings) and the file of their state. It understands none of it, and opens none of Xen's
//! devices: those of a dead server are closed, and its successor opens them again. It is never replaced
//! while it lives, so it does as little as possible.

pub(crate) use program::BY_PLUGIN;

mod program;
mod restarts;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Child, ExitStatus},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use host::{Config, Environment};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal, kill_process},
};
use smapiv3_syslog::{Severity, Syslog};
use tapctl::{ControlDir, Identity};

use self::{program::Program, restarts::Restarts};
use crate::{
    daemon,
    kept::{
        self,
        channel::{self, Message, Received},
    },
    signals::Signals,
};

/// Exit status of a server that is to be replaced by the program that is installed now.
pub(crate) const EXIT_REPLACE: u8 = 75;

/// What outlives the servers, and the way to the one that serves.
struct Keeper {
    dir: ControlDir,
    log: Syslog,
    signals: Signals,
    program: Program,
    state: File,
    groups: BTreeMap<u32, Vec<OwnedFd>>,
    restarts: Restarts,
    /// Whether a server has become ready: then the control socket was announced.
    is_announced: bool,
    /// Whether a signal has asked for the end.
    is_ending: bool,
}

/// The server that serves now.
struct Server {
    process: Child,
    /// `None` once it is closed at the other end.
    channel: Option<UnixStream>,
    ready_since: Option<Instant>,
}

/// Detaches this process from its caller, and keeps a server until that ends by itself.
pub(crate) fn run() -> Result<()> {
    // Before anything changes directory, as paths may be relative.
    let environment = Environment::process();
    let log = host::syslog(&environment, "tapdisk-ram");
    let config = Config::read(&environment)?;
    config.warnings.iter().for_each(|warning| log.send(Severity::Warning, warning));
    let name = Identity::own().context("looking for this process")?.keeper_name();
    let program = Program::of_this_process(name, &config)?;
    daemon::detach(&log)?;
    let signals = Signals::handle_of_keeper().context("waiting for signals")?;
    let mut keeper = Keeper {
        dir: config.control,
        log: log.nonblocking(),
        signals,
        program,
        state: kept::create_state().context("making the file of the state")?,
        groups: BTreeMap::new(),
        restarts: Restarts::default(),
        is_announced: false,
        is_ending: false,
    };
    let kept = keeper.keep();
    if let Err(error) = &kept {
        keeper.log.send(Severity::Error, format_args!("{error:#}"));
        keeper.remove_names();
    }
    kept
}

impl Keeper {
    /// Starts servers, one after the other, until one ends by itself.
    fn keep(&mut self) -> Result<()> {
        loop {
            let mut server = match self.start() {
                Ok(server) => server,
                // Memory may be short for a moment.
                Err(error) if self.is_announced => {
                    self.died(&format!("{error:#}"), None)?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let status = self.watch(&mut server)?;
            let pid = server.process.id();
            if status.success() {
                return Ok(());
            }
            if self.is_ending {
                bail!("server {pid} was to end, and ended otherwise: {status}");
            }
            if !self.is_announced {
                bail!("the server ended before it was ready: {status}");
            }
            if status.code() == Some(EXIT_REPLACE.into()) {
                self.replace(pid);
                continue;
            }
            if server.ready_since.is_none() && self.program.give_up_replacement() {
                self.warn(&format!(
                    "the program that was to go on does not serve ({status}); the one before does"
                ));
                continue;
            }
            self.died(&format!("server {pid} has died ({status})"), server.ready_since)?;
        }
    }

    /// The next server is the program that is installed now, where there is one.
    fn replace(&mut self, server: u32) {
        let text = match self.program.replace() {
            Ok(program) => format!("server {server} makes way for {}", program.display()),
            Err(error) => format!("no other program is installed, and the same goes on: {error}"),
        };
        self.info(&text);
    }

    /// Waits for the moment at which the next server is to be started; an error: there is to be none.
    fn died(&mut self, what: &str, ready_since: Option<Instant>) -> Result<()> {
        let now = Instant::now();
        let Some(pause) = self.restarts.died(now, ready_since) else {
            bail!("{what}, as those before it: no further one is started, and its disks are dead");
        };
        self.warn(&format!("{what}; another one goes on"));
        self.pause(now + pause)?;
        if self.is_ending {
            bail!("a signal says so, and no server is there to end");
        }
        Ok(())
    }

    /// Starts a server, and sends it what is kept.
    fn start(&mut self) -> Result<Server> {
        let (ours, theirs) = UnixStream::pair().context("making a socket pair")?;
        let process = self.program.start(&theirs, !self.is_announced)?;
        let server = Server { process, channel: Some(ours), ready_since: None };
        if let Err(error) = self.send_all(&server) {
            // It dies of that, or is dead already.
            self.warn(&format!("server {}: {error}", server.process.id()));
        }
        Ok(server)
    }

    fn send_all(&self, server: &Server) -> io::Result<()> {
        let Some(channel) = &server.channel else { return Ok(()) };
        let hello = Message::Hello { groups: self.groups.len() as u32 };
        channel::send(channel, hello, &[self.state.as_fd()])?;
        for (&group, descriptors) in &self.groups {
            let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            channel::send(channel, Message::Keep { group }, &descriptors)?;
        }
        Ok(())
    }

    /// Does what a server and signals ask for, until the server has ended.
    fn watch(&mut self, server: &mut Server) -> Result<ExitStatus> {
        loop {
            self.wait(server.channel.as_ref(), None)?;
            self.receive(server)?;
            self.pass_on_signals(Some(server));
            if let Some(status) = server.process.try_wait().context("waiting for the server")? {
                // What it has sent before it died.
                self.receive(server)?;
                return Ok(status);
            }
        }
    }

    /// Waits for signals, and for messages of a server; until a moment, if one is given.
    fn wait(&self, channel: Option<&UnixStream>, until: Option<Instant>) -> io::Result<()> {
        let signals = PollFd::new(&self.signals, PollFlags::IN);
        let mut waited_for = vec![signals];
        waited_for.extend(channel.map(|channel| PollFd::new(channel, PollFlags::IN)));
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        match poll(&mut waited_for, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits until a moment, or until a signal asks for the end.
    fn pause(&mut self, until: Instant) -> Result<()> {
        while Instant::now() < until && !self.is_ending {
            self.wait(None, Some(until))?;
            self.pass_on_signals(None);
        }
        Ok(())
    }

    /// Takes the messages that a server has sent.
    fn receive(&mut self, server: &mut Server) -> Result<()> {
        while let Some(channel) = &server.channel {
            match channel::receive(channel, false) {
                Ok(Received::Message(Some(Message::Keep { group }), descriptors)) => {
                    self.groups.insert(group, descriptors);
                }
                Ok(Received::Message(Some(Message::Drop { group }), _)) => {
                    self.groups.remove(&group);
                }
                Ok(Received::Message(Some(Message::Ready), _)) => {
                    server.ready_since = Some(Instant::now());
                    self.program.is_ready();
                    if !self.is_announced {
                        self.announce()?;
                    }
                }
                Ok(Received::Message(_, _)) => {}
                Ok(Received::Nothing) => return Ok(()),
                Ok(Received::End) => server.channel = None,
                Err(error) => {
                    self.warn(&format!("server {}: {error}", server.process.id()));
                    server.channel = None;
                }
            }
        }
        Ok(())
    }

    /// Signals to the tapdisk are meant for its server.
    fn pass_on_signals(&mut self, server: Option<&mut Server>) {
        let asked = self.signals.take();
        self.is_ending |= asked.end;
        // Not yet waited for: its number is still its own.
        let Some(server) = server.map(|server| Pid::from_child(&server.process)) else { return };
        for (is_asked, signal) in [(asked.end, Signal::TERM), (asked.look, Signal::HUP)] {
            if is_asked {
                let _dead = kill_process(server, signal);
            }
        }
    }

    /// Tells the caller that the tapdisk is ready.
    fn announce(&mut self) -> Result<()> {
        self.is_announced = true;
        let path = self.dir.ctl(std::process::id());
        let path = path.display();
        let mut stdout = io::stdout();
        writeln!(stdout, "{path}").context("announcing the control socket")?;
        stdout.flush().context("announcing the control socket")?;
        daemon::release_streams()?;
        self.info(&format!("started, control socket {path}"));
        Ok(())
    }

    /// Removes what servers have left under this process's name, as no further one is started.
    fn remove_names(&mut self) {
        self.groups.clear();
        let pid = std::process::id();
        let metrics = self.dir.metrics().remove(pid);
        let removed = self.dir.remove_leftovers(pid, None).map(drop);
        for error in [metrics, removed].into_iter().filter_map(Result::err) {
            self.warn(&format!("leftovers: {error}"));
        }
    }

    fn info(&self, text: &str) {
        self.log.send(Severity::Info, text);
    }

    fn warn(&self, text: &str) {
        self.log.send(Severity::Warning, text);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Dead already, unless this process is about to end with an error: then its server ends as well.
        let _dead = self.process.kill();
        let _waited_for = self.process.wait();
    }
}
