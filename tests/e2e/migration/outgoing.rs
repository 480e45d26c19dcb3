//! Migrations from an SR of this product to another one, on two hosts that have nothing in common, and what
//! xapi relies on while they run.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use end_to_end::{Failure, Xapi, server};
use nbd::client::{Client, Wish};
use serde_json::{Value, json};

use super::{Calls, proxy::Proxy};
use crate::{MIB, maintenance::assert_sound};

pub(super) const MIRROR: &str = "MIR0a1b2c";
pub(super) const GUEST: &str = "5";
pub(super) const HALTED: &str = "-1";
pub(super) const SIZE: u64 = 16 * MIB;

/// Two hosts, a disk on the first one, and what xapi makes on both for its migration.
pub(super) struct Migration<'a> {
    pub(super) source: Calls<'a>,
    pub(super) destination: Calls<'a>,
    pub(super) key: String,
    pub(super) leaf: String,
    pub(super) proxy: Proxy,
    /// dom0's datapath that is attached beside the machine's.
    pub(super) datapath: &'static str,
}

impl<'a> Migration<'a> {
    /// receive_start3 and send_start, up to Data.mirror.
    pub(super) fn prepare(hosts: &'a [Xapi; 2], domain: &str) -> Self {
        Self::between(hosts.each_ref(), domain)
    }

    /// The same for two hosts that may be one.
    pub(super) fn between(hosts: [&'a Xapi; 2], domain: &str) -> Self {
        let calls = |xapi: &'a Xapi| Calls { xapi, sr: xapi.create_sr("128MiB") };
        let [source, destination] = hosts.map(calls);
        let key = source.create(SIZE);
        let disk = source.xapi.plug(&source.sr, &key, "u0_vbd_0_x_xvda");
        let mut client = disk.connect();
        for at in (0..SIZE).step_by(1 << 20) {
            client.write(at, &vec![(at >> 20) as u8 + 1; 300_000]).unwrap();
        }
        client.disconnect().unwrap();
        disk.unplug();
        if domain != HALTED {
            source.steps(&["attach", "activate"], &key, domain);
        }
        let leaf = destination.create(SIZE);
        let attached = destination.datapath("attach", &leaf, MIRROR).unwrap();
        destination.steps(&["activate"], &leaf, MIRROR);
        let datapath =
            if domain == HALTED { "u0_mirror_vbd_9d_c1" } else { "u0_mirror_vbd_5_xvda" };
        source.steps(&["attach"], &key, datapath);
        let socket = source.xapi.root().join("export");
        let to = PathBuf::from(destination.socket(&attached));
        let proxy = Proxy::start(socket, &to);
        Self { source, destination, key, leaf, proxy, datapath }
    }

    pub(super) fn mirror(&self, domain: &str) -> Result<Value, Failure> {
        let uri = self.source.xapi.stat(&self.source.sr, &self.key)?["uri"][0].clone();
        let remote = self.proxy.uri(&self.leaf);
        let params = json!({ "uri": uri, "domain": domain, "remote": remote });
        let operation = self.source.xapi.datapath("Data.mirror", params)?;
        assert_eq!(operation[0], "MirrorV1");
        // get_nbd_server.
        self.destination.steps(&["attach"], &self.leaf, MIRROR);
        Ok(operation)
    }

    pub(super) fn stat(&self, operation: &Value) -> Value {
        stat(self.source.xapi, operation)
    }

    /// mirror_wait, which does not pause.
    pub(super) fn wait(&self, operation: &Value) -> Value {
        let begun = Instant::now();
        loop {
            let status = self.stat(operation);
            if status["complete"] == true || status["failed"] == true {
                return status;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{status}");
        }
    }

    pub(super) fn until_complete(&self, domain: &str) -> Value {
        let operation = self.mirror(domain).unwrap();
        assert_eq!(self.wait(&operation), complete());
        // DATA.MIRROR.stat.
        assert_eq!(self.stat(&operation), complete());
        operation
    }

    pub(super) fn source_step(&self, method: &str, domain: &str) -> Result<Value, Failure> {
        self.source.datapath(method, &self.key, domain)
    }

    /// receive_finalize3, and the machine's start: the bytes that it finds.
    pub(super) fn receive(&self) -> Vec<u8> {
        self.destination.steps(&["deactivate", "detach"], &self.leaf, MIRROR);
        let key = json!({ "k": "_sm_config_base_mirror" });
        self.destination.volume("unset", &self.leaf, key).unwrap();
        contents(&self.destination, &self.leaf, "9")
    }

    /// The disk of the source goes at the end, with everything that was made for the migration.
    pub(super) fn destroy_source(&self) {
        self.source.volume("destroy", &self.key, json!({})).unwrap();
        assert_eq!(self.source.xapi.control_dir().tapdisks().unwrap(), [0; 0]);
        assert_eq!(self.source.xapi.control_dir().reserved().unwrap(), [0; 0]);
        assert_sound(self.source.xapi, &self.source.sr);
    }
}

pub(super) fn hosts() -> [Xapi; 2] {
    [Xapi::new(), Xapi::new()]
}

pub(super) fn complete() -> Value {
    json!({ "failed": false, "complete": true, "progress": 1.0 })
}

pub(super) fn stat(xapi: &Xapi, operation: &Value) -> Value {
    let status = xapi.datapath("Data.stat", json!({ "operation": operation })).unwrap();
    assert!(status["failed"] == false || status["complete"] == false, "{status}");
    status
}

pub(super) fn contents(calls: &Calls<'_>, key: &str, domain: &str) -> Vec<u8> {
    let attached = calls.datapath("attach", key, domain).unwrap();
    calls.steps(&["activate_readonly"], key, domain);
    let mut client = Client::connect(calls.socket(&attached), &Wish::default()).unwrap();
    let bytes = client.read(0, SIZE as u32).unwrap();
    drop(client);
    calls.steps(&["deactivate", "detach"], key, domain);
    bytes
}

/// A guest that writes until it is stopped.
pub(super) struct Guest {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<io::Result<u64>>,
}

impl Guest {
    pub(super) fn start(migration: &Migration<'_>) -> Self {
        let attached = migration.source_step("attach", GUEST).unwrap();
        let socket = migration.source.socket(&attached);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut client = Client::connect(socket, &Wish::default()).map_err(io::Error::other)?;
            let mut number = 0_u64;
            while !stopped.load(Ordering::Relaxed) {
                number += 1;
                let at = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (SIZE / 4096) * 4096;
                let done = match number % 16 {
                    0 => client.write_zeroes(at, 4096, false),
                    1 => client.trim(at, 4096),
                    _ => client.write(at, &number.to_le_bytes().repeat(512)),
                };
                done.map_err(io::Error::other)?;
            }
            client.disconnect().map_err(io::Error::other)?;
            Ok(number)
        });
        Self { stop, thread }
    }

    pub(super) fn stop(self) -> u64 {
        self.stop_or_die().unwrap()
    }

    /// How often it has written, or why it could not any more.
    pub(super) fn stop_or_die(self) -> io::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// A machine that runs: it writes from the beginning to the moment at which it is suspended.
#[test]
fn the_disk_of_a_running_machine_moves() {
    let hosts = hosts();
    let migration = Migration::prepare(&hosts, GUEST);
    let guest = Guest::start(&migration);
    migration.until_complete(GUEST);
    migration.proxy.assert_no_connection_waits();
    // A mirror's own datapath comes and goes, and stops nothing.
    migration.source.steps(&["deactivate", "detach"], &migration.key, migration.datapath);
    thread::sleep(Duration::from_millis(300));
    assert_ne!(guest.stop(), 0);
    migration.source.steps(&["deactivate"], &migration.key, GUEST);
    let moved = migration.receive();
    migration.source.steps(&["detach"], &migration.key, GUEST);
    assert!(moved == contents(&migration.source, &migration.key, "u0_vbd_0_x_xvda"));
    migration.destroy_source();
}

/// A machine that is halted: nothing has the disk active, and dom0's datapath is the cut-over.
#[test]
fn the_disk_of_a_halted_machine_moves() {
    let hosts = hosts();
    let migration = Migration::prepare(&hosts, HALTED);
    let operation = migration.until_complete(HALTED);
    migration.source.steps(&["deactivate", "detach"], &migration.key, migration.datapath);
    assert_eq!(migration.stat(&operation), complete(), "a key stays answerable");
    // VDI.deactivate is never called at the destination: its activation makes way for the machine.
    let moved = contents(&migration.destination, &migration.leaf, "9");
    assert!(moved == contents(&migration.source, &migration.key, "u0_vbd_0_x_xvda"));
    migration.destroy_source();
    assert_eq!(migration.stat(&operation)["failed"], true, "it goes with its volume");
}

/// A mirror that breaks after xapi was told that it is complete: the next deactivation says so, once, and has
/// deactivated all the same.
#[test]
fn a_mirror_that_breaks_when_it_was_complete_keeps_the_source() {
    for broken in ["connection", "server", "tapdisk"] {
        let hosts = hosts();
        let migration = Migration::prepare(&hosts, GUEST);
        let operation = migration.until_complete(GUEST);
        migration.source.steps(&["deactivate", "detach"], &migration.key, migration.datapath);
        match broken {
            "connection" => migration.proxy.cut(),
            // Its keeper starts another one, which goes on with the machine and not with the mirror.
            "server" => pids(&hosts[0]).iter().for_each(|it| server(it).kill().unwrap()),
            _ => {
                kill_tapdisk(&migration.source);
                migration.source.steps(&["attach"], &migration.key, GUEST);
            }
        }
        let failure = migration.source_step("deactivate", GUEST).unwrap_err();
        assert_eq!(failure.code, "SR_BACKEND_FAILURE_453");
        assert!(failure.params[1].contains("keep it"), "{failure}");
        assert_eq!(migration.stat(&operation)["failed"], true);
        migration.source.steps(&["deactivate", "detach"], &migration.key, GUEST);
        assert_eq!(contents(&migration.source, &migration.key, "7")[..4], [1; 4]);
        migration.destroy_source();
    }
}

/// The same, noticed when the mirror's datapath goes: then the machine's deactivation owes nothing more.
#[test]
fn a_broken_mirror_is_told_once() {
    for domain in [GUEST, HALTED] {
        let hosts = hosts();
        let migration = Migration::prepare(&hosts, domain);
        migration.until_complete(domain);
        migration.proxy.cut();
        let failure = migration.source_step("deactivate", migration.datapath).unwrap_err();
        assert!(failure.params[1].contains("incomplete"), "{failure}");
        migration.source.steps(&["deactivate", "detach"], &migration.key, migration.datapath);
        if domain == GUEST {
            migration.source.steps(&["deactivate", "detach"], &migration.key, GUEST);
        }
        migration.destroy_source();
    }
}

/// A detach never fails, and hides nothing: the mirror breaks between the two calls about its datapath.
#[test]
fn a_detach_does_not_hide_that_a_mirror_is_broken() {
    let hosts = hosts();
    let migration = Migration::prepare(&hosts, GUEST);
    migration.until_complete(GUEST);
    migration.source.steps(&["deactivate"], &migration.key, migration.datapath);
    migration.proxy.cut();
    migration.source.steps(&["detach"], &migration.key, migration.datapath);
    let failure = migration.source_step("deactivate", GUEST).unwrap_err();
    assert!(failure.params[1].contains("keep it"), "{failure}");
    migration.source.steps(&["detach"], &migration.key, GUEST);
    migration.destroy_source();
}

/// Before it was complete nothing is owed: xapi knows that it has failed, or gives up itself.
#[test]
fn a_mirror_that_never_was_complete_owes_nothing() {
    let hosts = hosts();
    let migration = Migration::prepare(&hosts, GUEST);
    let mut remote = migration.proxy.uri(&migration.leaf);
    remote.push_str("-that-is-not-there");
    let uri =
        migration.source.xapi.stat(&migration.source.sr, &migration.key).unwrap()["uri"][0].clone();
    let params = json!({ "uri": uri, "domain": GUEST, "remote": remote });
    let mut bad = params.clone();
    bad["remote"] = json!("http://host/");
    let failure = migration.source.xapi.datapath("Data.mirror", bad).unwrap_err();
    let is_told =
        failure.params[1].contains("\"http://host/\" is no NBD server on a socket: expected");
    assert!(is_told && failure.code == "SR_BACKEND_FAILURE_1", "{failure}");
    let operation = migration.source.xapi.datapath("Data.mirror", params.clone()).unwrap();
    // It is tried for some seconds, and each call waits for one of them, so that xapi does not spin.
    let begun = Instant::now();
    assert_eq!(migration.stat(&operation)["failed"], false);
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    // A second one beside it is refused, until it has failed.
    let failure = migration.mirror(GUEST).unwrap_err();
    assert_eq!(failure.code, "SR_BACKEND_FAILURE_24");
    assert_eq!(migration.wait(&operation)["failed"], true);
    assert_eq!(migration.stat(&operation)["failed"], true);
    migration.until_complete(GUEST);
    migration.source.steps(&["deactivate", "detach"], &migration.key, migration.datapath);
    migration.source.steps(&["deactivate", "detach"], &migration.key, GUEST);
    let moved = migration.receive();
    assert!(moved == contents(&migration.source, &migration.key, "7"));
    migration.destroy_source();
}

/// A machine that xapi took for halted runs all the same: what it writes is not followed by a mirror of a disk
/// at rest, and the source is kept.
#[test]
fn a_writer_beside_the_mirror_of_a_halted_machine_keeps_the_source() {
    let hosts = hosts();
    let migration = Migration::prepare(&hosts, HALTED);
    let operation = migration.until_complete(HALTED);
    migration.source.steps(&["attach", "activate"], &migration.key, GUEST);
    // At once, not only when the copy would be cut over.
    assert_eq!(migration.stat(&operation)["failed"], true);
    let failure = migration.source_step("deactivate", migration.datapath).unwrap_err();
    assert!(failure.params[1].contains("for writing"), "{failure}");
    migration.source.steps(&["detach"], &migration.key, migration.datapath);
    migration.source.steps(&["deactivate", "detach"], &migration.key, GUEST);
    migration.destroy_source();
}

/// The same in the other order: the disk is active for writing when the mirror begins.
#[test]
fn a_mirror_of_a_halted_machine_that_runs_is_no_cut_over() {
    let hosts = hosts();
    let migration = Migration::prepare(&hosts, HALTED);
    migration.source.steps(&["attach", "activate"], &migration.key, GUEST);
    let guest = Guest::start(&migration);
    migration.until_complete(HALTED);
    let failure = migration.source_step("deactivate", migration.datapath).unwrap_err();
    assert!(failure.params[1].contains("for writing"), "{failure}");
    thread::sleep(Duration::from_millis(200));
    assert_ne!(guest.stop(), 0);
    migration.source.steps(&["detach"], &migration.key, migration.datapath);
    migration.source.steps(&["deactivate", "detach"], &migration.key, GUEST);
    migration.destroy_source();
}

/// What xapi does when a migration is aborted: it snapshots the disk that is being mirrored, and destroys the
/// destination. The machine goes on, and is shut down some time later.
#[test]
fn an_aborted_migration_leaves_a_disk_that_works() {
    let hosts = hosts();
    let migration = Migration::prepare(&hosts, GUEST);
    let operation = migration.until_complete(GUEST);
    migration.source.steps(&["deactivate", "detach"], &migration.key, migration.datapath);
    // stop_internal, and receive_cancel2.
    assert_eq!(migration.stat(&operation), complete());
    let snapshot = migration.source.snapshot(&migration.key);
    migration.source.volume("destroy", &snapshot, json!({})).unwrap();
    migration.destination.steps(&["deactivate", "detach"], &migration.leaf, MIRROR);
    migration.destination.volume("destroy", &migration.leaf, json!({})).unwrap();
    let guest = Guest::start(&migration);
    thread::sleep(Duration::from_millis(200));
    assert_ne!(guest.stop(), 0);
    // xapi was told that it is complete, so that it hears that it is not any more; then no more of it.
    migration.source_step("deactivate", GUEST).unwrap_err();
    migration.source.steps(&["deactivate", "detach"], &migration.key, GUEST);
    migration.source.steps(&["attach", "activate", "deactivate", "detach"], &migration.key, "6");
    migration.destroy_source();
}

/// A later xapi copies snapshots by mirrors: from a disk that is active for reading, into a clone of something
/// similar, of which it takes a snapshot while it is active (`feature/sxm-v3`).
#[test]
fn a_snapshot_is_mirrored_into_a_clone() {
    let hosts = hosts();
    let mut migration = Migration::prepare(&hosts, GUEST);
    migration.source.steps(&["deactivate", "detach"], &migration.key, GUEST);
    migration.source.steps(&["detach"], &migration.key, migration.datapath);
    migration.destination.steps(&["deactivate", "detach"], &migration.leaf, MIRROR);
    let snapshot = migration.source.snapshot(&migration.key);
    let base = migration.destination.create(SIZE);
    let disk = hosts[1].plug(&migration.destination.sr, &base, "u0_vbd_0_x_xvda");
    let mut client = disk.connect();
    for at in (0..SIZE).step_by(1 << 20) {
        client.write(at + 200_000, &[0xee; 200_000]).unwrap();
    }
    drop(client);
    disk.unplug();
    let clone = migration.destination.volume("clone", &base, json!({})).unwrap();
    migration.leaf = clone["key"].as_str().unwrap().to_owned();
    let head = migration.leaf.clone();
    let attached = migration.destination.datapath("attach", &head, "CP0a1b2c-dst").unwrap();
    migration.destination.steps(&["activate"], &head, "CP0a1b2c-dst");
    let socket = migration.source.xapi.root().join("export2");
    let to = PathBuf::from(migration.destination.socket(&attached));
    migration.proxy = Proxy::start(socket, &to);
    migration.source.steps(&["attach", "activate_readonly"], &snapshot, "CP0a1b2c");
    migration.key = snapshot;
    let uri = hosts[0].stat(&migration.source.sr, &migration.key).unwrap()["uri"][0].clone();
    let remote = migration.proxy.uri(&head);
    let params = json!({ "uri": uri, "domain": "CP0a1b2c", "remote": remote });
    let operation = hosts[0].datapath("Data.mirror", params).unwrap();
    assert_eq!(migration.wait(&operation), complete());
    migration.source.steps(&["deactivate", "detach"], &migration.key, "CP0a1b2c");
    let copied = migration.destination.snapshot(&head);
    migration.destination.steps(&["deactivate", "detach"], &head, "CP0a1b2c-dst");
    migration.destination.volume("destroy", &head, json!({})).unwrap();
    let expected = contents(&migration.source, &migration.key, "u0_vbd_0_x_xvda");
    assert!(contents(&migration.destination, &copied, "u0_vbd_0_x_xvda") == expected);
    assert_sound(&hosts[1], &migration.destination.sr);
}

/// Data.ls, cancel and destroy, which no released xapi calls.
#[test]
fn operations_are_listed_cancelled_and_destroyed() {
    let hosts = hosts();
    let migration = Migration::prepare(&hosts, GUEST);
    let xapi = migration.source.xapi;
    assert_eq!(xapi.datapath("Data.ls", json!({})).unwrap(), json!([]));
    let operation = migration.until_complete(GUEST);
    assert_eq!(xapi.datapath("Data.ls", json!({})).unwrap(), json!([operation]));
    let of = json!({ "operation": operation });
    let failure = xapi.datapath("Data.destroy", of.clone()).unwrap_err();
    assert!(failure.params[1].contains("cancel it first"), "{failure}");
    xapi.datapath("Data.cancel", of.clone()).unwrap();
    assert_eq!(migration.stat(&operation)["failed"], true);
    xapi.datapath("Data.cancel", of.clone()).unwrap();
    xapi.datapath("Data.destroy", of.clone()).unwrap();
    xapi.datapath("Data.destroy", of).unwrap();
    assert_eq!(xapi.datapath("Data.ls", json!({})).unwrap(), json!([]));
    migration.source.steps(&["deactivate", "detach"], &migration.key, GUEST);
    migration.source.steps(&["detach"], &migration.key, migration.datapath);
    migration.destroy_source();
    for text in ["x", "a/b", "a/b/c/d", "../x/y"] {
        let operation = json!(["MirrorV1", text]);
        let failure = xapi.datapath("Data.stat", json!({ "operation": operation })).unwrap_err();
        assert!(failure.params[1].contains(text), "{failure}");
    }
}

/// The tapdisks of a host.
pub(super) fn pids(xapi: &Xapi) -> Vec<tapctl::Identity> {
    let pids = xapi.control_dir().tapdisks().unwrap();
    pids.into_iter().filter_map(|pid| tapctl::Identity::of(pid).unwrap()).collect()
}

pub(super) fn kill_tapdisk(calls: &Calls<'_>) {
    for tapdisk in pids(calls.xapi) {
        tapdisk.kill().unwrap();
        assert!(tapdisk.wait(Duration::from_secs(10)).unwrap());
    }
}
