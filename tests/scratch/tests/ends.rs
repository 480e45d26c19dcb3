//! Nothing of a scratch directory outlives its owner, however that ends: not its files, not its
//! mounts, and not a process that has left the owner's session, as tapdisks do.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use scratch::{Scratch, VARIABLE};

/// Tells a run of this program that it is an owner, and where to say what it has made.
const OWNER: &str = "SCRATCH_TEST_OWNER";
const PATIENCE: Duration = Duration::from_secs(20);

/// A directory and the processes that belong to it.
#[derive(Debug)]
struct Made {
    directory: PathBuf,
    /// A process in a group of its own.
    pid: u32,
    guard: u32,
}

impl Made {
    fn is_there(&self) -> [bool; 2] {
        // A killed process that is not reaped yet has no environment any more.
        let runs = fs::read(format!("/proc/{}/environ", self.pid)).is_ok_and(|it| !it.is_empty());
        [self.directory.exists(), runs]
    }

    fn assert_vanishes(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.is_there() != [false; 2] {
            assert!(Instant::now() < deadline, "{self:?} is still there: {:?}", self.is_there());
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(!mounted(&self.directory));
    }
}

fn mounted(directory: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.contains(&format!(" {}/", directory.display()))
}

/// Makes a directory with a file, a mount where that is allowed, and a process.
fn make(scratch: &Scratch) -> u32 {
    let place = scratch.path().join("a mount");
    fs::create_dir(&place).unwrap();
    fs::write(scratch.path().join("file"), "some bytes").unwrap();
    if rustix::process::geteuid().is_root() {
        let place = scratch.path().join("mount");
        fs::create_dir(&place).unwrap();
        let done = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&place).status();
        assert!(done.unwrap().success());
        fs::write(place.join("file"), "some bytes").unwrap();
    }
    let mut sleep = Command::new("sleep");
    sleep.arg("1000").env(VARIABLE, scratch.path()).process_group(0);
    sleep.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap().id()
}

/// Not a test: what the owners do that the tests below start.
#[test]
fn owner() {
    let Some(say) = std::env::var_os(OWNER) else { return };
    let scratch = Scratch::in_memory();
    let pid = make(&scratch);
    let stat = fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).into_owned();
        let is_guard = line.contains("scratch-guard") && line.contains(scratch.path().to_str()?);
        is_guard.then(|| entry.file_name().into_string().unwrap())
    });
    let text = format!("{}\n{pid}\n{}\n", scratch.path().display(), stat.unwrap());
    fs::write(Path::new(&say).with_extension("new"), text).unwrap();
    fs::rename(Path::new(&say).with_extension("new"), &say).unwrap();
    std::thread::sleep(Duration::from_secs(1000));
}

/// An owner in a process of its own.
fn start(report: &Path) -> (Child, Made) {
    let owner = Command::new(std::env::current_exe().unwrap())
        .args(["owner", "--exact"])
        .env(OWNER, report)
        .process_group(0)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    let text = loop {
        match fs::read_to_string(report) {
            Ok(text) => break text,
            Err(_) => assert!(Instant::now() < deadline, "the owner makes nothing"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let mut lines = text.lines();
    let mut next = || lines.next().unwrap().to_owned();
    let made = Made {
        directory: next().into(),
        pid: next().parse().unwrap(),
        guard: next().parse().unwrap(),
    };
    assert_eq!(made.is_there(), [true, true]);
    (owner, made)
}

fn signal(name: &str, target: &str) {
    assert!(Command::new("kill").args(["-s", name, "--", target]).status().unwrap().success());
}

#[test]
fn a_directory_that_is_dropped_leaves_nothing() {
    let scratch = Scratch::in_memory();
    let pid = make(&scratch);
    let made = Made { directory: scratch.path().to_owned(), pid, guard: 0 };
    drop(scratch);
    made.assert_vanishes();
}

/// As Ctrl-C does it: to all processes of the group, of which the guard is none.
#[test]
fn an_owner_that_is_interrupted_or_killed_leaves_nothing() {
    let reports = Scratch::on_disk();
    for name in ["INT", "KILL"] {
        let (mut owner, made) = start(&reports.path().join(name));
        signal(name, &format!("-{}", owner.id()));
        let _ended = owner.wait().unwrap();
        made.assert_vanishes();
    }
}

#[test]
fn what_an_owner_and_its_guard_left_goes_with_the_next_run() {
    let reports = Scratch::on_disk();
    let (mut owner, made) = start(&reports.path().join("report"));
    // The guard dies first: it would clean up otherwise.
    signal("KILL", &made.guard.to_string());
    owner.kill().unwrap();
    let _ended = owner.wait().unwrap();
    assert_eq!(made.is_there(), [true, true]);
    // Any process that makes a directory; another owner does.
    let (mut next, others) = start(&reports.path().join("next"));
    made.assert_vanishes();
    assert_eq!(others.is_there(), [true, true], "the living keep theirs");
    next.kill().unwrap();
    let _ended = next.wait().unwrap();
    others.assert_vanishes();
}

#[test]
fn a_directory_that_is_kept_stays_until_it_is_ended() {
    let scratch = Scratch::in_memory();
    let pid = make(&scratch);
    let directory = scratch.keep().unwrap();
    let made = Made { directory: directory.clone(), pid, guard: 0 };
    let reports = Scratch::on_disk();
    let (mut next, _) = start(&reports.path().join("next"));
    next.kill().unwrap();
    let _ended = next.wait().unwrap();
    assert_eq!(made.is_there(), [true, true]);
    assert!(scratch::kept().contains(&directory));
    scratch::end(&directory).unwrap();
    made.assert_vanishes();
}
