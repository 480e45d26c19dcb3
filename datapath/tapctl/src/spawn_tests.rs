//! Programs that become tapdisks, and programs that do not. The shell plays all of them.

use std::{fs, time::Instant};

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

use super::*;

fn shell(dir: &ControlDir, script: &str) -> Spawn {
    Spawn::new(dir, "/bin/sh")
        .argument("-c")
        .argument(script)
        .variables([("DIR", dir.path())])
        .timeout(Duration::from_secs(20))
}

fn dir() -> (tempfile::TempDir, ControlDir) {
    let root = tempfile::tempdir().unwrap();
    let dir = ControlDir::new(root.path());
    (root, dir)
}

#[test]
fn the_announced_process_is_identified() {
    let (_root, dir) = dir();
    // The parent exits first, the one that stays announces itself later and keeps the pipe.
    let script = "sh -c 'sleep 0.05; echo noise; echo $DIR/ctl$$; sleep 2; :' & exit 0";
    let spawned = shell(&dir, script).start().unwrap();
    assert_eq!(spawned.identity.pid, spawned.pid);
    assert!(spawned.identity.is_same());
    spawned.identity.kill().unwrap();
    assert!(spawned.identity.wait(Duration::from_secs(10)).unwrap());
}

#[test]
fn the_exit_is_waited_for_after_the_line_too() {
    let (_root, dir) = dir();
    let begun = Instant::now();
    let script = "sh -c 'echo $DIR/ctl$$; sleep 2; :' & sleep 0.1";
    let spawned = shell(&dir, script).start().unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(100));
    spawned.identity.kill().unwrap();
}

#[track_caller]
fn fails(script: &str, kind: ErrorKind, detail: &str) {
    let (_root, dir) = dir();
    let error = shell(&dir, script).timeout(Duration::from_secs(5)).start().unwrap_err();
    assert_eq!((error.kind(), error.detail()), (kind, detail));
}

#[test]
fn failures_tell_status_and_output() {
    fails("echo out; echo err >&2; exit 3", ErrorKind::Failed, "exit status 3: out\nerr");
    fails("exit 0", ErrorKind::Failed, "exit status 0");
    fails("kill -9 $$", ErrorKind::Failed, "killed by signal 9");
}

#[test]
fn only_a_whole_line_with_our_directory_announces() {
    let (_root, dir) = dir();
    let spawn = Spawn::new(&dir, "/bin/sh");
    let path = dir.path().display();
    for (text, pid) in [
        (format!("{path}/ctl7\n"), Some(7)),
        (format!("warning\n{path}/ctl7\nmore"), Some(7)),
        (format!("{path}/ctl7"), None),
        (format!("{path}/ctl\n"), None),
        (format!("{path}/ctl7x\n"), None),
        (format!(" {path}/ctl7\n"), None),
        ("/run/other/ctl7\n".into(), None),
    ] {
        assert_eq!(spawn.announced(text.as_bytes()), pid, "{text}");
    }
}

#[test]
fn a_program_that_is_not_there() {
    let (_root, dir) = dir();
    let error = Spawn::new(&dir, "/nonexistent/tapdisk").start().unwrap_err();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Failed, 2));
}

#[test]
fn a_program_that_hangs_is_ended_at_the_deadline() {
    let (_root, dir) = dir();
    let pid_file = dir.path().join("pid");
    let begun = Instant::now();
    let error = shell(&dir, "echo $$ > $DIR/pid; echo starting; exec sleep 60")
        .timeout(Duration::from_millis(400))
        .start()
        .unwrap_err();
    assert_eq!((error.kind(), error.detail()), (ErrorKind::Timeout, "starting"));
    assert!(begun.elapsed() < Duration::from_secs(20));
    let pid = fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
    assert!(!crate::process::exists(pid));
}

#[test]
fn much_output_neither_blocks_nor_fills_the_memory() {
    let (_root, dir) = dir();
    let script = "head -c 1000000 /dev/zero | tr '\\0' x; exit 1";
    let error = shell(&dir, script).start().unwrap_err();
    assert_eq!(error.detail().len(), "exit status 1: ".len() + OUTPUT_BYTES_MAX);
}

#[test]
fn nothing_but_the_three_is_inherited() {
    let (_root, dir) = dir();
    let leaked = fcntl_dupfd_cloexec(fs::File::open("/dev/null").unwrap(), 100).unwrap();
    fcntl_setfd(&leaked, FdFlags::empty()).unwrap();
    let script = "for fd in /proc/$$/fd/*; do echo ${fd##*/} $(readlink $fd); done; exit 1";
    let error = shell(&dir, script).start().unwrap_err();
    let lines: Vec<&str> = error.detail().lines().collect();
    let target = |fd: &str| {
        let line = lines.iter().find_map(|line| line.split_once(' ').filter(|(it, _)| *it == fd));
        line.map(|(_, target)| target)
    };
    assert_eq!(lines[0], "exit status 1: 0 /dev/null");
    assert!(target("1").is_some_and(|target| target.starts_with("pipe:")), "{lines:?}");
    assert_eq!(target("1"), target("2"));
    // The shell opens some for itself; what was leaked here has a number that none of them has.
    let number = std::os::fd::AsRawFd::as_raw_fd(&leaked).to_string();
    assert_eq!(target(&number), None, "{lines:?}");
}
