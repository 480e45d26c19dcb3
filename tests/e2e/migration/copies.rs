//! Data.copy, which no released xapi calls: given blocks of a volume, to a server of another project.

use std::{
    fs,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use end_to_end::{Disk, Failure, Xapi, server, tools};
use scratch::Scratch;
use serde_json::{Value, json};

use super::{
    Calls,
    outgoing::{complete, pids, stat},
};
use crate::{MIB, maintenance::assert_sound};

const SIZE: u64 = 8 * MIB;
const BLOCK: u64 = 65536;
const GUEST: &str = "5";

/// nbdkit, with a disk in a file. It ends with the test.
struct Nbdkit {
    directory: Scratch,
    child: Child,
}

impl Nbdkit {
    /// A disk of other bytes than any that are copied. `None`, which says so, where nbdkit is missing.
    fn start(options: &[&str]) -> Option<Self> {
        if !tools::present(&["nbdkit"]) {
            return None;
        }
        let directory = Scratch::in_memory();
        fs::write(directory.path().join("image"), vec![0x55; SIZE as usize]).unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        // Its own options come before the plugin, those of filters behind.
        let (own, behind): (Vec<&str>, Vec<&str>) =
            options.iter().partition(|option| option.starts_with('-'));
        let child = Command::new("nbdkit")
            .args(["-f", "-U", &path("socket")])
            .args(own)
            .args(["file", &path("image")])
            .args(behind)
            .stdin(Stdio::null())
            .spawn();
        Some(Self { child: child.unwrap(), directory })
    }

    fn remote(&self) -> String {
        format!("nbd+unix:///?socket={}", self.directory.path().join("socket").display())
    }

    fn image(&self) -> Vec<u8> {
        fs::read(self.directory.path().join("image")).unwrap()
    }
}

impl Drop for Nbdkit {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        self.child.wait().unwrap();
    }
}

/// A host, and a volume with data in every second MiB.
struct Source {
    xapi: Xapi,
    sr: String,
    key: String,
    bytes: Vec<u8>,
}

impl Source {
    fn new() -> Self {
        let xapi = Xapi::new();
        let sr = xapi.create_sr("64MiB");
        let key = xapi.create_vdi(&sr, SIZE);
        let mut bytes = vec![0; SIZE as usize];
        let disk = xapi.plug(&sr, &key, "u0_vbd_0_x_xvda");
        let mut client = disk.connect();
        for at in (0..SIZE).step_by(2 << 20) {
            let noise = tools::noise(at + 1, 1 << 20);
            client.write(at, &noise).unwrap();
            bytes[at as usize..][..1 << 20].copy_from_slice(&noise);
        }
        client.disconnect().unwrap();
        disk.unplug();
        Self { xapi, sr, key, bytes }
    }

    fn calls(&self) -> Calls<'_> {
        Calls { xapi: &self.xapi, sr: self.sr.clone() }
    }

    fn activate(&self) -> Disk<'_> {
        Disk::attach_and_activate(&self.xapi, &self.sr, &self.key, GUEST, false).unwrap()
    }

    fn copy(&self, key: &str, remote: &str, blocks: Value) -> Result<Value, Failure> {
        let uri = self.xapi.stat(&self.sr, key)?["uri"][0].clone();
        let params = json!({ "uri": uri, "domain": GUEST, "remote": remote, "blocklist": blocks });
        let operation = self.xapi.datapath("Data.copy", params)?;
        assert_eq!(operation[0], "CopyV1");
        Ok(operation)
    }

    /// All of the disk.
    fn copy_all(&self, remote: &str) -> Value {
        self.copy(&self.key, remote, blocks(&[(0, SIZE / BLOCK)])).unwrap()
    }

    fn wait(&self, operation: &Value) -> Value {
        let begun = Instant::now();
        loop {
            let status = stat(&self.xapi, operation);
            if status["complete"] == true || status["failed"] == true {
                return status;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{status}");
        }
    }

    /// Nothing is left of the copies: no process, no minor, and the volume can go.
    fn assert_over(&self) {
        assert_eq!(self.xapi.control_dir().tapdisks().unwrap(), [0; 0]);
        assert_eq!(self.xapi.control_dir().reserved().unwrap(), [0; 0]);
        self.calls().volume("destroy", &self.key, json!({})).unwrap();
        assert_sound(&self.xapi, &self.sr);
    }
}

fn blocks(ranges: &[(u64, u64)]) -> Value {
    json!({ "blocksize": BLOCK, "ranges": ranges })
}

/// The named blocks arrive, holes as zeroes, and the bytes beside them stay: of a disk that a machine writes to,
/// and of a snapshot that nothing has attached. Into a server with everything, one that cannot write zeroes, and
/// one of the old style, which reads and writes alone as blktap's does.
#[test]
fn given_blocks_are_copied() {
    for options in [&[][..], &["--filter=nozero"], &["--oldstyle"]] {
        let Some(nbdkit) = Nbdkit::start(options) else { return };
        let source = Source::new();
        let ranges = [(17, 4), (0, 2), (1, 2), (30, 6), (SIZE / BLOCK - 1, 1), (50, 0)];
        let mut expected = vec![0x55; SIZE as usize];
        for (start, length) in ranges {
            let range = (start * BLOCK) as usize..((start + length) * BLOCK) as usize;
            expected[range.clone()].copy_from_slice(&source.bytes[range]);
        }
        let disk = source.activate();
        let operation = source.copy(&source.key, &nbdkit.remote(), blocks(&ranges)).unwrap();
        assert_eq!(source.wait(&operation), complete());
        assert!(nbdkit.image() == expected, "{options:?}");
        assert_eq!(stat(&source.xapi, &operation), complete(), "it stays answerable");
        // A disk that changes when it is copied is copied as it was at some moment; a snapshot does not.
        let snapshot = source.calls().snapshot(&source.key);
        disk.connect().write(0, &[0xaa; 65536]).unwrap();
        let listed = blocks(&[(0, SIZE / BLOCK)]);
        let operation = source.copy(&snapshot, &nbdkit.remote(), listed).unwrap();
        assert_eq!(source.wait(&operation), complete());
        assert!(nbdkit.image() == source.bytes, "{options:?}");
        disk.unplug();
        source.calls().volume("destroy", &snapshot, json!({})).unwrap();
        source.assert_over();
    }
}

/// Listed, cancelled and destroyed as mirrors are; one at a time; and without a caller that asks for it a copy
/// that has ended keeps nothing from going.
#[test]
fn copies_are_listed_cancelled_and_destroyed() {
    let Some(slow) = Nbdkit::start(&["--filter=delay", "wdelay=2"]) else { return };
    let source = Source::new();
    let data = |method: &str, operation: &Value| {
        source.xapi.datapath(&format!("Data.{method}"), json!({ "operation": operation }))
    };
    let operation = source.copy_all(&slow.remote());
    let begun = Instant::now();
    let status = stat(&source.xapi, &operation);
    assert!(status["complete"] == false && status["failed"] == false, "{status}");
    assert!(begun.elapsed() >= Duration::from_millis(900), "Data.stat waits for a second");
    assert_eq!(source.xapi.datapath("Data.ls", json!({})).unwrap(), json!([operation]));
    let failure = source.copy(&source.key, &slow.remote(), blocks(&[])).unwrap_err();
    assert_eq!(failure.code, "SR_BACKEND_FAILURE_24");
    let failure = source.calls().volume("destroy", &source.key, json!({})).unwrap_err();
    assert!(failure.params[1].contains("Data.cancel"), "{failure}");
    data("destroy", &operation).unwrap_err();
    data("cancel", &operation).unwrap();
    assert_eq!(stat(&source.xapi, &operation)["failed"], true);
    data("destroy", &operation).unwrap();
    assert_eq!(source.xapi.datapath("Data.ls", json!({})).unwrap(), json!([]));
    assert_eq!(source.xapi.control_dir().tapdisks().unwrap(), [0; 0]);

    let fast = Nbdkit::start(&[]).unwrap();
    let operation = source.copy(&source.key, &fast.remote(), blocks(&[(0, 16)])).unwrap();
    while fast.image()[..16 * BLOCK as usize] != source.bytes[..16 * BLOCK as usize] {}
    thread::sleep(Duration::from_millis(200));
    source.calls().volume("destroy", &source.key, json!({})).unwrap();
    assert_eq!(stat(&source.xapi, &operation)["failed"], true, "it goes with its volume");
    assert_eq!(source.xapi.control_dir().tapdisks().unwrap(), [0; 0]);
}

/// Whatever ends a copy before it is done, it says failed and never complete, and no call is owed anything: the
/// machine's disk goes on, and is deactivated without an error.
#[test]
fn a_copy_that_is_broken_has_failed() {
    for broken in ["nbdkit", "server", "tapdisk", "deactivated", "resized", "detached"] {
        let Some(slow) = Nbdkit::start(&["--filter=delay", "wdelay=2"]) else { return };
        let source = Source::new();
        let disk = source.activate();
        let operation = source.copy_all(&slow.remote());
        thread::sleep(Duration::from_millis(100));
        match broken {
            "nbdkit" => drop(slow),
            // Its keeper starts another one, which goes on with the machine and not with the copy.
            "server" => pids(&source.xapi).iter().for_each(|it| server(it).kill().unwrap()),
            "tapdisk" => pids(&source.xapi).iter().for_each(|it| it.kill().unwrap()),
            "deactivated" => {
                let begun = Instant::now();
                source.calls().steps(&["deactivate"], &source.key, GUEST);
                assert!(begun.elapsed() < Duration::from_secs(2), "it waits for no copy");
            }
            "resized" => {
                let new_size = json!({ "new_size": SIZE + MIB });
                source.calls().volume("resize", &source.key, new_size).unwrap();
            }
            _ => source.calls().steps(&["detach"], &source.key, GUEST),
        }
        assert_eq!(source.wait(&operation)["failed"], true, "{broken}");
        if !matches!(broken, "deactivated" | "detached" | "tapdisk") {
            disk.connect().write(0, &[1; 4096]).unwrap();
        }
        source.calls().steps(&["deactivate", "detach"], &source.key, GUEST);
        source.calls().steps(&["attach", "activate", "deactivate", "detach"], &source.key, "6");
        source.assert_over();
    }
}

/// The domain that a copy was begun for deactivates while another one has the disk active: it goes on, and no
/// call waits for it.
#[test]
fn a_copy_outlives_its_domain_beside_another_one() {
    let Some(slow) = Nbdkit::start(&["--filter=delay", "wdelay=1"]) else { return };
    let source = Source::new();
    let _disk = source.activate();
    let other = source.xapi.plug(&source.sr, &source.key, "6");
    let operation = source.copy_all(&slow.remote());
    let begun = Instant::now();
    source.calls().steps(&["deactivate", "detach"], &source.key, GUEST);
    assert!(begun.elapsed() < Duration::from_millis(900), "it waits for no copy");
    assert_eq!(source.wait(&operation), complete());
    assert!(slow.image() == source.bytes);
    other.unplug();
    source.assert_over();
}

/// A volume that only a copy has active: a machine that starts does not wait for it.
#[test]
fn a_copy_makes_way_for_a_machine() {
    let Some(slow) = Nbdkit::start(&["--filter=delay", "wdelay=2"]) else { return };
    let source = Source::new();
    let operation = source.copy_all(&slow.remote());
    let disk = source.xapi.plug(&source.sr, &source.key, "7");
    disk.connect().write(0, &[1; 4096]).unwrap();
    assert_eq!(source.wait(&operation)["failed"], true);
    disk.unplug();
    source.assert_over();
}

/// What cannot be copied is refused with what is wrong, before anything begins.
#[test]
fn a_copy_that_makes_no_sense_is_refused() {
    let source = Source::new();
    let nowhere = "nbd+unix:///?socket=/no/such/socket";
    for (remote, list, told) in [
        (nowhere, json!({ "blocksize": 0, "ranges": [[0, 1]] }), "blocksize"),
        (nowhere, blocks(&[(0, SIZE / BLOCK + 1)]), "ends with block 128"),
        ("http://host/", blocks(&[]), "expected nbd+unix"),
    ] {
        let failure = source.copy(&source.key, remote, list).unwrap_err();
        assert!(failure.params[1].contains(told), "{failure}");
        assert_eq!(failure.code, "SR_BACKEND_FAILURE_1", "{failure}");
    }
    source.copy("11111111-2222-3333-4444-555555555555", nowhere, blocks(&[])).unwrap_err();
    let operation = source.copy(&source.key, nowhere, blocks(&[])).unwrap();
    assert_eq!(source.wait(&operation)["failed"], true);
    source.assert_over();
}

/// Many ranges: the list goes to the tapdisk beside the message.
#[test]
fn a_long_list_of_blocks_is_copied() {
    let Some(nbdkit) = Nbdkit::start(&[]) else { return };
    let source = Source::new();
    let every_second: Vec<(u64, u64)> = (0..SIZE / 512).step_by(2).map(|at| (at, 1)).collect();
    let list = json!({ "blocksize": 512, "ranges": every_second });
    let operation = source.copy(&source.key, &nbdkit.remote(), list).unwrap();
    assert_eq!(source.wait(&operation), complete());
    let mut expected = source.bytes.clone();
    expected.chunks_mut(1024).for_each(|pair| pair[512..].fill(0x55));
    assert!(nbdkit.image() == expected);
    source.assert_over();
}
