//! What authors of plugins get wrong about mirrors, where no whole migration shows it.

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use end_to_end::{Xapi, server, tools};
use nbd::client::{Client, Wish};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{
    Calls,
    outgoing::{
        GUEST, Guest, MIRROR, Migration, SIZE, complete, contents, hosts, kill_tapdisk, pids, stat,
    },
    proxy::Proxy,
};
use crate::{MIB, maintenance::assert_sound};

const COPY: &str = "CP0a1b2c";

/// Another connection for another try.
fn listen_again(migration: &mut Migration<'_>, hosts: &[Xapi; 2], name: &str) {
    let attached = migration.destination.datapath("attach", &migration.leaf, MIRROR).unwrap();
    let to = PathBuf::from(migration.destination.socket(&attached));
    migration.proxy = Proxy::start(hosts[0].root().join(name), &to);
}

/// xapi calls Data.mirror beside the thread that makes the socket, and polls only after it has returned: it waits
/// neither for the socket nor for the copy.
#[test]
fn a_mirror_begins_before_its_socket_is_there() {
    let hosts = hosts();
    let mut migration = Migration::prepare(&hosts, GUEST);
    let socket = hosts[0].root().join("later");
    let remote = format!("nbd+unix:///{}?socket={}", migration.leaf, socket.display());
    let uri = hosts[0].stat(&migration.source.sr, &migration.key).unwrap()["uri"][0].clone();
    let params = json!({ "uri": uri, "domain": GUEST, "remote": remote });
    let begun = Instant::now();
    let operation = hosts[0].datapath("Data.mirror", params).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    thread::sleep(Duration::from_millis(500));
    assert_eq!(migration.stat(&operation)["failed"], false);
    listen_again(&mut migration, &hosts, "later");
    assert_eq!(migration.wait(&operation), complete());
    migration.source.steps(&["deactivate", "detach"], &migration.key, GUEST);
    assert!(migration.receive() == contents(&migration.source, &migration.key, "7"));
    migration.source.steps(&["detach"], &migration.key, migration.datapath);
    migration.destroy_source();
}

/// The key of a mirror whose process has died says failed, and never complete; so does one that was never given.
/// xapi, started anew, begins a second mirror of the volume, which replaces the dead one.
#[test]
fn a_dead_mirror_has_failed_and_a_second_one_replaces_it() {
    let hosts = hosts();
    let mut migration = Migration::prepare(&hosts, GUEST);
    for number in 0..3 {
        let operation = migration.until_complete(GUEST);
        match number {
            0 => kill_tapdisk(&migration.source),
            1 => pids(&hosts[0]).iter().for_each(|it| server(it).kill().unwrap()),
            _ => break,
        }
        assert_eq!(migration.stat(&operation)["failed"], true);
        let unknown = operation[1].as_str().unwrap().rsplit_once('/').unwrap().0.to_owned();
        let unknown = json!(["MirrorV1", format!("{unknown}/0123456789abcdef")]);
        assert_eq!(stat(&hosts[0], &unknown)["failed"], true);
        listen_again(&mut migration, &hosts, &format!("again-{number}"));
    }
    migration.source.steps(&["deactivate"], &migration.key, migration.datapath);
    migration.source.steps(&["deactivate", "detach"], &migration.key, GUEST);
    assert!(migration.receive() == contents(&migration.source, &migration.key, "7"));
    migration.source.steps(&["detach"], &migration.key, migration.datapath);
    migration.destroy_source();
}

/// Data.stat waits for a second, and no longer than the mirror takes: it returns at once when that is complete,
/// has failed, or is cut over, and the calls that do this do not wait for it.
#[test]
fn a_status_waits_no_longer_than_there_is_something_to_wait_for() {
    for ended_by in ["complete", "failed", "cut-over", "detach"] {
        let hosts = hosts();
        let migration = Migration::prepare(&hosts, GUEST);
        // The destination stands still, so that the mirror goes on copying.
        let stopped = server(&pids(&hosts[1])[0]);
        stopped.signal(Signal::STOP).unwrap();
        let operation = mirror(&migration);
        let asked = operation.clone();
        let begun = Instant::now();
        thread::scope(|scope| {
            let asking = scope.spawn(|| (stat(&hosts[0], &asked), begun.elapsed()));
            thread::sleep(Duration::from_millis(300));
            match ended_by {
                "complete" => stopped.signal(Signal::CONT).unwrap(),
                "failed" => migration.proxy.cut(),
                "cut-over" => migration.source.steps(&["deactivate"], &migration.key, GUEST),
                _ => migration.source.steps(&["detach"], &migration.key, GUEST),
            }
            let (status, took) = asking.join().unwrap();
            assert_eq!(status["complete"] == true, ended_by == "complete", "{ended_by}: {status}");
            assert_eq!(status["failed"] == true, ended_by != "complete", "{ended_by}: {status}");
            let waited = Duration::from_millis(280)..Duration::from_millis(900);
            assert!(waited.contains(&took), "{ended_by}: {took:?}");
        });
        stopped.signal(Signal::CONT).unwrap();
        migration.source.steps(&["deactivate", "detach"], &migration.key, GUEST);
        migration.source.steps(&["deactivate", "detach"], &migration.key, migration.datapath);
        migration.destroy_source();
    }
}

/// Data.mirror alone: the destination may not answer.
fn mirror(migration: &Migration<'_>) -> Value {
    let xapi = migration.source.xapi;
    let uri = xapi.stat(&migration.source.sr, &migration.key).unwrap()["uri"][0].clone();
    let remote = migration.proxy.uri(&migration.leaf);
    let params = json!({ "uri": uri, "domain": GUEST, "remote": remote });
    xapi.datapath("Data.mirror", params).unwrap()
}

/// A destination that stands still: the guest goes on as before, whatever it writes, and the tapdisk's own memory
/// does not grow with it.
#[test]
fn a_destination_that_stands_still_costs_the_guest_nothing() {
    let hosts = hosts();
    let migration = Migration::prepare(&hosts, GUEST);
    let operation = migration.until_complete(GUEST);
    let stopped = server(&pids(&hosts[1])[0]);
    stopped.signal(Signal::STOP).unwrap();
    let source = server(&pids(&hosts[0])[0]);
    let mut client = guest(&migration);
    // Every block once, so that neither the disk nor the kernel's buffers take more from then on.
    let noise = tools::noise(7, 1 << 20);
    let mut slowest = Duration::ZERO;
    let mut memory_before = 0;
    for round in 0..9 {
        for at in (0..SIZE).step_by(1 << 20) {
            let begun = Instant::now();
            client.write(at, &noise).unwrap();
            slowest = slowest.max(begun.elapsed());
        }
        if round == 0 {
            memory_before = anonymous_bytes(source.pid);
        }
    }
    let grown = anonymous_bytes(source.pid).saturating_sub(memory_before);
    assert!(grown < MIB, "{grown} bytes for {} that were written", 8 * SIZE);
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert_eq!(migration.stat(&operation), complete(), "it waits for the destination");
    stopped.signal(Signal::CONT).unwrap();
    client.disconnect().unwrap();
    migration.source.steps(&["deactivate", "detach"], &migration.key, migration.datapath);
    migration.source.steps(&["deactivate", "detach"], &migration.key, GUEST);
    assert!(migration.receive() == contents(&migration.source, &migration.key, "7"));
    migration.destroy_source();
}

fn guest(migration: &Migration<'_>) -> Client {
    let attached = migration.source_step("attach", GUEST).unwrap();
    Client::connect(migration.source.socket(&attached), &Wish::default()).unwrap()
}

/// Memory that a process has for itself, without the files that it has mapped.
fn anonymous_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() << 10
}

/// From one SR to another one of the same host: all calls are of one plugin, and both tapdisks are in one
/// directory.
#[test]
fn a_disk_moves_between_two_srs_of_one_host() {
    let host = Xapi::new();
    let migration = Migration::between([&host, &host], GUEST);
    let guest = Guest::start(&migration);
    migration.until_complete(GUEST);
    migration.source.steps(&["deactivate", "detach"], &migration.key, migration.datapath);
    assert_ne!(guest.stop(), 0);
    migration.source.steps(&["deactivate"], &migration.key, GUEST);
    let moved = migration.receive();
    migration.source.steps(&["detach"], &migration.key, GUEST);
    assert!(moved == contents(&migration.source, &migration.key, "u0_vbd_0_x_xvda"));
    migration.destroy_source();
    assert!(contents(&migration.destination, &migration.leaf, "9") == moved);
}

/// The volume with the same contents, as `find_vdi` of `storage_smapiv1_migrate.ml` looks for one: the first of
/// the SR whose `content_id` is that one.
fn base(calls: &Calls<'_>, content: &Value) -> Option<String> {
    let volumes = calls.xapi.volume("SR.ls", json!({ "sr": calls.sr })).unwrap();
    let found = volumes.as_array().unwrap().iter().find(|it| {
        let id = it["keys"].get("content_id").cloned().unwrap_or_else(|| json!(""));
        id == *content
    });
    found.map(|it| it["key"].as_str().unwrap().to_owned())
}

/// DATA.copy of a snapshot: no volume of the destination's SR is taken for its base, least of all one that a
/// machine writes to, until one has its contents; the result is a snapshot of what was copied.
#[test]
fn a_snapshot_is_copied_and_no_other_volume_is_taken_for_its_base() {
    if !tools::present(&["nbdcopy"]) {
        return;
    }
    let hosts = hosts();
    let migration = Migration::prepare(&hosts, GUEST);
    let (source, destination) = (&migration.source, &migration.destination);
    destination.steps(&["deactivate", "detach"], &migration.leaf, MIRROR);
    let machine = destination.create(SIZE);
    let used = hosts[1].plug(&destination.sr, &machine, "3");
    let guest = Guest::start(&migration);
    let snapshot = source.snapshot(&migration.key);
    let content = hosts[0].stat(&source.sr, &snapshot).unwrap()["keys"]["content_id"].clone();
    assert_ne!(content, json!(""));
    assert_eq!(base(destination, &content), None);
    let copied = copy_into_sr(source, destination, &snapshot, &content);
    assert_eq!(base(destination, &content), Some(copied.clone()), "the next one finds it");
    let expected = contents(source, &snapshot, "u0_vbd_0_x_xvda");
    assert!(contents(destination, &copied, "u0_vbd_0_x_xvda") == expected);
    used.unplug();
    assert_ne!(guest.stop(), 0);
    source.steps(&["detach"], &migration.key, migration.datapath);
    source.steps(&["deactivate", "detach"], &migration.key, GUEST);
    migration.destroy_source();
    for key in [copied, machine] {
        destination.volume("destroy", &key, json!({})).unwrap();
    }
    assert_sound(&hosts[1], &destination.sr);
}

/// `Copy.copy_into_sr`; the key of the copy.
fn copy_into_sr(source: &Calls<'_>, destination: &Calls<'_>, key: &str, content: &Value) -> String {
    let copy = destination.create(SIZE);
    let to = destination.datapath("attach", &copy, COPY).unwrap();
    destination.steps(&["activate"], &copy, COPY);
    let from = source.datapath("attach", key, COPY).unwrap();
    source.steps(&["activate_readonly"], key, COPY);
    // sparse_dd, which reads and writes as it does.
    let uri = |calls: &Calls<'_>, key: &str, attached: &Value| {
        format!("nbd+unix:///{key}?socket={}", calls.socket(attached))
    };
    tools::run("nbdcopy", &[&uri(source, key, &from), &uri(destination, &copy, &to)]);
    source.steps(&["deactivate", "detach"], key, COPY);
    destination.steps(&["deactivate", "detach"], &copy, COPY);
    let set = json!({ "k": "content_id", "v": content });
    destination.volume("set", &copy, set.clone()).unwrap();
    let snapshot = destination.snapshot(&copy);
    destination.volume("set", &snapshot, set).unwrap();
    destination.volume("destroy", &copy, json!({})).unwrap();
    snapshot
}
