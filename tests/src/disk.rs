//! A disk that is plugged as xapi plugs it.

use std::time::{Duration, Instant};

use nbd::client::{Client, Wish};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{Failure, Xapi};

/// How long a killed process may take to end.
const TAPDISK_END: Duration = Duration::from_secs(5);

/// A plugged disk; it stays plugged until [`Disk::unplug`].
#[derive(Clone, Debug)]
pub struct Disk<'a> {
    xapi: &'a Xapi,
    sr: String,
    key: String,
    domain: String,
    /// The URI of the volume, as the datapath is called with it.
    pub uri: String,
    /// The answer of Datapath.attach.
    pub backend: Value,
    /// The NBD socket.
    pub socket: String,
}

impl Xapi {
    /// Plugs a disk for writing, in domain `domain`.
    ///
    /// # Panics
    /// Where a step fails.
    #[must_use]
    pub fn plug(&self, sr: &str, key: &str, domain: &str) -> Disk<'_> {
        Disk::plug(self, sr, key, domain, false).expect("plugging a disk")
    }
}

impl<'a> Disk<'a> {
    /// Open, attach and activate, each after a Volume.stat.
    ///
    /// # Errors
    /// That of the first step that fails.
    ///
    /// # Panics
    /// Where an answer lacks what a guest or dom0 needs.
    pub fn plug(
        xapi: &'a Xapi,
        sr: &str,
        key: &str,
        domain: &str,
        read_only: bool,
    ) -> Result<Self, Failure> {
        let uri = uri(xapi, sr, key)?;
        xapi.datapath("Datapath.open", json!({ "uri": uri, "persistent": true }))?;
        Self::attach_and_activate(xapi, sr, key, domain, read_only)
    }

    /// Attach and activate, each after a Volume.stat.
    ///
    /// # Errors
    /// That of the first step that fails.
    ///
    /// # Panics
    /// Where an answer lacks what a guest or dom0 needs.
    pub fn attach_and_activate(
        xapi: &'a Xapi,
        sr: &str,
        key: &str,
        domain: &str,
        read_only: bool,
    ) -> Result<Self, Failure> {
        let uri = uri(xapi, sr, key)?;
        let place = json!({ "uri": uri, "domain": domain });
        let backend = xapi.datapath("Datapath.attach", place.clone())?;
        let socket = nbd_socket(&backend);
        xapi.stat(sr, key)?;
        let method = if read_only { "Datapath.activate_readonly" } else { "Datapath.activate" };
        xapi.datapath(method, place)?;
        let (sr, key, domain) = (sr.to_owned(), key.to_owned(), domain.to_owned());
        Ok(Self { xapi, sr, key, domain, uri, backend, socket })
    }

    /// The URI that NBD clients take.
    #[must_use]
    pub fn nbd(&self) -> String {
        format!("nbd+unix:///{}?socket={}", self.key, self.socket)
    }

    /// Calls a datapath method for this disk and domain.
    ///
    /// # Errors
    /// The error that the method answers.
    pub fn step(&self, method: &str) -> Result<Value, Failure> {
        self.xapi.datapath(method, json!({ "uri": self.uri, "domain": self.domain }))
    }

    /// Deactivate, detach and close, each after a Volume.stat.
    ///
    /// # Panics
    /// Where a step fails.
    pub fn unplug(self) {
        for method in ["Datapath.deactivate", "Datapath.detach"] {
            self.xapi.stat(&self.sr, &self.key).expect("Volume.stat");
            self.step(method).unwrap_or_else(|failure| panic!("{method}: {failure}"));
        }
        self.xapi.datapath("Datapath.close", json!({ "uri": self.uri })).expect("Datapath.close");
    }

    /// A client of the disk.
    ///
    /// # Panics
    /// Where the disk is not served.
    #[must_use]
    pub fn connect(&self) -> Client {
        Client::connect(&self.socket, &Wish::default()).expect("the disk is served")
    }

    /// The server of the disk's tapdisk: the process that does the work.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn server(&self) -> tapctl::Identity {
        server(&self.tapdisk())
    }

    /// Kills the tapdisk of the disk, keeper and server, and waits for its end.
    ///
    /// # Panics
    /// Where there is none.
    pub fn kill_tapdisk(&self) {
        let tapdisk = self.tapdisk();
        tapdisk.kill().expect("a live tapdisk");
        assert!(tapdisk.wait(TAPDISK_END).expect("/proc"), "a killed process ends");
    }

    /// The tapdisk of the disk: its keeper, by whose number other programs know it.
    ///
    /// # Panics
    /// Where the socket's name does not tell.
    #[must_use]
    pub fn tapdisk(&self) -> tapctl::Identity {
        let target = std::fs::read_link(&self.socket).expect("the stable link");
        let name = target.file_name().expect("a socket").to_string_lossy().into_owned();
        let pid = name.strip_prefix("nbd").and_then(|rest| rest.split('.').next()?.parse().ok());
        let pid = pid.unwrap_or_else(|| panic!("{name} is not nbd<pid>.<minor>"));
        tapctl::Identity::of(pid).expect("/proc").expect("a live tapdisk")
    }
}

/// The server of a tapdisk, which is about to be started where the one before has just died.
///
/// # Panics
/// Where there is none.
#[must_use]
pub fn server(tapdisk: &tapctl::Identity) -> tapctl::Identity {
    let begun = Instant::now();
    loop {
        if let [server] = &tapdisk.servers().expect("/proc")[..] {
            return server.clone();
        }
        assert!(begun.elapsed() < TAPDISK_END, "tapdisk {} has no server", tapdisk.pid);
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sends a signal to all processes of a tapdisk: SIGSTOP has all of it hang.
///
/// # Panics
/// Where it is dead.
pub fn signal_all(tapdisk: &tapctl::Identity, signal: Signal) {
    tapdisk.signal(signal).expect("a live tapdisk");
    for server in tapdisk.servers().expect("/proc") {
        server.signal(signal).expect("a live server");
    }
}

/// The URI of a volume, as xapi asks for it before each step.
fn uri(xapi: &Xapi, sr: &str, key: &str) -> Result<String, Failure> {
    let volume = xapi.stat(sr, key)?;
    let uri = volume["uri"][0].as_str().expect("a volume has a URI").to_owned();
    assert!(uri.starts_with("ram:"), "the scheme names the datapath plugin: {uri}");
    Ok(uri)
}

/// Reads what dom0 (Nbd) and the guest (XenDisk) are told, as the caller does; the socket.
fn nbd_socket(backend: &Value) -> String {
    let implementations = backend["implementations"].as_array().expect("a list");
    let of = |kind: &str| {
        let found = implementations.iter().find(|implementation| implementation[0] == kind);
        found.unwrap_or_else(|| panic!("no {kind} in {backend}"))[1].clone()
    };
    let (nbd, guest) = (of("Nbd"), of("XenDisk"));
    assert_eq!(guest["backend_type"], "vbd3");
    assert_eq!(guest["params"], nbd["uri"]);
    let uri = nbd["uri"].as_str().expect("a string");
    let fields: Vec<&str> = uri.split(':').collect();
    let ["nbd", "unix", socket, export] = fields[..] else { panic!("{uri} has not four fields") };
    assert!(export.starts_with("exportname="), "{uri}");
    socket.to_owned()
}
