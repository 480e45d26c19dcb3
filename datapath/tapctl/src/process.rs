//! The identity of a process: its number, its start time, and the program that it runs.
//!
//! A number alone says nothing: it is given out again. The start time distinguishes all the
//! holders of a number since the host started, and the executable guards against a record that
//! belongs to another time. Used wherever a process is signalled, waited for or declared dead.
//!
//! Signals go through a pidfd, which means one process for as long as it is open. Kernels before
//! 5.3 (XenServer 8 and XCP-ng 8 have 4.19) have none: there the identity is checked and the
//! signal sent by number directly after. A wrong process could be hit only if ours ended *and* the
//! kernel went through all other numbers within those microseconds.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::{
    event::PollFlags,
    io::Errno,
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal},
};
use serde::{Deserialize, Serialize};

use crate::{
    deadline::Deadline,
    error::{Error, ErrorKind, Result},
};

/// Which field of /proc/<pid>/stat is the start time (proc_pid_stat(5)).
const START_FIELD: usize = 22;

/// The field with the number of threads, of which the first one counts until the process is waited for.
const THREADS_FIELD: usize = 20;

/// The first field after the name in parentheses.
const STATE_FIELD: usize = 3;

/// How often a process is looked at that seems to be executing a program at this moment, and the pauses
/// between.
const EXEC_LOOKS: u32 = 10;
const EXEC_PAUSE: Duration = Duration::from_micros(200);

/// A process, distinguished from every other one that has or had its number. One that execs
/// another program becomes another process by this: identify it when it runs its final program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since the host did.
    pub start_ticks: u64,
    /// The file that it runs; `None` where the process of another user hides it.
    pub executable: Option<Executable>,
}

/// A program's file: an upgrade that renames a new one into its place does not change it for the
/// processes that run the old one, as the path would.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Executable {
    /// The device of its file system.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
}

impl Executable {
    /// The program of that path.
    ///
    /// # Errors
    /// Those of stat(2).
    pub fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

impl Identity {
    /// The process that has this number now; `None` where there is none, or only a
    /// zombie.
    ///
    /// # Errors
    /// Where /proc cannot be read.
    pub fn of(pid: u32) -> Result<Option<Self>> {
        let failed = |cause| Error::io("identify process", pid, cause);
        // The number may change hands between the two files: the start time is read on both sides.
        loop {
            let Some(start_ticks) = start(pid).map_err(failed)? else { return Ok(None) };
            let executable = Executable::of(&proc_path(pid, "exe")).ok();
            if start(pid).map_err(failed)? == Some(start_ticks) {
                return Ok(Some(Self { pid, start_ticks, executable }));
            }
        }
    }

    /// The calling process.
    ///
    /// # Errors
    /// Where /proc cannot be read.
    pub fn own() -> Result<Self> {
        let pid = std::process::id();
        Self::of(pid)?.ok_or_else(|| Error::new(ErrorKind::NotFound, "identify process", pid))
    }

    /// Whether that very process still lives. Where /proc cannot be read it is taken to live.
    #[must_use]
    pub fn is_same(&self) -> bool {
        let Ok(now) = Self::of(self.pid) else { return true };
        now.is_some_and(|now| {
            let runs_another = matches!(
                (self.executable, now.executable),
                (Some(then), Some(now)) if then != now
            );
            now.start_ticks == self.start_ticks && !runs_another
        })
    }

    /// The path of the program that it runs, for messages; identities are not compared by it.
    #[must_use]
    pub fn executable_path(&self) -> Option<PathBuf> {
        let path = fs::read_link(proc_path(self.pid, "exe")).ok()?;
        let bytes = path.as_os_str().as_bytes();
        let bytes = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes);
        Some(PathBuf::from(OsStr::from_bytes(bytes)))
    }

    /// Sends it a signal, if it still lives.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where it does not; those of kill(2).
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let action = "signal process";
        let gone = || Error::new(ErrorKind::NotFound, action, self.pid);
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).ok_or_else(gone)?;
        let sent = match pidfd_open(pid, PidfdFlags::empty()) {
            // The identity is checked while the descriptor holds the process: in this order.
            _ if !self.is_same() => return Err(gone()),
            Ok(pidfd) => pidfd_send_signal(pidfd, signal),
            Err(Errno::NOSYS) => kill_process(pid, signal),
            Err(errno) => Err(errno),
        };
        match sent {
            Ok(()) => Ok(()),
            Err(Errno::SRCH) => Err(gone()),
            Err(errno) => Err(Error::io(action, self.pid, errno)),
        }
    }

    /// Waits until it has ended; false where it has not within that time.
    ///
    /// # Errors
    /// Those of poll(2).
    pub fn wait(&self, timeout: Duration) -> Result<bool> {
        let deadline = Deadline::after(timeout);
        let failed = |cause: io::Error| Error::io("wait for process", self.pid, cause);
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        // A process whose first thread has ended before the others serves nothing any more, but its files
        // are closed only when all threads have ended.
        if let Some(Ok(pidfd)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
            match stat(self.pid) {
                Ok(Some(stat)) if stat.start_ticks == self.start_ticks => {}
                _ => return Ok(true),
            }
            return deadline.wait(pidfd, PollFlags::IN).map_err(failed);
        }
        let mut pause = Duration::from_micros(500);
        while self.has_threads() {
            if !deadline.pause(&mut pause) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether any of its threads lives. Where /proc cannot be read one is taken to.
    fn has_threads(&self) -> bool {
        match stat(self.pid) {
            Ok(Some(stat)) if stat.start_ticks == self.start_ticks => {
                !stat.has_ended || stat.threads > 1
            }
            Ok(_) => false,
            Err(_) => true,
        }
    }
}

/// The living processes, without the caller, whose program was started with this variable in its
/// environment. Processes of other users are not visible to an unprivileged caller, and left out.
///
/// # Errors
/// Where /proc cannot be read.
pub fn started_with(name: &str, value: &OsStr) -> Result<Vec<Identity>> {
    let wanted = [name.as_bytes(), b"=", value.as_bytes()].concat();
    all_that(|pid| identity_with(pid, "environ", |texts| texts.contains(&&*wanted)))
}

/// The living processes, without the caller, in whose arguments these follow each other.
pub(crate) fn processes_with_arguments(wanted: &[&[u8]]) -> Result<Vec<Identity>> {
    all_that(|pid| {
        let are_there = |texts: &[&[u8]]| texts.windows(wanted.len()).any(|it| it == wanted);
        identity_with(pid, "cmdline", are_there)
    })
}

/// The processes, without the caller, for which `identify` gives an identity.
fn all_that(identify: impl Fn(u32) -> Option<Identity>) -> Result<Vec<Identity>> {
    let failed = |cause| Error::io("search the processes in", "/proc", cause);
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        if pid == std::process::id() {
            continue;
        }
        found.extend(identify(pid));
    }
    Ok(found)
}

/// The identity of a process, if the texts in that file of it are those that are searched for.
fn identity_with(pid: u32, file: &str, is_wanted: impl Fn(&[&[u8]]) -> bool) -> Option<Identity> {
    for _ in 0..EXEC_LOOKS {
        // The identity is taken before the texts are read, so that both are of one process.
        let identity = Identity::of(pid).ok()??;
        let texts = fs::read(proc_path(pid, file)).unwrap_or_default();
        let is_meant = is_wanted(&texts.split(|&byte| byte == 0).collect::<Vec<_>>());
        if is_meant && identity.is_same() {
            return Some(identity);
        }
        // One that is about to execute its program has no texts yet, and then another program than
        // before. Threads of the kernel have no program.
        let is_executing = is_meant || texts.is_empty() && identity.executable.is_some();
        if !is_executing {
            return None;
        }
        thread::sleep(EXEC_PAUSE);
    }
    None
}

/// Whether any process has this number now.
#[must_use]
pub fn exists(pid: u32) -> bool {
    // Where /proc cannot be read the process is assumed to live: otherwise its files would be removed.
    !matches!(start(pid), Ok(None))
}

fn proc_path(pid: u32, file: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{file}"))
}

/// When the process with this number started; `None` where there is none, or it has ended.
fn start(pid: u32) -> io::Result<Option<u64>> {
    Ok(stat(pid)?.filter(|stat| !stat.has_ended).map(|stat| stat.start_ticks))
}

/// State, threads and start time of the process with this number; `None` where there is none.
fn stat(pid: u32) -> io::Result<Option<Stat>> {
    match fs::read(proc_path(pid, "stat")) {
        Ok(text) => parse_stat(&text)
            .map(Some)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/<pid>/stat")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // The process ended between open and read.
        Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// State, threads and start time of a process, from its stat file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    /// Whether at least its first thread has.
    has_ended: bool,
    /// How many threads it has.
    threads: u64,
    start_ticks: u64,
}

/// Takes the contents of a stat file apart; `None` where they are not valid. The name, second
/// field, may hold anything, parentheses, spaces and line ends included: fields are counted from
/// the last closing parenthesis.
fn parse_stat(stat: &[u8]) -> Option<Stat> {
    let name_end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let has_ended = matches!(fields.next()?, "Z" | "X" | "x");
    let threads = fields.nth(THREADS_FIELD - STATE_FIELD - 1)?.parse().ok()?;
    let start_ticks = fields.nth(START_FIELD - THREADS_FIELD - 1)?.parse().ok()?;
    Some(Stat { has_ended, threads, start_ticks })
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
