//! tapdisk-ram: a process that the tools of dom0 take for a tapdisk. It serves RAM disks over NBD
//! and is told what to do through its control socket.
//!
//! `launch` starts the process that stays, `daemon` detaches it from whoever started it, `server`
//! is its single-threaded event loop, `poller` and `polling` how it waits, `serving` the part of it
//! that is about clients, `vbd` what they are clients of, `door` and `receiver` how they come,
//! `control` what the process is told, `metrics` and `stats` what it tells of itself. `ctl` is the
//! other side: a `tap-ctl`. PROTOCOL.md has all of it in tables.

mod client;
mod control;
mod ctl;
mod daemon;
mod disk;
mod door;
mod launch;
mod metrics;
mod poller;
mod polling;
mod receiver;
mod server;
mod serving;
mod stats;
mod vbd;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

/// A tapdisk that serves disks from memory.
///
/// Without a command it does what tap-ctl expects of a tapdisk: it goes to the background, prints
/// the path of its control socket, and waits to be told what to serve. Environment:
/// XAPI_RAM_CONTROL_DIR, the directory of its sockets (default: /run/blktap-control);
/// XAPI_RAM_SHM_DIR, the directory of its statistics (default: /dev/shm, or shm below a control
/// directory that is not the default); XAPI_RAM_POLL_US, for how many microseconds it looks for the
/// next request of a busy client before it sleeps (default: 50; 0: never).
#[derive(Debug, Parser)]
#[command(name = "tapdisk-ram", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve in the foreground, detached from the caller's session and control group
    Serve,
    /// Drive tapdisks, as tap-ctl does: see ctl --help
    #[command(disable_help_flag = true)]
    Ctl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    // A tapdisk starts without the parser: every disk that is attached waits for it.
    let done = match arguments.as_slice() {
        [] => launch::run(),
        [serve] if serve == "serve" => server::run(),
        [ctl, arguments @ ..] if ctl == "ctl" => return ctl::run(arguments),
        _ => match Arguments::parse().command {
            None => launch::run(),
            Some(Command::Serve) => server::run(),
            Some(Command::Ctl { arguments }) => return ctl::run(&arguments),
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            launch::complain(&error);
            ExitCode::FAILURE
        }
    }
}
