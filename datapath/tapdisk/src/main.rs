//! tapdisk-ram: a process that the tools of dom0 take for a tapdisk. It serves RAM disks over NBD
//! and is told what to do through its control socket.
//!
//! `launch` starts the process that stays, `daemon` detaches that from its caller, and it becomes the
//! `keeper`, which starts the `server`, and the next one when that dies; `kept` is what a server leaves for its
//! successor. `event_loop` is the server's single thread: it waits in `poll` and calls the methods of `tapdisk`, the state of the process,
//! which are in `control` (what callers ask for) and `clients` (accepting, serving, closing). `vbd` is a
//! minor and its disk, `frontend` one client, `task` what takes longer than a pass of the loop may,
//! `volume` the store's disk, `metrics` the statistics, `signals` what other processes send. PROTOCOL.md has all of the protocol in tables.

mod clients;
mod control;
mod daemon;
mod event_loop;
mod frontend;
mod keeper;
mod kept;
mod launch;
mod metrics;
mod poll;
mod server;
mod signals;
mod successor;
mod tapdisk;
mod task;
mod vbd;
mod volume;

use std::{
    ffi::OsStr,
    io::{self, Write},
    process::ExitCode,
};

use host::{Variable, variables};
use tapctl::keeper::SERVE_FOR;

/// Exit status of a command line that makes no sense.
const EXIT_USAGE: u8 = 2;

/// How it is called.
const USAGE: &str = "Usage: tapdisk-ram [serve | --help | --version]";

/// What `--help` prints behind the first lines.
const HELP: &str = "\
Without an argument it does what tap-ctl expects of a tapdisk: it goes to the background, prints the
path of its control socket, and waits to be told what to serve. With `serve` it stays in the
foreground, detached from the caller's session and control group. tap-ctl-ram, or blktap's tap-ctl,
tells it what to serve.

It becomes two processes: a keeper, whose pid tap-ctl shows, and the server, its child. When the
server dies, the keeper starts the next one, which goes on where that was.

Environment:";

/// The variables that a tapdisk reads.
const VARIABLES: [Variable; 4] =
    [variables::CONTROL_DIR, variables::SHM_DIR, variables::SYSLOG, variables::POLL_US];

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let argument = arguments.next();
    if argument.as_deref() == Some(OsStr::new(SERVE_FOR)) {
        return server::run(arguments);
    }
    if arguments.next().is_some() {
        return usage();
    }
    let done = match argument.as_deref().map(OsStr::as_encoded_bytes) {
        None => launch::run(),
        Some(b"serve") => keeper::run(),
        Some(b"-h" | b"--help") => print(&help()),
        Some(b"-V" | b"--version") => {
            print(&format!("tapdisk-ram {}\n", env!("CARGO_PKG_VERSION")))
        }
        Some(_) => return usage(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            launch::complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn help() -> String {
    let line = |it: &Variable| format!("  {}: {} (default: {})\n", it.name, it.help, it.default);
    let variables = VARIABLES.iter().map(line).collect::<String>();
    let variables = variables.replace('`', "");
    format!("A tapdisk that serves disks from memory.\n\n{USAGE}\n\n{HELP}\n{variables}")
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    Ok(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())?)
}

/// Reports a command line that is not one of the four.
fn usage() -> ExitCode {
    let _unread = writeln!(io::stderr(), "{USAGE}");
    ExitCode::from(EXIT_USAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_the_usage_and_the_variables_of_the_program() {
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../man/tapdisk-ram.8");
        let usage = USAGE.trim_start_matches("Usage: ");
        pages::check_part(&page, "synopsis", &format!("{}\n", pages::text(usage)));
        pages::check_part(&page, "variables", &pages::variables(&VARIABLES.map(Variable::parts)));
    }
}
