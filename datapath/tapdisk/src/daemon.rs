//! Detaches the process from its caller: from its session, its control group and its descriptors. Also
//! protects it from the out-of-memory killer, which would free nothing: the disks are files on tmpfs.

use std::{
    fs::{self, OpenOptions},
    thread,
};

use anyhow::{Context, Result};
use host::cgroup::{self, Groups};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, setsid};
use smapiv3_syslog::{Severity, Syslog};

/// Leaves everything that would end this process with its caller. What the host does not allow an
/// unprivileged process is tried and left.
pub(crate) fn detach(log: &Syslog) -> Result<()> {
    let report = |log: &Syslog, text: &str| log.send(Severity::Warning, text);
    // Already the leader of a session where it was started by hand.
    let _leader_already = setsid();
    std::env::set_current_dir("/").context("changing to /")?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _as_it_was = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "-1000") {
        report(log, &format!("not protected from the out-of-memory killer: {error}"));
    }
    cgroup::leave(Groups::Deadly, &|text| report(log, text));
    leave_limiting_groups(log);
    Ok(())
}

/// Leaves the control groups that only limit. Entering a group can take the kernel tens of milliseconds, and
/// these are in no hurry. A server that is started meanwhile does it for itself.
pub(crate) fn leave_limiting_groups(log: &Syslog) {
    let leave =
        |log: &Syslog| cgroup::leave(Groups::Limiting, &|text| log.send(Severity::Warning, text));
    let of_thread = log.clone();
    let thread = thread::Builder::new().name("groups".into()).spawn(move || leave(&of_thread));
    if thread.is_err() {
        // It may be such a group that has no room for the thread.
        leave(log);
    }
}

/// Closes the caller's standard streams: the caller may be waiting for their end.
pub(crate) fn release_streams() -> Result<()> {
    let null =
        OpenOptions::new().read(true).write(true).open("/dev/null").context("opening /dev/null")?;
    rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&null))
        .and_then(|()| rustix::stdio::dup2_stderr(&null))
        .context("closing the standard streams")
}
