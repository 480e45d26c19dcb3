//! One execution of a method's file, as xapi-storage-script performs it (`Process.run` of
//! `ocaml/xapi-storage-script/lib.ml`): stdin, stdout and stderr are pipes, all of stdin is sent, both
//! outputs are read to their ends, and only then is the process waited for.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long outputs may stay open after the process has exited before a background child is taken
/// to hold them.
const GRACE: Duration = Duration::from_secs(2);
/// How long a call may take that an interruption finds running.
const AFTER_INTERRUPT: Duration = Duration::from_secs(10);
/// How often the state of a process is looked at while nothing comes from it.
const TICK: Duration = Duration::from_millis(20);
/// The daemon ignores SIGPIPE, and what it executes inherits that.
const IGNORE_SIGPIPE: &str = "trap '' PIPE; exec \"$0\" --json";
/// What a systemd service has for a PATH.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It exited with this status.
    Exit(i32),
    /// A signal ended it.
    Signal(i32),
    /// It was killed on purpose, which a rule asked for.
    Killed,
    /// It did not end in the time that a call may take, and was killed.
    TimedOut,
    /// It could not be started.
    NotStarted(String),
}

/// What one execution left.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Everything on stdout.
    pub stdout: Vec<u8>,
    /// Everything on stderr.
    pub stderr: Vec<u8>,
    /// How it ended.
    pub end: End,
    /// Whether it read all of its stdin.
    pub stdin_taken: bool,
    /// Whether another process still held stdout or stderr when this one had exited.
    pub outputs_held: bool,
}

/// How to execute.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// Variables beside PATH and LANG.
    pub environment: &'a [(String, String)],
    /// A process that takes longer is killed.
    pub timeout: Duration,
    /// Kills the process with SIGKILL after this time.
    pub kill_after: Option<Duration>,
    /// Shortens the time that the call may take.
    pub interrupted: &'a AtomicBool,
    /// Through `python3 -c <this> <file> --json` instead of directly.
    pub python: Option<&'a str>,
}

/// Executes a method's file with bytes on its stdin.
#[must_use]
pub fn execute(script: &Path, stdin: &[u8], terms: &Terms<'_>) -> Ended {
    let mut python_path = String::new();
    let mut command = match terms.python {
        Some(program) => {
            let mut command = Command::new("python3");
            command.args(["-c", program]).arg(script).arg("--json");
            // The daemon adds the method's own directory (`invoke_script` of `main.ml`).
            let own = script.parent().unwrap_or(script).display();
            let given = terms.environment.iter().find(|(name, _)| name == "PYTHONPATH");
            python_path = given.map_or_else(|| own.to_string(), |(_, it)| format!("{own}:{it}"));
            command
        }
        None => {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", IGNORE_SIGPIPE]).arg(script);
            command
        }
    };
    command.env_clear().env("PATH", PATH).env("LANG", "en_US.UTF-8").current_dir("/");
    command.envs(terms.environment.iter().map(|(name, value)| (name, value)));
    if !python_path.is_empty() {
        command.env("PYTHONPATH", python_path);
    }
    // Ctrl-C goes to the whole group, and is not to end a call half-way.
    command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    match command.spawn().and_then(|child| Running::new(child, stdin)) {
        Ok(running) => running.wait(terms),
        Err(error) => Ended {
            stdout: Vec::new(),
            stderr: Vec::new(),
            end: End::NotStarted(error.to_string()),
            stdin_taken: true,
            outputs_held: false,
        },
    }
}

/// What a thread of a call has finished.
#[derive(PartialEq, Eq)]
enum Part {
    Sent { all: bool },
    Read,
}

struct Running {
    child: Child,
    parts: Receiver<Part>,
    stdout: Arc<Mutex<Vec<u8>>>,
    stderr: Arc<Mutex<Vec<u8>>>,
    /// The pipes of both.
    outputs: [OwnedFd; 2],
}

impl Running {
    fn new(mut child: Child, stdin: &[u8]) -> io::Result<Self> {
        let (sender, parts) = mpsc::channel();
        let mut pipe = child.stdin.take().expect("piped");
        let (stdin, told) = (stdin.to_owned(), sender.clone());
        thread::spawn(move || {
            let all = pipe.write_all(&stdin).is_ok();
            drop(pipe);
            let _unheard = told.send(Part::Sent { all });
        });
        let (out, err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let outputs = [out.as_fd().try_clone_to_owned()?, err.as_fd().try_clone_to_owned()?];
        let (stdout, stderr) = (read(out, sender.clone()), read(err, sender));
        Ok(Self { child, parts, stdout, stderr, outputs })
    }

    /// Whether any process can still write to the outputs: on a busy host it may be that what they have is not
    /// read yet.
    fn are_outputs_held(&self) -> bool {
        self.outputs.iter().any(|pipe| {
            let mut fds = [PollFd::new(pipe, PollFlags::empty())];
            let polled = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
            polled.is_ok() && !fds[0].revents().contains(PollFlags::HUP)
        })
    }

    fn wait(mut self, terms: &Terms<'_>) -> Ended {
        let began = Instant::now();
        let (mut to_read, mut sent, mut exited) = (2, None, None);
        let mut forced = None;
        loop {
            let kill_at = terms.kill_after.filter(|_| forced.is_none());
            let left = kill_at.map_or(TICK, |at| at.saturating_sub(began.elapsed()).min(TICK));
            match self.parts.recv_timeout(left) {
                Ok(Part::Sent { all }) => sent = Some(all),
                Ok(Part::Read) => to_read -= 1,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            if exited.is_none() && (to_read == 0 || began.elapsed() > TICK) {
                exited = self.child.try_wait().ok().flatten().map(|it| (it, Instant::now()));
            }
            if let Some((status, at)) = exited
                && (to_read == 0 && sent.is_some()
                    || at.elapsed() > GRACE && (to_read == 0 || self.are_outputs_held()))
            {
                return self.ended(status, forced, sent.unwrap_or(false), to_read > 0);
            }
            if forced.is_some() {
                continue;
            }
            // An interruption leaves a call the time to end.
            let is_interrupted = terms.interrupted.load(Ordering::Relaxed);
            let late =
                if is_interrupted { AFTER_INTERRUPT.min(terms.timeout) } else { terms.timeout };
            if kill_at.is_some_and(|at| began.elapsed() >= at) {
                forced = Some(End::Killed);
            } else if began.elapsed() > late {
                forced = Some(End::TimedOut);
            }
            if forced.is_some() {
                // It may have exited meanwhile.
                let _ended_already = self.child.kill();
            }
        }
    }

    fn ended(&self, status: ExitStatus, forced: Option<End>, taken: bool, held: bool) -> Ended {
        let bytes = |of: &Mutex<Vec<u8>>| std::mem::take(&mut *of.lock().expect("no panic"));
        let own = match (status.code(), status.signal()) {
            (Some(code), _) => End::Exit(code),
            (None, signal) => End::Signal(signal.unwrap_or_default()),
        };
        Ended {
            stdout: bytes(&self.stdout),
            stderr: bytes(&self.stderr),
            end: match forced {
                Some(forced) if own == End::Signal(9) => forced,
                _ => own,
            },
            stdin_taken: taken,
            outputs_held: held,
        }
    }
}

/// Collects what comes from a pipe, and tells when that has ended.
fn read(mut pipe: impl Read + Send + 'static, told: Sender<Part>) -> Arc<Mutex<Vec<u8>>> {
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&bytes);
    thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            shared.lock().expect("no panic").extend_from_slice(&buffer[..length]);
        }
        let _unheard = told.send(Part::Read);
    });
    bytes
}
