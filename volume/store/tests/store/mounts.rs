//! Death between the calls that mount and unmount: an SR whose memory is a tmpfs of its own, as on a
//! host, is attached, detached and destroyed by processes that die at every step. Afterwards a
//! repeated call succeeds, and once the SR is destroyed nothing stays mounted.
//!
//! Only root may mount, and here only in a mount namespace of its own, which vanishes with the test:
//! this binary is run once more, in one.

use std::{env, fs, io::Write, os::unix::process::ExitStatusExt, path::Path, process::Command};

use scratch::Scratch;
use store::{
    ErrorKind, Host, Inactive, NewVolume, Sr,
    testing::{Disks, attachment, counted, failpoints, host, open},
};

use crate::dying::{self, SIGKILL};

/// What an operation of [`dying`] begins with that is one of these.
pub(crate) const PREFIX: &str = "mounted: ";
/// Set in the namespace.
const INSIDE: &str = "STORE_MOUNT_NAMESPACE";
pub(crate) const SR_BYTES: u64 = 16 << 20;

pub(crate) fn host_that_mounts(root: &Path) -> Host {
    Host { may_mount: true, ..host(root) }
}

/// In the process that is to die.
pub(crate) fn operate(what: &str, root: &Path, steps: u32) -> store::Result<()> {
    let host = host_that_mounts(root);
    let wanted = attachment(&host, SR_BYTES);
    failpoints::die_after(steps);
    match what {
        "attach" => host.check_new(&wanted).and_then(|()| host.attach(&wanted)).map(drop),
        "attach again" => host.attach(&wanted).map(drop),
        "detach" => Sr::open(&host, wanted.uuid.as_str())?.lock()?.detach(),
        "destroy" => host.destroy(&wanted.uuid),
        _ => panic!("no operation {what:?}"),
    }
}

/// What is mounted below a directory.
fn mounted(root: &Path) -> Vec<String> {
    let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = all.lines().map(|line| line.split(' ').nth(4).unwrap().to_owned());
    let mut points: Vec<_> = points.filter(|point| Path::new(point).starts_with(root)).collect();
    points.sort();
    points
}

/// A host's directory, with an SR in it or none, and what is in that.
struct World {
    host: Host,
    /// The volume of one block that is in the SR.
    key: Option<String>,
    root: Scratch,
}

impl World {
    fn new(what: &str) -> Self {
        let root = Scratch::in_memory();
        let mut world = Self { host: host_that_mounts(root.path()), key: None, root };
        if what != "attach" {
            let sr = world.attach();
            world.key = Some(write_one(&sr));
            if what == "attach again" {
                sr.lock().unwrap().detach().unwrap();
            }
        }
        world
    }

    fn attach(&self) -> Sr {
        self.host.attach(&attachment(&self.host, SR_BYTES)).unwrap()
    }

    /// The SR is there, once, and holds what it did.
    fn assert_whole(&self, when: &str) {
        let sr = self.attach();
        let places = [sr.layout().root().join("data"), sr.layout().root().join("meta")];
        assert_eq!(mounted(self.root.path()), places.map(|it| it.display().to_string()), "{when}");
        assert_eq!(sr.lock().unwrap().check().unwrap(), [""; 0], "{when}");
        assert_eq!(self.host.srs().unwrap().len(), 1, "{when}");
        if let Some(key) = &self.key {
            let mut byte = [0];
            open(&sr, key, true).unwrap().read_into(100, &mut byte).unwrap();
            assert_eq!(byte, [7], "{when}");
        }
        let used = if self.key.is_some() { 4096 } else { 0 };
        assert_eq!(sr.stat().unwrap().used, used, "{when}");
        let (counted, real) = counted(&sr);
        assert_eq!(counted, real, "{when}");
        let another = write_one(&sr);
        sr.lock().unwrap().destroy_volume(&another, &mut Inactive).unwrap();
    }

    /// Destroys what is there, and finds nothing left.
    fn assert_vanishes(&self, when: &str) {
        let wanted = attachment(&self.host, SR_BYTES);
        match self.host.destroy(&wanted.uuid) {
            Err(error) if error.kind() == ErrorKind::SrMissing => {}
            destroyed => destroyed.unwrap_or_else(|error| panic!("{when}: {error}")),
        }
        assert_eq!(mounted(self.root.path()), [""; 0], "{when}");
        let left = fs::read_dir(self.root.path()).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        let ours = |name: &std::ffi::OsString| !name.to_str().unwrap().starts_with('.');
        assert!(!left.iter().any(ours), "{when}: {left:?}");
    }
}

/// A new volume with one block written.
fn write_one(sr: &Sr) -> String {
    let new = NewVolume { name: "", description: "", size: 1 << 20, sharable: false };
    let key = sr.lock().unwrap().create_volume(&new).unwrap().key.to_string();
    open(sr, &key, false).unwrap().write(0, &[7; 4096]).unwrap();
    key
}

fn at_every_step(what: &str) {
    for steps in 0.. {
        let mut done = false;
        // What comes next: the same call, or the end of the SR.
        for repeat in [true, false] {
            let mut world = World::new(what);
            let task = format!("{PREFIX}{what}");
            let status = dying::run(world.root.path(), &mut Disks::default(), &task, steps);
            let when = format!("{what}, killed after {steps} steps");
            assert!(status.success() || status.signal() == Some(SIGKILL), "{when}: {status}");
            done = status.success();
            fs::remove_file(world.root.path().join(".live")).unwrap();
            if repeat {
                match what {
                    "detach" => match operate(what, world.root.path(), u32::MAX) {
                        Err(error) if error.kind() == ErrorKind::SrNotAttached => {}
                        detached => detached.unwrap(),
                    },
                    "destroy" => {
                        world.assert_vanishes(&when);
                        world.key = None;
                    }
                    _ => {}
                }
                world.assert_whole(&when);
            }
            world.assert_vanishes(&when);
        }
        if done {
            assert!(steps > 1, "{what} has only {steps} steps");
            return;
        }
    }
}

/// Runs a test of this binary that is ignored otherwise, as root in a mount namespace of its own.
pub(crate) fn in_namespace(test: &str) {
    let in_namespace = |command: &mut Command, arguments: &[&str]| {
        command.args(["--mount", "--propagation", "private"]).args(arguments).output()
    };
    let possible = in_namespace(&mut Command::new("unshare"), &["true"]);
    if !possible.is_ok_and(|output| output.status.success()) {
        let text = "SKIPPED: only root can mount, in a namespace of its own (unshare)\n";
        std::io::stderr().write_all(text.as_bytes()).unwrap();
        return;
    }
    let program = env::current_exe().unwrap();
    let arguments = ["--exact", test, "--ignored", "--test-threads", "1", "--nocapture"];
    let arguments = [&[program.to_str().unwrap()], &arguments[..]].concat();
    let run = in_namespace(Command::new("unshare").env(INSIDE, "1"), &arguments).unwrap();
    let said = [run.stdout, run.stderr].concat();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&said));
}

/// Whether this process was started by [`in_namespace`].
pub(crate) fn is_inside() -> bool {
    env::var_os(INSIDE).is_some()
}

#[test]
fn an_sr_on_mounts_that_is_killed_between_any_two_of_them() {
    in_namespace("mounts::inside");
}

#[test]
#[ignore = "no test by itself: the test above runs it in each run, in a mount namespace of its own"]
fn inside() {
    if is_inside() {
        ["attach", "attach again", "detach", "destroy"].into_iter().for_each(at_every_step);
    }
}
