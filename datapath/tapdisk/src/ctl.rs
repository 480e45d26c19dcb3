//! A `tap-ctl` for hosts without blktap, and for tests: the same sub-commands, options, formats
//! and exit codes (`control/tap-ctl.c` of blktap). It drives blktap's tapdisks as well.
//!
//! Exit codes are error numbers; what they mean goes to stderr. Left out are the options for what
//! no disk in memory has: parent chains (`-e`), caches (`-r`), second images (`-2`, `-s`), logs of
//! changes (`-C`, `-c`) and encryption (`-E`).

use std::{
    ffi::OsString,
    fmt, io,
    io::{IsTerminal, Write},
    os::unix::ffi::OsStrExt,
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use host::{Config, Environment};
use rustix::io::Errno;
use tapctl::{
    Client, ControlDir, ErrorKind, Flags, Minor, Open, Resume, Spawn, TIMEOUT,
    format::{self, Output},
    list::{self, Filter},
    message::PATH_BYTES,
    minor as minors,
};

/// Drives tapdisks: what `tap-ctl` does, in the same way.
///
/// Exit codes are error numbers. Not for disks in memory, and left out: options -e, -r, -2, -s, -C,
/// -c and -E of blktap's tap-ctl.
#[derive(Debug, Parser)]
#[command(name = "tapdisk-ram ctl", disable_help_subcommand = true)]
pub(crate) struct Ctl {
    /// Say more about an error than what its number means
    #[arg(long, global = true)]
    debug: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List tapdisks and what they serve
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
        #[arg(short)]
        minor: u16,
    },
    /// Allocate, spawn, attach and open
    Create(OpenArgs),
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
        /// Do not wait for anybody
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
}

/// Which VBD.
#[derive(Clone, Copy, Debug, Args)]
struct On {
    /// The tapdisk
    #[arg(short)]
    pid: u32,
    /// The minor
    #[arg(short)]
    minor: u16,
}

#[derive(Debug, Args)]
struct OpenArgs {
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

/// An error number, and what there is to say about it.
struct Failed {
    errno: i32,
    text: String,
}

type Result<T> = std::result::Result<T, Failed>;

/// Runs what the arguments say, those after `ctl`.
pub(crate) fn run(arguments: &[OsString]) -> ExitCode {
    let program = [OsString::from("tapdisk-ram ctl")];
    let ctl = match Ctl::try_parse_from(program.iter().chain(arguments)) {
        Ok(ctl) => ctl,
        Err(help) if !help.use_stderr() => {
            let _unread = help.print();
            return ExitCode::SUCCESS;
        }
        Err(usage) => {
            let _unread = usage.print();
            return exit(Errno::INVAL.raw_os_error());
        }
    };
    let debug = ctl.debug;
    let config = Config::read(&Environment::process())
        .map_err(|error| Failed { errno: Errno::INVAL.raw_os_error(), text: error.to_string() });
    match config.and_then(|config| ctl.command.run(&config.control)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            let mut stderr = io::stderr();
            let _unread = writeln!(stderr, "{}", strerror(failed.errno));
            if debug {
                let _unread = writeln!(stderr, "{}", failed.text);
            }
            exit(failed.errno)
        }
    }
}

fn exit(errno: i32) -> ExitCode {
    u8::try_from(errno).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// What C's strerror says: Rust says the number as well.
fn strerror(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    text.rsplit_once(" (os error").map_or(text.clone(), |(text, _)| text.to_owned())
}

impl Command {
    fn run(self, dir: &ControlDir) -> Result<()> {
        let client = |on: On| Client::new(dir, on.pid);
        let patient = |on: On, seconds: Option<u32>| {
            client(on).timeout(seconds.map_or(TIMEOUT, |it| Duration::from_secs(it.into())))
        };
        match self {
            Self::List { pid, minor, r#type, file } => {
                let filter =
                    Filter { pid, minor: minor.map(i32::from), image_type: r#type, path: file };
                list(dir, &filter)
            }
            Self::Allocate => print_minor(dir, minors::allocate(dir, TIMEOUT)?),
            Self::Free { minor } => Ok(minors::free(dir, minor, TIMEOUT)?),
            Self::Create(image) => create(dir, image),
            Self::Destroy { on, timeout } => {
                patient(on, timeout).close(on.minor)?;
                unexpected(client(on).detach(on.minor))?;
                Ok(minors::free(dir, on.minor, TIMEOUT)?)
            }
            Self::Spawn => {
                let spawned = spawn(dir)?;
                print(format::spawn_line(spawned.pid, output()).as_bytes())
            }
            Self::Attach(on) => unexpected(client(on).attach(on.minor)),
            Self::Detach(on) => unexpected(client(on).detach(on.minor)),
            Self::Open { on, image } => {
                client(on).open(on.minor, image.open()?)?;
                Ok(())
            }
            Self::Close { on, force: true, timeout } => {
                Ok(patient(on, timeout).force_shutdown(on.minor)?)
            }
            Self::Close { on, force: false, timeout } => Ok(patient(on, timeout).close(on.minor)?),
            Self::Pause { on, timeout } => Ok(patient(on, timeout).pause(on.minor)?),
            Self::Unpause { on, args } => {
                let params = args.map(fitting).transpose()?;
                Ok(client(on).resume(on.minor, Resume { params, ..Resume::default() })?)
            }
            Self::Stats(on) => print(format::stats(&client(on).stats(on.minor)?).as_bytes()),
        }
    }
}

impl OpenArgs {
    fn open(self) -> Result<Open> {
        let read_only = if self.read_only { Flags::READ_ONLY } else { Flags::default() };
        let no_o_direct = if self.no_o_direct { Flags::NO_O_DIRECT } else { Flags::default() };
        let mut open = Open::new(fitting(self.args)?).flags(read_only.with(no_o_direct));
        open.timeout_seconds = self.timeout.unwrap_or_default();
        Ok(open)
    }
}

/// Parameters that a message has room for.
fn fitting(params: OsString) -> Result<OsString> {
    if params.as_bytes().len() >= PATH_BYTES {
        let text = format!("{} bytes at most", PATH_BYTES - 1);
        return Err(Failed { errno: Errno::NAMETOOLONG.raw_os_error(), text });
    }
    Ok(params)
}

fn list(dir: &ControlDir, filter: &Filter) -> Result<()> {
    let rows = match filter.pid {
        Some(pid) => list::list_one(dir, pid, TIMEOUT),
        None => list::list(dir, TIMEOUT)?,
    };
    let output = output();
    let wanted = rows.iter().filter(|row| filter.wants(row));
    print(&wanted.flat_map(|row| format::list_line(row, output)).collect::<Vec<u8>>())
}

fn create(dir: &ControlDir, image: OpenArgs) -> Result<()> {
    let open = image.open()?;
    let minor = minors::allocate(dir, TIMEOUT)?;
    let done = spawn(dir).and_then(|spawned| {
        let client = Client::new(dir, spawned.pid);
        if let Err(error) = client.attach(minor) {
            // Nothing else would end it, and nobody else knows of it.
            let _first_error_counts = spawned.identity.kill();
            return unexpected(Err(error));
        }
        client.open(minor, open).map(drop).map_err(|error| {
            let _first_error_counts = client.detach(minor);
            // It holds the minor's lock until it has answered, and no longer.
            error.into()
        })
    });
    match done {
        Ok(()) => print_minor(dir, minor),
        Err(failed) => {
            let _first_error_counts = minors::free(dir, minor, TIMEOUT);
            Err(failed)
        }
    }
}

/// Starts this very program as a tapdisk.
fn spawn(dir: &ControlDir) -> Result<tapctl::Spawned> {
    let program = std::env::current_exe()?;
    Ok(Spawn::new(dir, program).start()?)
}

fn print_minor(dir: &ControlDir, minor: Minor) -> Result<()> {
    print(&[dir.minor(minor).as_os_str().as_bytes(), b"\n"].concat())
}

fn output() -> Output {
    if io::stdout().is_terminal() { Output::Terminal } else { Output::Pipe }
}

fn print(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    Ok(stdout.write_all(bytes).and_then(|()| stdout.flush())?)
}

/// As tap-ctl, to which the refusal of an attach or a detach is an answer that it does not expect.
fn unexpected(done: tapctl::Result<()>) -> Result<()> {
    done.map_err(|error| match error.kind() {
        ErrorKind::Remote(_) => {
            Failed { errno: Errno::INVAL.raw_os_error(), text: error.to_string() }
        }
        _ => error.into(),
    })
}

impl From<tapctl::Error> for Failed {
    fn from(error: tapctl::Error) -> Self {
        Self { errno: error.errno(), text: chain(&error) }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        Self { errno: errno.raw_os_error(), text: error.to_string() }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(|cause| format!(": {}", chain(cause)));
    format!("{error}{}", cause.unwrap_or_default())
}

impl fmt::Debug for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", strerror(self.errno), self.text)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_holds_and_sub_commands_are_those_of_tap_ctl() {
        let command = Ctl::command();
        command.clone().debug_assert();
        let names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
        assert_eq!(
            names,
            [
                "list", "allocate", "free", "create", "destroy", "spawn", "attach", "detach",
                "open", "close", "pause", "unpause", "stats"
            ]
        );
    }

    #[test]
    fn errors_are_told_as_c_does() {
        assert_eq!(strerror(2), "No such file or directory");
        assert_eq!(strerror(114), "Operation already in progress");
    }
}
