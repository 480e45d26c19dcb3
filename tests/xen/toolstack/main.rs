//! What xenopsd and tapback do for a guest's disk, for the Xen host of `tests/xen`: the nodes, the
//! conversation with the frontend by states, and the messages to the tapdisk. It also puts bytes on a disk.
//!
//! It is written after xen-api's `ocaml/xenopsd/xc/device.ml` and blktap's `tapback/` (frontend.c,
//! backend.c); the keys and their order are those.

use std::{
    io::{self, Read},
    mem,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use end_to_end::Keys;
use nbd::client::{Client as Nbd, Wish};
use tapctl::{Client, ControlDir, Ring};

/// `enum xenbus_state` of `xen/io/xenbus.h`.
mod state {
    pub(crate) const INITIALISING: &str = "1";
    pub(crate) const INIT_WAIT: &str = "2";
    pub(crate) const INITIALISED: &str = "3";
    pub(crate) const CONNECTED: &str = "4";
    pub(crate) const CLOSING: &str = "5";
    pub(crate) const CLOSED: &str = "6";
}

/// What the frontend is told of a disk: `VDISK_*` of `xen/io/blkif.h`.
mod info {
    pub(crate) const CDROM: u64 = 1;
    pub(crate) const READ_ONLY: u64 = 4;
}

/// What tapback writes first: the largest ring, as the logarithm of its pages.
const SEEN: &str = "max-ring-page-order";
/// How long a plug waits for the backend, and an unplug for the frontend.
const PATIENCE: Duration = Duration::from_secs(200);
const PAUSE: Duration = Duration::from_millis(20);
/// What tapback may take to read the nodes of a new device; it gives no sign of having done it.
const SETTLING: Duration = Duration::from_millis(300);
/// How much is written to a disk at a time.
const WRITE_BYTES: usize = 256 << 10;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["plug", domid, devid, socket, mode, kind] => {
            Device::new(domid, devid)?.plug(socket, mode, kind)
        }
        ["serve", domid, devid] => Device::new(domid, devid)?.serve(),
        ["unplug", domid, devid] => Device::new(domid, devid)?.unplug(),
        ["write", socket, offset] => write(socket, offset.parse()?),
        _ => bail!(
            "usage: xen-toolstack plug DOMID DEVID SOCKET r|w disk|cdrom, serve or unplug DOMID DEVID, \
             write SOCKET OFFSET"
        ),
    }
}

/// Writes what comes from stdin to a disk.
fn write(socket: &str, mut offset: u64) -> Result<()> {
    let mut disk = Nbd::connect(socket, &Wish::default())?;
    let mut bytes = vec![0; WRITE_BYTES];
    loop {
        let length = io::stdin().read(&mut bytes)?;
        if length == 0 {
            return Ok(disk.disconnect()?);
        }
        disk.write(offset, &bytes[..length])?;
        offset += length as u64;
    }
}

/// A disk of a guest.
struct Device {
    keys: Keys,
    domid: u32,
    devid: u32,
    frontend: String,
    backend: String,
}

impl Device {
    fn new(domid: &str, devid: &str) -> Result<Self> {
        Ok(Self {
            keys: Keys::open()?,
            domid: domid.parse()?,
            devid: devid.parse()?,
            frontend: format!("/local/domain/{domid}/device/vbd/{devid}"),
            backend: format!("/local/domain/0/backend/vbd3/{domid}/{devid}"),
        })
    }

    /// Makes the nodes, as xenopsd does, and says where the tapdisk is once the backend has been seen: tapback looks for
    /// that when it changes alone.
    fn plug(&mut self, socket: &str, mode: &str, kind: &str) -> Result<()> {
        let (frontend, backend) = (self.frontend.clone(), self.backend.clone());
        let guest = self.domid;
        let (devid, guest_id) = (self.devid.to_string(), guest.to_string());
        let frontend_keys = [
            ("backend", &*backend),
            ("backend-id", "0"),
            ("state", state::INITIALISING),
            ("virtual-device", &devid),
            ("device-type", kind),
        ];
        let device = std::fs::canonicalize(socket).context(socket.to_owned())?;
        let backend_keys = [
            ("frontend", &*frontend),
            ("frontend-id", &guest_id),
            ("online", "1"),
            ("removable", "1"),
            ("state", state::INITIALISING),
            ("type", "phy"),
            ("mode", mode),
            ("dev", &linux_name(self.devid)),
            ("params", &format!("nbd:unix:{socket}")),
        ];
        // The guest and tapback look as soon as there is anything, and have to see all of it.
        self.keys.at_once(|keys| {
            // The guest can read what is made below a directory that it can read.
            keys.write(&frontend, "")?;
            keys.permit(&frontend, &[&format!("n{guest}"), "r0"])?;
            keys.write(&backend, "")?;
            keys.permit(&backend, &["n0", &format!("r{guest}")])?;
            for (path, pairs) in [(&frontend, &frontend_keys[..]), (&backend, &backend_keys)] {
                for (key, value) in pairs {
                    keys.write(&format!("{path}/{key}"), value)?;
                }
            }
            Ok(())
        })?;
        let start = Instant::now();
        while self.read_backend(SEEN).is_err() {
            ensure!(start.elapsed() < PATIENCE, "no tapback has seen {backend}");
            thread::sleep(PAUSE);
        }
        // tapback then reads what is there, without the tapdisk's word on the disk, and forgets with that word that the
        // disk is read-only.
        thread::sleep(SETTLING);
        for (key, value) in [
            ("physical-device-path", device.to_str().context("a path that is not UTF-8")?),
            ("hotplug-status", "connected"),
        ] {
            self.keys.write(&format!("{backend}/{key}"), value)?;
        }
        Ok(())
    }

    /// What tapback does for the device from when it has nodes until they are removed.
    fn serve(&mut self) -> Result<()> {
        self.wait(|it| it.read_backend("params").is_ok());
        self.write_backend(SEEN, "3")?;
        self.wait(|it| it.read_backend("hotplug-status").is_ok());
        let path = self.read_backend("physical-device-path")?;
        let (directory, pid, minor) = tapdisk_of(&path)?;
        let client = Client::new(&ControlDir::new(directory), pid);
        ensure!(client.pid()? == pid, "another tapdisk answers");
        let listed = client.list()?;
        ensure!(listed.iter().any(|it| it.minor == i32::from(minor)), "no minor {minor}");
        self.write_backend("kthread-pid", &pid.to_string())?;
        let mut is_connected = false;
        let ended = self.follow(&client, minor, &mut is_connected);
        if is_connected {
            client.disconnect(self.domid, self.devid)?;
        }
        ended
    }

    /// tapback's `frontend_changed` and `tapback_backend_handle_otherend_watch`.
    fn follow(&mut self, client: &Client, minor: u16, is_connected: &mut bool) -> Result<()> {
        let mut seen = None;
        while self.read_backend("frontend").is_ok() {
            let frontend = self.read_frontend("state");
            match frontend.as_deref() {
                _ if frontend == seen => thread::sleep(PAUSE),
                // With its frontend the backend goes, too.
                None => return self.keys.remove(&self.backend.clone()),
                Some(state::INITIALISING) => self.write_backend("state", state::INIT_WAIT)?,
                Some(state::INITIALISED | state::CONNECTED) if !*is_connected => {
                    *is_connected = true;
                    self.connect(client, minor)?;
                }
                Some(state::CLOSING) => self.write_backend("state", state::CLOSING)?,
                Some(state::CLOSED) => {
                    if mem::take(is_connected) {
                        client.disconnect(self.domid, self.devid)?;
                    }
                    self.write_backend("state", state::CLOSED)?;
                }
                Some(_) => {}
            }
            seen = frontend;
        }
        Ok(())
    }

    /// Connects the ring that the frontend describes; writes what it is told of the disk.
    fn connect(&mut self, client: &Client, minor: u16) -> Result<()> {
        let order = match self.read_frontend("ring-page-order") {
            Some(order) => order.parse()?,
            None => 0,
        };
        let mut grefs = [0; 8];
        for (index, gref) in grefs.iter_mut().take(1 << order).enumerate() {
            // Those of a frontend that has been there before are left.
            let key = if order == 0 { "ring-ref".to_owned() } else { format!("ring-ref{index}") };
            *gref = self.read_frontend(&key).context(key)?.parse()?;
        }
        let protocol = match self.read_frontend("protocol").as_deref() {
            Some("x86_64-abi") => 1,
            _ => 2,
        };
        let port = self.read_frontend("event-channel").context("no event-channel")?.parse()?;
        client.connect(
            minor,
            Ring {
                domid: self.domid,
                devid: self.devid,
                grefs,
                order,
                protocol,
                pool: Some("".into()),
                port,
                poll_duration: 1000,
                poll_idle_threshold: 50,
            },
        )?;
        let image = client.disk_info(minor)?;
        let is_cd = self.read_frontend("device-type").as_deref() == Some("cdrom");
        let kind = if is_cd { info::CDROM } else { 0 };
        let mode = if self.read_backend("mode")? == "w" { 0 } else { info::READ_ONLY };
        for (key, value) in [
            ("feature-barrier", 1),
            ("sector-size", u64::from(image.sector_size)),
            ("sectors", image.sectors),
            ("info", u64::from(image.info) | kind | mode),
        ] {
            self.write_backend(key, &value.to_string())?;
        }
        self.write_backend("state", state::CONNECTED)
    }

    /// Takes the disk away: xenopsd's clean shutdown. A backend whose domain is no more may have gone with it.
    fn unplug(&mut self) -> Result<()> {
        if self.read_backend("frontend").is_ok() {
            self.write_backend("online", "0")?;
            self.write_backend("state", state::CLOSING)?;
        }
        let start = Instant::now();
        while self.read_backend("state").is_ok_and(|state| state != state::CLOSED) {
            ensure!(start.elapsed() < PATIENCE, "the backend was not closed");
            thread::sleep(PAUSE);
        }
        self.keys.remove(&self.backend.clone())?;
        // Those of a domain that is no more went with it.
        match self.read_frontend("backend") {
            Some(_) => self.keys.remove(&self.frontend.clone()),
            None => Ok(()),
        }
    }

    /// Waits for the other side, for as long as it takes: guests start slowly here.
    fn wait(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        while !done(self) {
            thread::sleep(PAUSE);
        }
    }

    fn read_frontend(&mut self, key: &str) -> Option<String> {
        self.keys.read(&format!("{}/{key}", self.frontend)).ok()?
    }

    fn read_backend(&mut self, key: &str) -> Result<String> {
        let path = format!("{}/{key}", self.backend);
        self.keys.read(&path)?.with_context(|| format!("no {path}"))
    }

    /// Writes a key that the guest may read.
    fn write_backend(&mut self, key: &str, value: &str) -> Result<()> {
        let (path, guest) = (format!("{}/{key}", self.backend), self.domid);
        self.keys.write(&path, value)?;
        self.keys.permit(&path, &["n0", &format!("r{guest}")])
    }
}

/// The control directory, process and minor of a path as `/run/blktap-control/nbd<pid>.<minor>`.
fn tapdisk_of(path: &str) -> Result<(&Path, u32, u16)> {
    let path = Path::new(path);
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let numbers = name.strip_prefix("nbd").and_then(|rest| rest.split_once('.'));
    let (pid, minor) = numbers.with_context(|| format!("{name} names no tapdisk"))?;
    Ok((path.parent().context("no directory")?, pid.parse()?, minor.parse()?))
}

/// What Linux guests call the disk of a number that has Xen's major of disks (202).
fn linux_name(devid: u32) -> String {
    let letter = (devid & 0xff) >> 4;
    format!("xvd{}", char::from(b'a' + letter as u8))
}
