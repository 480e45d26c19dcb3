//! The event loop: one thread, which waits nowhere but in [`Poller::wait`].

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use blkif::{Xen, mock::MockXen};
use block::Interest;
use host::{Config, Environment};
use nbd::ReceiveLimit;
use slab::Slab;
use syslog::{Severity, Syslog};
use tapctl::{ControlDir, Conversations, Listener};

use crate::{
    clients::Shutdown,
    control::{ATTACH_RETRY, CALLERS_PAUSE, LOOK_INTERVAL, Look},
    daemon,
    frontend::Receivers,
    poll::{Poller, Polling, Source},
    signals::Signals,
    tapdisk::Tapdisk,
};

/// After how long without requests clients give back memory that they hold only to be quick.
const IDLE: Duration = Duration::from_secs(1);
/// How often statistics are written, while they change.
const METRICS_INTERVAL: Duration = Duration::from_secs(1);

/// How long a process that the datapath plugin started waits for the first minor.
const UNUSED_TIMEOUT: Duration = Duration::from_secs(60);

/// The loop, and what it serves.
struct EventLoop {
    tapdisk: Tapdisk,
    poller: Poller,
    /// Events of the current pass. Kept for their capacity, as `runnable` is: no pass allocates.
    ready: Vec<Source>,
    /// When statistics are to be written, if they may have changed.
    metrics_due: Option<Instant>,
    /// Since when nothing has happened; `None` once clients have given back their memory.
    idle_since: Option<Instant>,
}

/// Detaches this process from its caller, announces its control socket, and serves until the last VBD is
/// detached or a signal ends it.
pub(crate) fn run() -> Result<()> {
    // Before anything changes directory, as paths may be relative.
    let environment = Environment::process();
    let log = host::syslog(&environment, "tapdisk-ram");
    let config = Config::read(&environment)?;
    config.warnings.iter().for_each(|warning| log.send(Severity::Warning, warning));
    daemon::detach(&log)?;
    memory::return_large_blocks();
    let log = log.nonblocking();
    let dir = config.control;
    dir.create().context("making the control directory")?;
    // Files of a dead process that had this pid.
    if let Err(error) = dir.remove_leftovers(std::process::id(), None) {
        log.send(Severity::Warning, format_args!("leftovers: {error}"));
    }
    let poller = Poller::new(Polling::new(config.poll)).context("making an epoll")?;
    let xen: Box<dyn Xen> = match config.mock_xen {
        Some(guests) => Box::new(MockXen::new(guests)),
        None => Box::new(xen::Host::default()),
    };
    let mut tapdisk = tapdisk(dir, log, xen, &poller)?;
    tapdisk.unused_until = config.started_by_plugin.then(|| Instant::now() + UNUSED_TIMEOUT);
    if let Err(error) = tapdisk.dir.metrics().create_own() {
        tapdisk.warn(format_args!("without statistics: {error}"));
    }
    announce(&tapdisk).inspect_err(|_| {
        // No process knows of this one: it leaves nothing behind.
        let _left = tapdisk.dir.metrics().remove_own();
    })?;
    let mut event_loop =
        EventLoop { tapdisk, poller, ready: Vec::new(), metrics_due: None, idle_since: None };
    let done = event_loop.serve();
    let EventLoop { mut tapdisk, poller, .. } = event_loop;
    tapdisk.vbds.clear();
    // Files that cannot be removed are removed by the next process that finds them.
    let _left = tapdisk.dir.metrics().remove_own();
    tapdisk.info(format_args!("ended; longest pass of the loop {:?}", poller.longest_pass()));
    done.context("serving")
}

/// The state of a process that serves nothing yet.
fn tapdisk(dir: ControlDir, log: Syslog, xen: Box<dyn Xen>, poller: &Poller) -> Result<Tapdisk> {
    let sources = poller.sources().clone();
    let readable = Interest { readable: true, writable: false };
    let listener = Listener::bind(&dir, std::process::id()).context("making the control socket")?;
    let listener = sources.watch(listener, Source::Control, readable);
    let signals = Signals::handle().and_then(|it| sources.watch(it, Source::Signal, readable));
    Ok(Tapdisk {
        dir,
        vbds: Slab::new(),
        draining: Slab::new(),
        xen,
        polled: Vec::new(),
        given_up_rings: Vec::new(),
        updates: Slab::new(),
        receivers: Receivers::default(),
        runnable: Vec::new(),
        receive_limit: ReceiveLimit::new(),
        listener: listener.context("waiting for callers")?,
        conversations: Conversations::new(),
        attaching: Vec::new(),
        signals: signals.context("waiting for signals")?,
        unused_until: None,
        has_lost_clients: false,
        names_due: Instant::now() + LOOK_INTERVAL,
        end: None,
        callers_resume: None,
        accept_resumes: None,
        longest_pass: Duration::ZERO,
        log,
        sources,
    })
}

fn announce(tapdisk: &Tapdisk) -> Result<()> {
    let path = tapdisk.listener.path().display();
    let mut stdout = io::stdout();
    writeln!(stdout, "{path}").context("announcing the control socket")?;
    stdout.flush().context("announcing the control socket")?;
    daemon::release_streams()?;
    tapdisk.info(format_args!("started, control socket {path}"));
    Ok(())
}

impl EventLoop {
    fn serve(&mut self) -> io::Result<()> {
        loop {
            let at_once = !self.tapdisk.runnable.is_empty() || self.tapdisk.has_busy_drives();
            let timeout = if at_once { Some(Duration::ZERO) } else { self.timeout() };
            let mut ready = std::mem::take(&mut self.ready);
            let woken = self.poller.wait(timeout, &mut ready, &mut self.tapdisk)?;
            self.tapdisk.longest_pass = self.poller.longest_pass();
            let mut runnable = std::mem::take(&mut self.tapdisk.runnable);
            let busy = at_once || !ready.is_empty() || !runnable.is_empty();
            runnable.retain(|&(vbd, key)| !ready.contains(&Source::Client(vbd, key)));
            ready.drain(..).for_each(|source| self.handle(source));
            runnable.drain(..).for_each(|(vbd, key)| self.tapdisk.serve_client(vbd, key));
            if self.tapdisk.has_busy_drives() {
                self.tapdisk.work_on_drives();
            }
            self.expire(woken);
            self.ready = ready;
            if self.tapdisk.runnable.is_empty() {
                self.tapdisk.runnable = runnable;
            }
            self.relax(busy, woken);
            if self.tapdisk.is_over(woken) {
                return Ok(());
            }
        }
    }

    fn handle(&mut self, source: Source) {
        match source {
            Source::Signal => self.handle_signals(),
            Source::Control => self.tapdisk.accept_callers(),
            Source::Conversation(key) => self.tapdisk.converse(key),
            Source::Listener(vbd, endpoint) => self.tapdisk.accept_clients(vbd, endpoint),
            Source::Client(vbd, key) => self.tapdisk.serve_client(vbd, key),
            Source::Draining(slot) => self.tapdisk.drain_client(slot),
            Source::Receiver(slot) => self.tapdisk.receive_descriptor(slot),
            Source::Update(slot) => self.tapdisk.go_on_update(slot),
            Source::Opening(vbd) => self.tapdisk.go_on_opening(vbd, Instant::now()),
        }
    }

    /// How long there is nothing to do unless something happens.
    fn timeout(&self) -> Option<Duration> {
        let now = Instant::now();
        let tapdisk = &self.tapdisk;
        let deadlines = [
            // Where there is no room the deadline may have passed: callers pause before the next try.
            tapdisk.conversations.next_deadline().map(|at| at.max(now + CALLERS_PAUSE)),
            tapdisk.receivers.next_deadline(),
            tapdisk.draining.iter().map(|(_, client)| client.until).min(),
            tapdisk.next_closing(),
            tapdisk.next_update(),
            tapdisk.next_opening(),
            (!tapdisk.attaching.is_empty()).then(|| now + ATTACH_RETRY),
            tapdisk.end,
            tapdisk.unused_until,
            tapdisk.end.is_none().then_some(tapdisk.names_due),
            tapdisk.callers_resume.filter(|_| tapdisk.end.is_none()),
            tapdisk.accept_resumes,
            self.metrics_due,
            self.idle_since.map(|since| since + IDLE),
        ];
        let next = deadlines.into_iter().flatten().min()?;
        Some(next.saturating_duration_since(now))
    }

    /// Does what is due.
    fn expire(&mut self, now: Instant) {
        let tapdisk = &mut self.tapdisk;
        tapdisk.conversations.expire(now);
        tapdisk.receivers.expire(now);
        tapdisk.draining.retain(|_, client| client.until > now);
        tapdisk.retry_attaching(now);
        tapdisk.go_on_openings(now);
        tapdisk.finish_closings(now);
        tapdisk.expire_updates(now);
        let is_due = |at: &mut Instant| *at <= now;
        if tapdisk.unused_until.take_if(is_due).is_some()
            && tapdisk.vbds.is_empty()
            && tapdisk.attaching.is_empty()
        {
            tapdisk.info(format_args!("ending, as no minor was attached in {UNUSED_TIMEOUT:?}"));
            tapdisk.stop();
        }
        if tapdisk.names_due <= now {
            tapdisk.restore_names(now, Look::Due);
        }
        if tapdisk.end.is_none() && tapdisk.callers_resume.take_if(is_due).is_some() {
            tapdisk.set_accepting_callers(true);
        }
        if tapdisk.accept_resumes.take_if(is_due).is_some() {
            tapdisk.set_accepting(true);
        }
        if self.metrics_due.take_if(is_due).is_some() {
            self.tapdisk.restore_names(now, Look::Due);
            let images = self.tapdisk.vbds.iter_mut().filter_map(|(_, vbd)| vbd.image_mut());
            // What cannot be written now may be the next time.
            images.for_each(|image| _ = image.write_metrics());
        }
    }

    /// Takes note of whether something has happened; where nothing has for long, clients give back
    /// memory that they hold only to be quick.
    fn relax(&mut self, busy: bool, now: Instant) {
        if busy {
            self.idle_since = Some(now);
            self.metrics_due.get_or_insert(now + METRICS_INTERVAL);
        } else if self.idle_since.take_if(|since| now - *since >= IDLE).is_some() {
            let images = self.tapdisk.vbds.iter_mut().filter_map(|(_, vbd)| vbd.image_mut());
            let clients = images.flat_map(|image| image.clients.iter_mut());
            clients.for_each(|(_, client)| client.frontend.relax());
            if std::mem::take(&mut self.tapdisk.has_lost_clients) {
                memory::return_freed();
            }
        }
    }

    fn handle_signals(&mut self) {
        let asked = self.tapdisk.signals.take();
        if asked.look {
            self.tapdisk.restore_names(Instant::now(), Look::Asked);
        }
        if !asked.end {
            return;
        }
        if !self.tapdisk.is_stopping() {
            self.tapdisk.info(format_args!("ending, as a signal says"));
        }
        let vbds: Vec<usize> = self.tapdisk.vbds.iter().map(|(key, _)| key).collect();
        for vbd in vbds {
            self.tapdisk.close_disk(vbd, Shutdown::Graceful, None);
        }
        self.tapdisk.stop();
    }
}
