//! The command line: sub-commands and options of `tap-ctl`.

use std::{ffi::OsString, os::unix::ffi::OsStrExt};

use clap::{Args, Parser, Subcommand};
use rustix::io::Errno;
use tapctl::{Flags, Open, message::PATH_BYTES};

use crate::error::{Error, Result};

/// Controls tapdisks in the same way as `tap-ctl`.
///
/// Exit codes are error numbers. Not for disks in memory, and left out: options -e, -r, -2, -s, -C,
/// -c and -E of blktap's tap-ctl.
#[derive(Debug, Parser)]
#[command(name = "tap-ctl-ram", version, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    /// Print details of an error beside the text of its number
    #[arg(long, global = true)]
    pub(crate) debug: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List tapdisks and the images that they serve
    ///
    /// To a terminal: pid, minor, state, type, file. Otherwise: pid=, minor=, state=, args=.
    List {
        /// Of this tapdisk
        #[arg(short)]
        pid: Option<u32>,
        /// Of this minor
        #[arg(short)]
        minor: Option<u16>,
        /// Of this type
        #[arg(short)]
        r#type: Option<OsString>,
        /// Of this file
        #[arg(short)]
        file: Option<OsString>,
    },
    /// Reserve a minor, and print the file that does so
    Allocate,
    /// Give a minor back
    Free {
        /// The minor
        #[arg(short)]
        minor: u16,
    },
    /// Allocate, spawn, attach and open
    Create {
        #[command(flatten)]
        image: OpenArgs,
        /// A device's name, which has no meaning any more; accepted as by tap-ctl
        #[arg(short, value_name = "NAME")]
        device: Option<OsString>,
    },
    /// Close, detach and free
    Destroy {
        #[command(flatten)]
        on: On,
        /// Seconds to wait
        #[arg(short)]
        timeout: Option<u32>,
    },
    /// Start a tapdisk, and print its pid
    Spawn,
    /// Give a reserved minor to a tapdisk
    Attach(On),
    /// Take a minor from a tapdisk; the last one ends it
    Detach(On),
    /// Open an image
    Open {
        #[command(flatten)]
        on: On,
        #[command(flatten)]
        image: OpenArgs,
    },
    /// Close the image
    Close {
        #[command(flatten)]
        on: On,
        /// Do not wait for rings or clients
        #[arg(short)]
        force: bool,
        /// Seconds to wait
        #[arg(short)]
        timeout: Option<u32>,
    },
    /// Let go of the image; its clients wait
    Pause {
        #[command(flatten)]
        on: On,
        /// Seconds to wait
        #[arg(short)]
        timeout: Option<u32>,
    },
    /// Open the image again, or another one of the same size
    Unpause {
        #[command(flatten)]
        on: On,
        /// Another image, <type>:<path>
        #[arg(short = 'a', value_name = "TYPE:PATH")]
        args: Option<OsString>,
    },
    /// Print statistics as JSON
    Stats(On),
    /// Let the program that is installed now serve the disks of a tapdisk-ram
    ///
    /// Another process takes over, under the same pid; guests notice nothing, and NBD clients reconnect.
    /// Prints the version that serves then.
    Upgrade {
        /// The tapdisk
        #[arg(short)]
        pid: u32,
    },
}

/// Which VBD.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct On {
    /// The tapdisk
    #[arg(short)]
    pub(crate) pid: u32,
    /// The minor
    #[arg(short)]
    pub(crate) minor: u16,
}

#[derive(Debug, Args)]
pub(crate) struct OpenArgs {
    /// The image, <type>:<path>
    #[arg(short = 'a', value_name = "TYPE:PATH")]
    args: OsString,
    /// Refuse writes
    #[arg(short = 'R')]
    read_only: bool,
    /// Without O_DIRECT, which makes no difference in memory
    #[arg(short = 'D')]
    no_o_direct: bool,
    /// Seconds after which a request fails
    #[arg(short)]
    timeout: Option<u16>,
}

impl OpenArgs {
    /// The request to open the image.
    pub(crate) fn open(self) -> Result<Open> {
        let read_only = if self.read_only { Flags::READ_ONLY } else { Flags::default() };
        let no_o_direct = if self.no_o_direct { Flags::NO_O_DIRECT } else { Flags::default() };
        let mut open = Open::new(fitting(self.args)?).flags(read_only.with(no_o_direct));
        open.timeout_seconds = self.timeout.unwrap_or_default();
        Ok(open)
    }
}

/// Parameters that a message has room for.
pub(crate) fn fitting(params: OsString) -> Result<OsString> {
    if params.as_bytes().len() >= PATH_BYTES {
        let text = format!("{} bytes at most", PATH_BYTES - 1);
        return Err(Error::new(Errno::NAMETOOLONG, text));
    }
    Ok(params)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_holds_and_sub_commands_are_those_of_tap_ctl() {
        let command = Arguments::command();
        command.clone().debug_assert();
        let names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
        assert_eq!(
            names,
            [
                "list", "allocate", "free", "create", "destroy", "spawn", "attach", "detach",
                "open", "close", "pause", "unpause", "stats", "upgrade"
            ]
        );
    }

    #[test]
    fn the_page_and_the_completion_are_those_of_the_command_line() {
        let datapath = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let command = Arguments::command();
        let page = datapath.join("man/tap-ctl-ram.8");
        let calls = command.get_subcommands().map(|it| pages::synopsis(command.get_name(), it));
        let synopsis: String = calls.map(|call| call + "\n").collect();
        pages::check_part(&page, "synopsis", &synopsis);
        pages::check_part(&page, "commands", &pages::commands(&command, &[], |_| true));
        pages::check_completions(&datapath.join("completions"), &command);
    }
}
