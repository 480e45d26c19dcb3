//! A tapdisk as dom0's tools see it: our `tap-ctl`, the control protocol byte for byte, the NBD
//! sockets, the statistics, and clients that misbehave.

mod behaviour;
mod event_loop;
mod hostile;
mod metrics;
mod names;
mod no_threads;
mod polling;
mod protocol;
mod sockets;
mod stock;

pub(crate) use sockets::pass;

use std::{
    fs,
    os::unix::fs::FileExt,
    path::PathBuf,
    process::Output,
    time::{Duration, Instant},
};

use end_to_end::{Xapi, programs};
use nbd::client::{Client as Nbd, Wish};
use tapctl::{Client, ControlDir, Identity, Open};

/// A host on which tapdisks are driven by hand.
struct Host {
    xapi: Xapi,
    dir: ControlDir,
}

/// A tapdisk with a minor.
struct Tapdisk {
    pid: u32,
    minor: u16,
    control: Client,
    identity: Identity,
}

impl Host {
    fn new() -> Self {
        Self::with(&[])
    }

    /// With more variables in the environment of all programs.
    fn with(environment: &[(&str, &str)]) -> Self {
        let xapi = Xapi::with(environment);
        let dir = xapi.control_dir();
        Self { xapi, dir }
    }

    /// Runs our tap-ctl.
    fn ctl(&self, arguments: &[&str]) -> Output {
        let mut command = self.xapi.command(&programs::path("tap-ctl-ram"));
        command.args(arguments).output().expect("tap-ctl-ram runs")
    }

    /// Runs our tap-ctl, which has to succeed in silence or with that output.
    #[track_caller]
    fn prints(&self, arguments: &[&str], expected: &str) {
        let output = self.ctl(arguments);
        let (stdout, stderr) = texts(&output);
        assert_eq!((stdout.as_str(), stderr.as_str()), (expected, ""), "{arguments:?}");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
    }

    /// Runs our tap-ctl, which has to fail with that number, and say what it means.
    #[track_caller]
    fn fails(&self, arguments: &[&str], errno: i32, text: &str) {
        let output = self.ctl(arguments);
        let (stdout, stderr) = texts(&output);
        assert_eq!((stdout.as_str(), stderr.trim_end()), ("", text), "{arguments:?}");
        assert_eq!(output.status.code(), Some(errno), "{arguments:?}");
    }

    /// A file of that many bytes, which begin with its name.
    fn image(&self, name: &str, bytes: u64) -> String {
        let path = self.xapi.root().join(name);
        let file = fs::File::create(&path).unwrap();
        file.write_all_at(name.as_bytes(), 0).unwrap();
        file.set_len(bytes).unwrap();
        path.to_string_lossy().into_owned()
    }

    /// A tapdisk that has the next minor, and nothing open.
    fn spawn(&self) -> Tapdisk {
        let (stdout, _) = texts(&self.ctl(&["spawn"]));
        let pid: u32 = stdout.trim().parse().expect("spawn prints a pid");
        let minor = tapctl::minors::allocate(&self.dir, Duration::from_secs(5)).unwrap();
        let control = Client::new(&self.dir, pid);
        control.attach(minor).unwrap();
        let identity = Identity::of(pid).unwrap().expect("it lives");
        Tapdisk { pid, minor, control, identity }
    }

    /// A tapdisk that serves a file of that many bytes.
    fn serve(&self, name: &str, bytes: u64) -> Tapdisk {
        let tapdisk = self.spawn();
        let image = format!("ram:{}", self.image(name, bytes));
        tapdisk.control.open(tapdisk.minor, Open::new(image)).unwrap();
        tapdisk
    }

    /// A tapdisk that serves a file of that many bytes, none of which is zero.
    fn serve_filled(&self, name: &str, bytes: usize) -> Tapdisk {
        let tapdisk = self.spawn();
        let path = self.xapi.root().join(name);
        fs::write(&path, vec![0x5a; bytes]).unwrap();
        tapdisk.control.open(tapdisk.minor, Open::new(format!("ram:{}", path.display()))).unwrap();
        tapdisk
    }

    fn nbd_path(&self, tapdisk: &Tapdisk) -> PathBuf {
        self.dir.nbd(tapdisk.pid, tapdisk.minor)
    }

    fn connect(&self, tapdisk: &Tapdisk) -> Nbd {
        Nbd::connect(self.nbd_path(tapdisk), &Wish::default()).unwrap()
    }

    /// The names in the control directory that belong to a process.
    fn names_of(&self, pid: u32) -> Vec<String> {
        let names = fs::read_dir(self.dir.path()).unwrap();
        let names = names.map(|it| it.unwrap().file_name().to_string_lossy().into_owned());
        let mut names: Vec<_> = names.filter(|name| name.contains(&pid.to_string())).collect();
        names.sort();
        names
    }
}

impl Tapdisk {
    /// The process that does the work.
    fn server(&self) -> Identity {
        end_to_end::server(&self.identity)
    }

    /// `-p <pid> -m <minor>`
    fn on(&self) -> [String; 4] {
        ["-p".into(), self.pid.to_string(), "-m".into(), self.minor.to_string()]
    }

    /// A sub-command for it, with more arguments.
    fn command<'a>(on: &'a [String; 4], name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        std::iter::once(name)
            .chain(on.iter().map(String::as_str))
            .chain(more.iter().copied())
            .collect()
    }

    /// Waits until it has ended.
    #[track_caller]
    fn ends(&self) {
        assert!(self.identity.wait(Duration::from_secs(5)).unwrap(), "the process ends");
    }
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// Waits until something is so.
#[track_caller]
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    while !is_so() {
        assert!(Instant::now() < end, "never {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
