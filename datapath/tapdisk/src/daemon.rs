//! Outliving the caller in every sense: its session, its control group, its descriptors, and the
//! out-of-memory killer, whom killing this process would gain nothing.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::Path,
};

use anyhow::{Context, Result};
use plugin::{
    Env,
    syslog::{Severity, Syslog},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, setsid};

/// The control group that tapdisks are in, beside those of systemd.
const GROUP: &str = "xapi-storage-ram";

/// Leaves everything that would end this process with its caller. What the host does not allow an
/// unprivileged process is tried and left.
pub(crate) fn detach(report: &dyn Fn(&str)) -> Result<()> {
    // Already the leader of a session where it was started by hand.
    let _leader_already = setsid();
    std::env::set_current_dir("/").context("changing to /")?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _as_it_was = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "-1000") {
        report(&format!("not protected from the out-of-memory killer: {error}"));
    }
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let (deadly, limiting): (Vec<&str>, _) = groups.lines().partition(|line| is_deadly(line));
    leave_groups(&deadly, report);
    // Entering a group can take the kernel tens of milliseconds, and these are in no hurry.
    let limiting: Vec<String> = limiting.into_iter().map(str::to_owned).collect();
    let log = Syslog::open(&Env::process(), "tapdisk-ram");
    std::thread::spawn(move || {
        leave_groups(&limiting, &|text| log.send(Severity::Warning, text));
    });
    Ok(())
}

/// Whether being in a group of this hierarchy may end a process: systemd ends what is in a unit's.
/// The controllers of version 1 only limit.
fn is_deadly(line: &str) -> bool {
    let controllers = line.split(':').nth(1).unwrap_or_default();
    controllers.is_empty() || controllers.starts_with("name=")
}

fn leave_groups(lines: &[impl AsRef<str>], report: &dyn Fn(&str)) {
    for line in lines.iter().map(AsRef::as_ref) {
        if let Err(error) = leave_group(line) {
            report(&format!("staying in the caller's control group {line}: {error}"));
        }
    }
}

/// Leaves the control group of one hierarchy, which a line of `/proc/self/cgroup` names as
/// `<id>:<controllers>:<path>` (cgroups(7)).
fn leave_group(line: &str) -> io::Result<()> {
    let mut fields = line.splitn(3, ':');
    let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
    else {
        return Ok(());
    };
    if path == "/" || path == format!("/{GROUP}") {
        return Ok(());
    }
    let Some(root) = hierarchy(controllers) else {
        return Err(io::Error::new(io::ErrorKind::NotFound, "its hierarchy is not mounted"));
    };
    let root = Path::new(&root);
    let own = root.join(GROUP);
    if is_deadly(line) {
        let _there_already = fs::create_dir(&own);
        if enter(&own).is_ok() {
            return Ok(());
        }
    }
    enter(root)
}

fn enter(group: &Path) -> io::Result<()> {
    let mut procs = OpenOptions::new().write(true).open(group.join("cgroup.procs"))?;
    procs.write_all(b"0")
}

/// Where the hierarchy of these controllers is mounted.
fn hierarchy(controllers: &str) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (directory, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        let found = match kind {
            "cgroup2" => controllers.is_empty(),
            "cgroup" => {
                !controllers.is_empty()
                    && controllers.split(',').all(|name| options.split(',').any(|it| it == name))
            }
            _ => false,
        };
        found.then(|| directory.to_owned())
    })
}

/// Lets go of the caller's standard streams: it may be waiting for their end.
pub(crate) fn release_streams() -> Result<()> {
    let null =
        OpenOptions::new().read(true).write(true).open("/dev/null").context("opening /dev/null")?;
    rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&null))
        .and_then(|()| rustix::stdio::dup2_stderr(&null))
        .context("letting go of the standard streams")
}
