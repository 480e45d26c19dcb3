//! Names, creation, scanning, and what may be cleaned up.

use std::{os::unix::fs::PermissionsExt, os::unix::net::UnixListener, process::Command};

use super::*;
use crate::process;

#[test]
fn names_are_those_that_tools_know() {
    let dir = ControlDir::default();
    assert_eq!(dir.ctl(12), Path::new("/run/blktap-control/ctl12"));
    assert_eq!(dir.nbdclient(12), Path::new("/run/blktap-control/nbdclient12"));
    assert_eq!(dir.nbd(12, 3), Path::new("/run/blktap-control/nbd12.3"));
    assert_eq!(dir.nbd_old(12, 3), Path::new("/run/blktap-control/nbd-old12.3"));
    assert_eq!(dir.nbdserver(12, 3), Path::new("/run/blktap-control/nbdserver12.3"));
    assert_eq!(dir.nbdserver_new(12, 3), Path::new("/run/blktap-control/nbdserver-new12.3"));
    assert_eq!(dir.minor(3), Path::new("/run/blktap-control/tapdisk/tapdisk-3"));
}

#[test]
fn is_created_for_its_owner_alone_and_twice() {
    let root = tempfile::tempdir().unwrap();
    let dir = ControlDir::new(root.path().join("a/b"));
    dir.create().unwrap();
    dir.create().unwrap();
    for path in [dir.path().to_owned(), dir.minors()] {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700, "{}", path.display());
    }
}

#[test]
fn scans_by_name_and_skips_what_is_not_its_own() {
    let root = tempfile::tempdir().unwrap();
    let dir = ControlDir::new(root.path());
    assert!(ControlDir::new("/nonexistent").tapdisks().unwrap().is_empty());
    dir.create().unwrap();
    for name in ["ctl9", "ctl10", "ctl", "ctlx", "ctl07", "ctl1.2", "nbd1.2", "ctl-1", "ctl +1"] {
        fs::write(root.path().join(name), "").unwrap();
    }
    for name in ["tapdisk-9", "tapdisk-10", "tapdisk-x", "tapdisk-16384", "tapdisk-99999"] {
        fs::write(dir.minors().join(name), "").unwrap();
    }
    assert_eq!(dir.tapdisks().unwrap(), [10, 9]);
    assert_eq!(dir.reserved().unwrap(), [10, 9]);
}

#[test]
fn a_name_belongs_to_one_process() {
    for (name, pid) in [
        ("ctl5", Some(5)),
        ("nbdclient5", Some(5)),
        ("nbd5.1", Some(5)),
        ("nbd-old5.1", Some(5)),
        ("nbdserver5.1", Some(5)),
        ("nbdserver-new5.1", Some(5)),
        ("nbd5", None),
        ("nbd5.", None),
        ("nbd5.1.2", None),
        ("nbd.1", None),
        ("nbd", None),
        ("control5", None),
        ("ctl5.1", None),
    ] {
        assert_eq!(owner(name.as_bytes()), pid, "{name}");
    }
}

/// The number of a process that has ended, and whose number is not in use again.
fn dead_pid() -> u32 {
    loop {
        let mut child = Command::new("/bin/sh").args(["-c", ":"]).spawn().unwrap();
        child.wait().unwrap();
        if !process::exists(child.id()) {
            return child.id();
        }
    }
}

#[test]
fn what_a_dead_one_left_goes_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let dir = ControlDir::new(root.path());
    dir.create().unwrap();
    let (dead, other) = (dead_pid(), 1);
    let gone = [dir.ctl(dead), dir.nbd(dead, 0), dir.nbdserver_new(dead, 0), dir.nbdclient(dead)];
    for path in &gone {
        drop(UnixListener::bind(path).unwrap());
    }
    let stay = [dir.ctl(other), dir.minor(0), root.path().join(format!("ctl{dead}.old"))];
    for path in &stay {
        fs::write(path, "").unwrap();
    }
    let mut removed = dir.remove_leftovers(dead, None).unwrap();
    removed.sort();
    let mut expected = gone.to_vec();
    expected.sort();
    assert_eq!(removed, expected);
    assert!(stay.iter().all(|path| path.exists()));
    assert!(dir.remove_leftovers(dead, None).unwrap().is_empty(), "twice is no error");
}

#[test]
fn where_the_number_lives_on_only_deaf_sockets_go() {
    let root = tempfile::tempdir().unwrap();
    let dir = ControlDir::new(root.path());
    let ours = std::process::id();
    let _listening = UnixListener::bind(dir.ctl(ours)).unwrap();
    drop(UnixListener::bind(dir.nbd(ours, 7)).unwrap());
    let known = Identity::of(ours).unwrap().unwrap();
    let refused = dir.remove_leftovers(ours, Some(&known)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Busy);
    assert_eq!(dir.remove_leftovers(ours, None).unwrap(), [dir.nbd(ours, 7)]);
    assert!(dir.ctl(ours).exists());
}

#[test]
fn statistics_lie_where_the_host_looks_or_with_what_is_private() {
    assert_eq!(ControlDir::default().metrics().path(), Path::new("/dev/shm"));
    let private = ControlDir::new("/run/t");
    assert_eq!(private.metrics().vdi(12, 3), Path::new("/run/t/shm/td3-12/vdi-3"));
    assert_eq!(private.metrics().nbd(12, 3), Path::new("/run/t/shm/td3-12/nbd-3"));
    let elsewhere = private.with_metrics("/run/e");
    assert_eq!(elsewhere.metrics().nbd_old(12, 3), Path::new("/run/e/td3-12/nbd-old-3"));
    assert_eq!(elsewhere.path(), Path::new("/run/t"));
}
