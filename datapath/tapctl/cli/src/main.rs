//! tap-ctl-ram: a `tap-ctl` for hosts without blktap, and for tests. It has the same sub-commands,
//! options, outputs and exit codes (`control/tap-ctl.c` of blktap), and drives blktap's tapdisks too. One
//! sub-command is its own, `upgrade`.
//!
//! Exit codes are error numbers; their text goes to stderr. Left out are the options for what
//! no disk in memory has: parent chains (`-e`), caches (`-r`), second images (`-2`, `-s`), logs of
//! changes (`-C`, `-c`) and encryption (`-E`).
//!
//! `arguments` defines the command line, `commands` executes it, `list` queries tapdisks,
//! `format` makes the output, `error` has the exit codes.

mod arguments;
mod commands;
mod error;
mod format;
mod list;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use host::{Config, Environment};
use rustix::io::Errno;

use crate::{arguments::Arguments, error::strerror};

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(help) if !help.use_stderr() => {
            let _unread = help.print();
            return ExitCode::SUCCESS;
        }
        Err(usage) => {
            let _unread = usage.print();
            return exit(Errno::INVAL.raw_os_error());
        }
    };
    let config = match Config::read(&Environment::process()) {
        Ok(config) => config,
        Err(misconfigured) => {
            complain(&misconfigured.to_string());
            return exit(Errno::INVAL.raw_os_error());
        }
    };
    match commands::execute(arguments.command, &config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&strerror(error.errno));
            if arguments.debug {
                complain(&error.text);
            }
            exit(error.errno)
        }
    }
}

fn complain(line: &str) {
    let _unread = writeln!(io::stderr(), "{line}");
}

fn exit(errno: i32) -> ExitCode {
    u8::try_from(errno).map_or(ExitCode::FAILURE, ExitCode::from)
}
