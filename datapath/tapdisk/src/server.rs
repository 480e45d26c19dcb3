//! The server: the process that serves, on behalf of its keeper and under its number.

use std::{
    ffi::OsString,
    io::Write,
    os::fd::AsFd,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use blkif::{Xen, mock::MockXen};
use block::Interest;
use host::{Config, Environment};
use nbd::ReceiveLimit;
use slab::Slab;
use smapiv3_syslog::{Severity, Syslog};
use store::Host;
use tapctl::{Conversations, Listener};

use crate::{
    control::LOOK_INTERVAL,
    daemon,
    event_loop::{End, EventLoop, UNUSED_TIMEOUT},
    frontend::Receivers,
    keeper::{BY_PLUGIN, EXIT_REPLACE},
    kept::{Groups, Inheritance, State},
    launch,
    metrics::graphs,
    poll::{GuestPolling, Poller, Polling, Source, Sources},
    signals::Signals,
    tapdisk::Tapdisk,
};

const READABLE: Interest = Interest { readable: true, writable: false };

/// Serves for the keeper that the arguments name, and ends as the keeper understands it.
pub(crate) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let environment = Environment::process();
    let log = host::syslog(&environment, "tapdisk-ram").nonblocking();
    abort_on_panic(log.clone());
    match serve(arguments, &environment, &log) {
        End::Over => ExitCode::SUCCESS,
        End::Replaced => std::process::exit(EXIT_REPLACE.into()),
    }
}

/// The value; an error ends the process as a kill does. No destructor runs: they would unlock volumes and
/// remove names before a successor is there.
fn required<T>(log: &Syslog, result: Result<T>) -> T {
    result.unwrap_or_else(|error| {
        log.send(Severity::Error, format_args!("{error:#}"));
        launch::complain(&error);
        std::process::exit(1)
    })
}

/// A panic ends the process in the same way. One of a thread that loads a file does not.
fn abort_on_panic(log: Syslog) {
    std::panic::set_hook(Box::new(move |panic| {
        log.send(Severity::Error, format_args!("{panic}"));
        let _unread = writeln!(std::io::stderr(), "{panic}");
        if std::thread::current().name() == Some("main") {
            std::process::abort();
        }
    }));
}

fn serve(
    arguments: impl Iterator<Item = OsString>,
    environment: &Environment,
    log: &Syslog,
) -> End {
    let (pid, by_plugin) = required(log, keeper_of(arguments));
    // Its name in lists of processes; a program that is started as /proc/self/exe would be called "exe".
    let _other_name = rustix::thread::set_name(c"tapdisk-ram");
    let inheritance = Inheritance::receive().context("taking over from the keeper");
    let inheritance = required(log, inheritance);
    let config = required(log, Config::read(environment).map_err(Into::into));
    daemon::leave_limiting_groups(log);
    memory::return_large_blocks();
    let poller = Poller::new(Polling::new(config.poll)).context("making an epoll");
    let poller = required(log, poller);
    let graphs = graphs::Setup {
        pid,
        dir: config.control.metrics().clone(),
        host: Host::new(config.sr_root.clone(), config.lock_dir.clone(), config.may_mount),
        mock_xen: config.mock_xen.clone(),
        log: log.clone(),
    };
    let (mut tapdisk, state, groups) = tapdisk(pid, config, log, inheritance, poller.sources());
    tapdisk.unused_until = by_plugin.then(|| Instant::now() + UNUSED_TIMEOUT);
    if let Err(error) = tapdisk.dir.metrics().create(pid) {
        tapdisk.warn(format_args!("without statistics: {error}"));
    }
    match state {
        Some(state) => tapdisk.take_over(state, groups),
        None => tapdisk.save_state(),
    }
    required(log, daemon::release_streams());
    required(log, tapdisk.keeper.tell_ready().context("telling the keeper"));
    if let Err(error) = graphs::start(graphs) {
        tapdisk.warn(format_args!("without graphs: {error}"));
    }
    let mut event_loop = EventLoop::new(tapdisk, poller);
    let end = required(log, event_loop.serve().context("serving"));
    match end {
        End::Over => event_loop.close(),
        // A successor goes on with what is there now.
        End::Replaced => std::mem::forget(event_loop),
    }
    end
}

/// The number of the keeper that the arguments name, and whether the datapath plugin has started it.
fn keeper_of(mut arguments: impl Iterator<Item = OsString>) -> Result<(u32, bool)> {
    let keeper = arguments.next().and_then(|name| name.into_string().ok());
    let pid = keeper.as_deref().and_then(|name| name.split(':').next()?.parse().ok());
    let pid = pid.context("the argument behind serve-for names no keeper")?;
    Ok((pid, arguments.next().is_some_and(|it| it == BY_PLUGIN)))
}

/// The state of a process that serves nothing yet, and what it is to go on with.
fn tapdisk(
    pid: u32,
    config: Config,
    log: &Syslog,
    inheritance: Inheritance,
    sources: &Sources,
) -> (Tapdisk, Option<State>, Groups) {
    let Inheritance { keeper, file, state, mut groups } = inheritance;
    let dir = config.control;
    let inherited = state.as_ref().and_then(|state| groups.take_one(state.control()));
    let (listener, control_group) = match inherited {
        Some((group, socket)) => (Listener::inherited(&dir, pid, socket), group),
        None => {
            required(log, dir.create().context("making the control directory"));
            // Files of a dead process that had this number.
            if let Err(error) = dir.remove_leftovers(pid, None) {
                log.send(Severity::Warning, format_args!("leftovers: {error}"));
            }
            let listener = Listener::bind(&dir, pid).context("making the control socket");
            let listener = required(log, listener);
            let group = keeper.keep(&[listener.as_fd()]).context("keeping the control socket");
            (listener, required(log, group))
        }
    };
    let xen: Box<dyn Xen> = match config.mock_xen {
        Some(guests) => Box::new(MockXen::new(guests)),
        None => Box::new(xen::Host::default()),
    };
    let listener = sources.watch(listener, Source::Control, READABLE);
    let signals = Signals::handle().and_then(|it| sources.watch(it, Source::Signal, READABLE));
    let keeper_end = keeper.end().and_then(|it| sources.watch(it, Source::Keeper, READABLE));
    let guest_polling = GuestPolling::new(dir.metrics());
    let tapdisk = Tapdisk {
        pid,
        dir,
        keeper_end: Some(required(log, keeper_end.context("waiting for the keeper"))),
        keeper,
        state_file: file,
        saved_state: Vec::new(),
        control_group,
        is_replaced: false,
        vbds: Slab::new(),
        draining: Slab::new(),
        xen,
        polled: Vec::new(),
        guest_polling,
        woken: Instant::now(),
        given_up_rings: Vec::new(),
        updates: Slab::new(),
        receivers: Receivers::default(),
        runnable: Vec::new(),
        client_turns: 0,
        closed: Vec::new(),
        receive_limit: ReceiveLimit::new(),
        listener: required(log, listener.context("waiting for callers")),
        conversations: Conversations::new(),
        attaching: Vec::new(),
        signals: required(log, signals.context("waiting for signals")),
        unused_until: None,
        has_lost_clients: false,
        names_due: Instant::now() + LOOK_INTERVAL,
        end: None,
        callers_resume: None,
        accept_resumes: None,
        longest_pass: Duration::ZERO,
        log: log.clone(),
        sources: sources.clone(),
    };
    (tapdisk, state, groups)
}
