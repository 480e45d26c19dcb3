//! Starting a tapdisk as `tap-ctl spawn` does: exec it, read its control socket's path, wait for
//! the process that was started to exit.
//!
//! Used by the datapath plugin and a `tap-ctl`. The program turns itself into a daemon: the
//! started process exits with 0, the daemon prints `<control dir>/ctl<pid>` to its standard output
//! (`control/tap-ctl-spawn.c`, `drivers/tapdisk2.c`). Unlike there the line is read while waiting,
//! everything has a deadline, and on failure the caller learns what the program printed.

use std::{
    ffi::OsString,
    io::{self, PipeReader, Read},
    os::unix::{ffi::OsStrExt, process::ExitStatusExt},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::{
    event::PollFlags,
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
};

use crate::{
    deadline::{Deadline, TIMEOUT},
    dir::ControlDir,
    error::{Error, ErrorKind, Result},
    process::Identity,
};

/// How much of the output of a program is kept; the rest is read and discarded.
const OUTPUT_BYTES_MAX: usize = 16 << 10;

/// The first pause before the process that has announced a tapdisk is looked at again.
const PAUSE: Duration = Duration::from_micros(50);

const ACTION: &str = "start the tapdisk";

/// A tapdisk to start.
#[derive(Clone, Debug)]
pub struct Spawn {
    dir: ControlDir,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    timeout: Duration,
}

/// A tapdisk that was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spawned {
    /// The number in its control socket's name.
    pub pid: u32,
    /// The identity of the process; its number may belong to another one later.
    pub identity: Identity,
}

impl Spawn {
    /// A tapdisk that announces itself in that directory.
    #[must_use]
    pub fn new(dir: &ControlDir, program: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.clone(),
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            timeout: TIMEOUT,
        }
    }

    /// With one more argument.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// With more variables beside the caller's environment.
    #[must_use]
    pub fn variables<N, V>(mut self, variables: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: Into<OsString>,
        V: Into<OsString>,
    {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        self.environment.extend(variables);
        self
    }

    /// With another limit than [`TIMEOUT`] for all of it.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Starts it. Its input is /dev/null, output and errors are a pipe, and it inherits nothing
    /// else: every other descriptor of the *caller* is marked close-on-exec here, since a child
    /// that outlives the caller would keep them open (its caller would wait for an end of file).
    ///
    /// # Errors
    /// [`ErrorKind::Failed`] where it cannot be started, exits with another status than 0, or ends
    /// without an announcement: with its status and output as detail. [`ErrorKind::Timeout`] where it
    /// neither announces itself nor exits; the started process is killed then, but not a daemon that
    /// it may have started and not announced.
    pub fn start(&self) -> Result<Spawned> {
        let deadline = Deadline::after(self.timeout);
        let failed = |cause: io::Error| {
            Error::new(ErrorKind::Failed, ACTION, self.program.display()).caused_by(cause)
        };
        let (reader, writer) = io::pipe().map_err(failed)?;
        fcntl_getfl(&reader)
            .and_then(|flags| fcntl_setfl(&reader, flags | OFlags::NONBLOCK))
            .map_err(|errno| failed(errno.into()))?;
        memory::close_inherited_on_exec().map_err(failed)?;
        let errors = writer.try_clone().map_err(failed)?;
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(errors);
        let mut child = command.spawn().map_err(failed)?;
        // The command holds our copies of the writing end, and with them the end of file back.
        drop(command);
        let started = self.follow(&mut child, reader, deadline);
        if started.is_err() {
            // Our own child and not yet waited for: its number is still its own.
            let _exited_already = child.kill();
            let _status_is_told = child.wait();
        }
        started
    }

    /// Waits for the line and the exit, whichever comes first.
    fn follow(&self, child: &mut Child, reader: PipeReader, deadline: Deadline) -> Result<Spawned> {
        let mut output = Output { reader, bytes: Vec::new(), ended: false };
        let (mut status, mut pause) = (None, PAUSE);
        loop {
            output.take().map_err(|cause| self.failed(&output, status).caused_by(cause))?;
            if status.is_none() {
                status = child
                    .try_wait()
                    .map_err(|cause| self.failed(&output, None).caused_by(cause))?;
            }
            let pid = self.announced(&output.bytes);
            match (status, pid) {
                (Some(status), _) if !status.success() => {
                    return Err(self.ended(&mut output, status));
                }
                (Some(_), Some(pid)) => return self.identify(pid, &output),
                (Some(status), None) if output.ended => return Err(self.ended(&mut output, status)),
                _ => {}
            }
            let waited = match (status, output.ended) {
                // Only the line is missing, so only the pipe is to be watched.
                (Some(_), _) => deadline.wait(&output.reader, PollFlags::IN).unwrap_or(false),
                // The line is its last deed. Where it fails, it may end without one.
                (None, false) if pid.is_none() => {
                    deadline.wait_briefly(&output.reader, PollFlags::IN).unwrap_or(false)
                }
                (None, _) => deadline.pause(&mut pause),
            };
            if !waited {
                return Err(Error::new(ErrorKind::Timeout, ACTION, self.program.display())
                    .detailed(output.text()));
            }
        }
    }

    /// The number in the announcement, where there is a whole line of it.
    fn announced(&self, bytes: &[u8]) -> Option<u32> {
        let prefix = self.dir.path().join("ctl");
        let lines = bytes.split_inclusive(|&byte| byte == b'\n');
        lines.filter_map(|line| line.strip_suffix(b"\n")).find_map(|line| {
            let number = line.strip_prefix(prefix.as_os_str().as_bytes())?;
            std::str::from_utf8(number).ok()?.parse().ok()
        })
    }

    fn identify(&self, pid: u32, output: &Output) -> Result<Spawned> {
        match Identity::of(pid)? {
            Some(identity) => Ok(Spawned { pid, identity }),
            None => Err(self.failed(output, None)),
        }
    }

    /// The program has ended: the rest of its output is in the pipe.
    fn ended(&self, output: &mut Output, status: ExitStatus) -> Error {
        let _nothing_more = output.take();
        self.failed(output, Some(status))
    }

    fn failed(&self, output: &Output, status: Option<ExitStatus>) -> Error {
        let end = match status {
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("exit status {code}"),
                (None, Some(signal)) => format!("killed by signal {signal}"),
                (None, None) => status.to_string(),
            },
            None => "it ended after it had announced itself".into(),
        };
        let detail = match output.text() {
            text if text.is_empty() => end,
            text => format!("{end}: {text}"),
        };
        Error::new(ErrorKind::Failed, ACTION, self.program.display()).detailed(detail)
    }
}

/// The output of a program.
struct Output {
    reader: PipeReader,
    bytes: Vec<u8>,
    ended: bool,
}

impl Output {
    /// Reads the output that has arrived.
    fn take(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        while !self.ended {
            match self.reader.read(&mut buffer) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    let room = OUTPUT_BYTES_MAX - self.bytes.len();
                    self.bytes.extend_from_slice(&buffer[..count.min(room)]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).trim_end().to_owned()
    }
}

#[cfg(test)]
#[path = "spawn_tests.rs"]
mod tests;
