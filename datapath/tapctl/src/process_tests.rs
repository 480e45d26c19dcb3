//! Identities of real processes, some of them with names made to confuse.

use std::{
    os::unix::fs::PermissionsExt,
    process::{Child, Command, Stdio},
};

use super::*;

/// A process that lives until its input ends.
fn waiting(program: &Path) -> Child {
    Command::new(program).args(["-c", "read line"]).stdin(Stdio::piped()).spawn().unwrap()
}

fn shell() -> Child {
    waiting(Path::new("/bin/sh"))
}

#[test]
fn the_start_time_is_found_behind_any_name() {
    let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21\n";
    for name in ["tapdisk", "a b", "a) S 1 (b", ")", "", "a)\nb"] {
        let stat = format!("77 ({name}) {tail}");
        let wanted = Stat { has_ended: false, threads: 17, start_ticks: 4242 };
        assert_eq!(parse_stat(stat.as_bytes()), Some(wanted), "{name}");
    }
    let zombie = [b"77 (\xff\xfe) Z", &tail.as_bytes()[1..]].concat();
    assert!(parse_stat(&zombie).unwrap().has_ended, "a zombie has ended");
    for broken in ["", "77", "77 (a) S 1 2", "77 (a)"] {
        assert_eq!(parse_stat(broken.as_bytes()), None, "{broken}");
    }
}

#[test]
fn a_program_with_a_name_made_to_confuse() {
    let root = tempfile::tempdir().unwrap();
    let program = root.path().join("a b) S (c");
    fs::copy("/bin/sh", &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut child = loop {
        // Another test's fork may hold the copy open for writing for a moment.
        let started =
            Command::new(&program).args(["-c", "read line"]).stdin(Stdio::piped()).spawn();
        match started {
            Ok(child) => break child,
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {}
            Err(error) => panic!("{error}"),
        }
    };
    let identity = Identity::of(child.id()).unwrap().unwrap();
    assert!(identity.start_ticks > 0 && identity.is_same());
    assert_eq!(identity.executable, Some(Executable::of(&program).unwrap()));
    assert_eq!(identity.executable_path().unwrap(), fs::canonicalize(&program).unwrap());
    fs::remove_file(&program).unwrap();
    assert!(identity.is_same(), "an upgrade takes the file away, not the process");
    assert_eq!(identity.executable_path().unwrap().file_name(), program.file_name());
    identity.kill().unwrap();
    child.wait().unwrap();
    assert!(!identity.is_same());
}

#[test]
fn another_start_or_program_is_another_process() {
    let own = Identity::own().unwrap();
    assert!(own.is_same());
    let later = Identity { start_ticks: own.start_ticks + 1, ..own.clone() };
    assert!(!later.is_same());
    let other = Identity { executable: Some(Executable { device: 1, inode: 1 }), ..own.clone() };
    assert!(!other.is_same());
    let silent = Identity { executable: None, ..own };
    assert!(silent.is_same());
}

#[test]
fn only_the_very_process_is_signalled() {
    let mut child = shell();
    let identity = Identity::of(child.id()).unwrap().unwrap();
    let stranger = Identity { start_ticks: identity.start_ticks + 1, ..identity.clone() };
    assert_eq!(stranger.signal(Signal::KILL).unwrap_err().kind(), ErrorKind::NotFound);
    stranger.kill().unwrap();
    assert!(child.try_wait().unwrap().is_none(), "it lives on");
    assert!(!identity.wait(Duration::from_millis(20)).unwrap());
    identity.kill().unwrap();
    assert!(identity.wait(Duration::from_secs(10)).unwrap());
    assert!(!identity.is_same(), "what is not yet waited for has ended all the same");
    child.wait().unwrap();
    identity.kill().unwrap();
    assert_eq!(identity.signal(Signal::TERM).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn numbers_that_nobody_has() {
    for pid in [0, u32::MAX, i32::MAX as u32] {
        assert_eq!(Identity::of(pid).unwrap(), None);
        assert!(!exists(pid));
    }
    assert!(exists(std::process::id()));
}

#[test]
fn survives_being_written_down() {
    let own = Identity::own().unwrap();
    let text = serde_json::to_string(&own).unwrap();
    assert_eq!(serde_json::from_str::<Identity>(&text).unwrap(), own);
}

#[test]
fn a_process_is_found_by_the_environment_that_it_was_started_with() {
    let value = format!("{}", std::process::id());
    let find = || started_with("TAPCTL_TEST_MARK", OsStr::new(&value)).unwrap();
    assert_eq!(find(), []);
    let mut child = std::process::Command::new("sleep")
        .arg("60")
        .env("TAPCTL_TEST_MARK", &value)
        .spawn()
        .unwrap();
    assert_eq!(find(), [Identity::of(child.id()).unwrap().unwrap()]);
    assert_eq!(started_with("TAPCTL_TEST_MARK", OsStr::new("another")).unwrap(), []);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(find(), []);
}
