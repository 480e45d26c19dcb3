//! Leaving the caller's control groups (cgroups(7)): those whose processes
//! systemd ends with a unit, and those that only limit. xapi-storage-script's unit has the default KillMode, so a restart of it ends whatever is
//! in its group.
//!
//! Called by tapdisk-ram for itself, and by the datapath plugin before it starts a tapdisk that
//! does not do so itself.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::Path,
};

/// The control group that tapdisks are in, beside those of systemd.
const GROUP: &str = "xapi-storage-ram";

/// Which control groups of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Groups {
    /// Those by which systemd finds the processes of a unit, and ends them.
    Deadly,
    /// Those of the controllers of version 1.
    Limiting,
}

/// Leaves the groups of one sort. A group that an unprivileged process may not leave is reported, and
/// the process stays in it.
pub fn leave(groups: Groups, report: &dyn Fn(&str)) {
    let lines = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    for line in lines.lines().filter(|line| is_deadly(line) == (groups == Groups::Deadly)) {
        if let Err(error) = leave_group(line) {
            report(&format!("staying in the caller's control group {line}: {error}"));
        }
    }
}

/// Whether being in a group of this hierarchy may end a process: systemd ends the processes in a unit's group.
/// The controllers of version 1 only limit.
fn is_deadly(line: &str) -> bool {
    let controllers = line.split(':').nth(1).unwrap_or_default();
    controllers.is_empty() || controllers.starts_with("name=")
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
