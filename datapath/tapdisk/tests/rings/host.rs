//! A tapdisk of its own with guests that are no guests.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    rc::Rc,
    time::{Duration, Instant},
};

use blkif::{
    Abi, Location,
    mock::{Frontend, Guest, GuestDisk},
};
use nbd::client::{Client as Nbd, Wish};
use scratch::Scratch;
use serde_json::Value;
use tapctl::{Client, ControlDir, Identity, Open, Ring, minors};

/// How long anything is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const MINORS: u16 = 3;
/// `xvda`.
pub(crate) const DEVID: u32 = 51712;
const PAGES: u32 = 512;

/// The process, and what it serves.
pub(crate) struct Host {
    pub(crate) dir: ControlDir,
    pub(crate) pid: u32,
    process: Child,
    root: Scratch,
}

impl Host {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more environment variables.
    pub(crate) fn start_with(variables: &[(&str, &Path)]) -> Self {
        let root = Scratch::in_memory();
        let dir = ControlDir::new(root.path().join("ctl"));
        for _ in 0..MINORS {
            minors::allocate(&dir, PATIENCE).unwrap();
        }
        fs::create_dir(root.path().join("guests")).unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_tapdisk-ram"))
            .arg("serve")
            .env("XAPI_RAM_CONTROL_DIR", dir.path())
            .env("XAPI_RAM_MOCK_XEN", root.path().join("guests"))
            .env("XAPI_RAM_SYSLOG", "/dev/null")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pid = process.id();
        Self { dir, pid, process, root }
    }

    /// The process that does the work.
    pub(crate) fn server(&self) -> Identity {
        let keeper = Identity::of(self.pid).unwrap().unwrap();
        keeper.servers().unwrap().pop().unwrap()
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.dir, self.pid).timeout(PATIENCE)
    }

    /// Makes a file to serve, all of it that byte.
    pub(crate) fn image(&self, name: &str, bytes: usize, byte: u8) -> String {
        let path = self.root.path().join(name);
        fs::write(&path, vec![byte; bytes]).unwrap();
        format!("ram:{}", path.display())
    }

    /// A minor under which a file is open.
    pub(crate) fn open(&self, minor: u16, params: &str) {
        self.client().attach(minor).unwrap();
        self.client().open(minor, Open::new(params.to_owned())).unwrap();
    }

    pub(crate) fn guest(&self, domid: u32) -> Rc<Guest> {
        Rc::new(Guest::create(self.root.path().join("guests"), domid, PAGES).unwrap())
    }

    /// Says what xenstore would of a guest's disk.
    pub(crate) fn name_disk(&self, domid: u32, machine: &str, device: &str) {
        let guest = self.root.path().join("guests").join(domid.to_string());
        fs::write(guest.join(format!("names-{DEVID}")), format!("{machine} {device}")).unwrap();
    }

    pub(crate) fn nbd(&self, minor: u16) -> Nbd {
        let nbd = Nbd::connect(self.dir.nbd(self.pid, minor), &Wish::default()).unwrap();
        nbd.socket().set_read_timeout(Some(PATIENCE)).unwrap();
        nbd
    }

    pub(crate) fn stats(&self, minor: u16) -> Value {
        serde_json::from_str(&self.client().stats(minor).unwrap()).unwrap()
    }

    /// Where the statistics of a device are: its own directory, and the file of the process.
    pub(crate) fn files(&self, domid: u32) -> [PathBuf; 2] {
        let metrics = self.dir.metrics();
        [metrics.device(domid, DEVID), metrics.ring(self.pid, domid, DEVID)]
    }

    /// The process has a signal to end, or nothing left to serve: how it ends.
    pub(crate) fn ends(&mut self) {
        let status = self.process.wait().unwrap();
        assert!(status.success(), "{status}");
    }

    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Ended already where the test has it end; its number is its own until it is waited for.
        if let Ok(Some(identity)) = Identity::of(self.pid) {
            let _ended = identity.kill();
        }
        let _waited_for = self.process.wait();
    }
}

/// A frontend, and what a control message says of it.
pub(crate) fn frontend(guest: &Rc<Guest>, order: u32) -> (GuestDisk, Ring) {
    let frontend = Frontend::create(guest, Abi::X86_64, order).unwrap();
    let message = message(&frontend, guest.domid());
    (GuestDisk::new(frontend), message)
}

/// What tapback sends for a frontend.
pub(crate) fn message(frontend: &Frontend, domid: u32) -> Ring {
    message_of(&frontend.location(), domid)
}

/// What tapback sends for a ring that is there.
pub(crate) fn message_of(location: &Location, domid: u32) -> Ring {
    let mut grefs = [0; 8];
    grefs[..location.grefs.len()].copy_from_slice(&location.grefs);
    Ring {
        domid,
        devid: DEVID,
        grefs,
        order: location.grefs.len().ilog2(),
        protocol: location.protocol,
        pool: Some("".into()),
        port: location.port,
        poll_duration: 1000,
        poll_idle_threshold: 50,
    }
}

/// Waits until something is so.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what} does not come to pass");
        std::thread::sleep(Duration::from_millis(5));
    }
}
