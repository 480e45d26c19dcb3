//! tapdisk-ram: a process that the tools of dom0 take for a tapdisk. It serves RAM disks over NBD
//! and is told what to do through its control socket.
//!
//! `launch` starts the process that stays, `daemon` detaches it from whoever started it, `server`
//! is its single-threaded event loop, `vbd` what the loop serves, `control` what it is told.

mod client;
mod control;
mod daemon;
mod disk;
mod launch;
mod poller;
mod server;
mod stats;
mod vbd;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A tapdisk that serves disks from memory.
///
/// Without a command it does what tap-ctl expects of a tapdisk: it goes to the background, prints
/// the path of its control socket, and waits to be told what to serve. Environment:
/// XAPI_RAM_CONTROL_DIR, the directory of its sockets (default: /run/blktap-control).
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
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        None => launch::run(),
        Some(Command::Serve) => server::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            launch::complain(&error);
            ExitCode::FAILURE
        }
    }
}
