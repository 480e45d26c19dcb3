//! Snapshots of a disk that is being written to.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use end_to_end::{Disk, Xapi, signal_all, tools};
use nbd::wire::command;
use rustix::process::Signal;
use serde_json::json;

use crate::MIB;
use crate::maintenance::{assert_sound, maintain};

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 1500;
const SNAPSHOTS: usize = 200;

/// A writer puts increasing numbers into one block after another, each write acknowledged before
/// the next begins. Whatever moment a snapshot keeps, it can be told from the numbers whether it was
/// one: with `last` the largest, every block holds the largest number up to `last` that fell to it.
#[test]
fn snapshots_of_a_busy_disk_are_moments_of_it() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("3GiB");
    let key = xapi.create_vdi(&sr, 8 * MIB);
    let disk = xapi.plug(&sr, &key, "5");
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = disk.connect();
            let mut number = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                let block = number % BLOCKS;
                client.write(block * BLOCK, &number.to_ne_bytes().repeat(512)).unwrap();
                written.store(number, Ordering::Release);
            }
        });
        let mut snapshots = Vec::new();
        for _ in 0..SNAPSHOTS {
            let before = written.load(Ordering::Acquire);
            let made = xapi.volume("Volume.snapshot", json!({ "sr": sr, "key": key })).unwrap();
            assert_eq!(made["read_write"], false);
            assert_eq!(made["virtual_size"], 8 * MIB);
            snapshots.push((before, made["key"].as_str().unwrap().to_owned()));
        }
        for (number, (before, snapshot)) in snapshots.iter().enumerate() {
            let last = check_moment(&xapi, &sr, snapshot);
            assert!(last >= *before, "snapshot {number} has {last}, {before} was acknowledged");
        }
        // In an order that looks random.
        while !snapshots.is_empty() {
            let (_, snapshot) =
                snapshots.swap_remove(snapshots.len() * 7919 % 1009 % snapshots.len());
            xapi.volume("Volume.destroy", json!({ "sr": sr, "key": snapshot })).unwrap();
            if snapshots.len() % 50 == 25 {
                check_moment(&xapi, &sr, &snapshots[0].1);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    disk.unplug();
    assert_eq!(check_moment(&xapi, &sr, &key), written.load(Ordering::Acquire));
    maintain(&xapi, &["gc", "--sr", &sr]).success();
    assert_eq!(
        xapi.data_in_use(&sr),
        BLOCKS * BLOCK,
        "no memory stays with snapshots that are gone"
    );
    assert_sound(&xapi, &sr);
}

/// A write of 32 MiB takes several passes of the tapdisk's loop. A snapshot between two of them has all of it,
/// as has the disk that a client leaves in the middle of one. With several clients one is nearly always between two.
#[test]
fn no_snapshot_has_half_of_a_large_write() {
    const BYTES: u64 = 32 << 20;
    const CLIENTS: u64 = 3;
    let xapi = Xapi::new();
    let sr = xapi.create_sr("1GiB");
    let key = xapi.create_vdi(&sr, CLIENTS * BYTES);
    let disk = xapi.plug(&sr, &key, "5");
    let (stop, written) = (&AtomicBool::new(false), &AtomicU64::new(0));
    let offsets = (0..CLIENTS).map(|client| client * BYTES);
    let snapshots: Vec<String> = thread::scope(|scope| {
        for offset in offsets.clone() {
            let mut client = disk.connect();
            scope.spawn(move || {
                // One is on its way while the one before it is written. The last one is not waited for.
                let payloads = [1, 2].map(|byte| vec![byte; BYTES as usize]);
                let mut before = None;
                for payload in payloads.iter().cycle() {
                    let next = client.submit(0, command::WRITE, offset, BYTES as u32, payload);
                    if let Some(cookie) = before.replace(next.unwrap()) {
                        client.finish(cookie).unwrap();
                        written.fetch_add(1, Ordering::Release);
                    }
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        let made = (0..6).map(|_| {
            let before = written.load(Ordering::Acquire);
            while written.load(Ordering::Acquire) < before + CLIENTS {
                thread::sleep(Duration::from_millis(1));
            }
            let made = xapi.volume("Volume.snapshot", json!({ "sr": sr, "key": key })).unwrap();
            made["key"].as_str().unwrap().to_owned()
        });
        let made = made.collect();
        stop.store(true, Ordering::Relaxed);
        made
    });
    disk.unplug();
    for key in snapshots.iter().chain([&key]) {
        let disk = Disk::plug(&xapi, &sr, key, "backup", true).unwrap();
        for offset in offsets.clone() {
            let bytes = disk.connect().read(offset, BYTES as u32).unwrap();
            let differs = bytes.iter().position(|&byte| byte != bytes[0]);
            assert_eq!(differs, None, "at {offset} {key} has {} before", bytes[0]);
        }
        disk.unplug();
    }
}

/// Reads a volume through a tapdisk of its own; the largest number in it.
fn check_moment(xapi: &Xapi, sr: &str, key: &str) -> u64 {
    let disk = Disk::plug(xapi, sr, key, "backup", true).unwrap();
    let mut client = disk.connect();
    let bytes = client.read(0, u32::try_from(BLOCKS * BLOCK).unwrap()).unwrap();
    let numbers: Vec<u64> = bytes
        .chunks(4096)
        .map(|block| {
            let number = u64::from_ne_bytes(block[..8].try_into().unwrap());
            assert!(block.chunks(8).all(|it| it == &block[..8]), "a torn block: {number}");
            number
        })
        .collect();
    let last = numbers.iter().copied().max().unwrap();
    for (block, &number) in (0_u64..).zip(&numbers) {
        let wanted = (last + BLOCKS - block) / BLOCKS;
        let wanted = (wanted * BLOCKS + block).saturating_sub(BLOCKS);
        assert_eq!(number, wanted, "block {block} of {key}, whose last number is {last}");
    }
    disk.unplug();
    last
}

/// The backup cycle: snapshot, read it, delete it, go on writing. No memory stays.
#[test]
fn a_backup_cycle_costs_no_memory_that_stays() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let key = xapi.create_vdi(&sr, 8 * MIB);
    let disk = xapi.plug(&sr, &key, "5");
    let mut client = disk.connect();
    client.write(0, &vec![1; 8 << 20]).unwrap();
    for round in 2..6_u8 {
        let made = xapi.volume("Volume.snapshot", json!({ "sr": sr, "key": key })).unwrap();
        client.write(0, &vec![round; 1 << 20]).unwrap();
        xapi.volume("Volume.destroy", json!({ "sr": sr, "key": made["key"] })).unwrap();
        assert_eq!(xapi.data_in_use(&sr), 8 * MIB, "round {round}: the snapshot's blocks are free");
        client.write(0, &vec![round; 8 << 20]).unwrap();
        assert_eq!(
            xapi.data_in_use(&sr),
            8 * MIB,
            "round {round}: a rewritten disk is as large as it was"
        );
    }
    disk.unplug();
}

/// A clone of an active disk, a revert, changed blocks: through the plugins.
#[test]
fn clones_reverts_and_changed_blocks() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let key = xapi.create_vdi(&sr, MIB);
    let at = |method: &str, more: serde_json::Value| {
        let mut params = json!({ "sr": sr, "key": key });
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        xapi.volume(method, params)
    };
    let disk = xapi.plug(&sr, &key, "5");
    let mut client = disk.connect();
    client.write(0, &[1; 4096]).unwrap();
    at("Volume.enable_cbt", json!({})).unwrap();
    let first = at("Volume.snapshot", json!({})).unwrap()["key"].clone();
    client.write(200 << 10, &[2; 4096]).unwrap();
    let clone = at("Volume.clone", json!({})).unwrap();
    assert_eq!(clone["read_write"], true);
    let id = &clone["keys"]["content_id"];
    assert_eq!(clone["keys"], json!({ "content_id": id }), "keys are not copied");
    let second = at("Volume.snapshot", json!({})).unwrap();
    assert_eq!(second["cbt_enabled"], true);
    let changed = json!({
        "sr": sr, "key": first, "key2": second["key"], "offset": 0, "length": -1,
    });
    let changed = xapi.volume("Volume.list_changed_blocks", changed).unwrap();
    assert_eq!(changed["granularity"], 65536);
    assert_eq!(changed["bitmap"], "EAAAAA==", "the fourth of sixteen, padded to 32 bits");
    let reverted = at("Volume.revert", json!({ "snapshot": first })).unwrap_err();
    assert_eq!(reverted.code, "SR_BACKEND_FAILURE_24", "not while it is active: {reverted}");
    drop(client);
    disk.unplug();
    at("Volume.revert", json!({ "snapshot": first })).unwrap();
    let read = |key: &str| {
        let disk = Disk::plug(&xapi, &sr, key, "5", true).unwrap();
        let mut client = disk.connect();
        let got = [client.read(0, 1).unwrap()[0], client.read(200 << 10, 1).unwrap()[0]];
        disk.unplug();
        got
    };
    assert_eq!(read(&key), [1, 0]);
    assert_eq!(read(clone["key"].as_str().unwrap()), [1, 2]);
    xapi.volume("Volume.data_destroy", json!({ "sr": sr, "key": first })).unwrap();
    let stat = xapi.stat(&sr, first.as_str().unwrap()).unwrap();
    assert_eq!(stat["volume_type"], "CBT_Metadata");
    let refused = Disk::plug(&xapi, &sr, first.as_str().unwrap(), "5", true).unwrap_err();
    assert!(refused.params[1].contains("destroyed"), "{refused}");
    assert_sound(&xapi, &sr);
}

/// A tapdisk that is stopped in the middle of everything: the snapshot is an error within its
/// deadline, the rest of the SR goes on, and when the process goes on, nothing is lost.
#[test]
fn a_stopped_tapdisk_makes_an_error_and_loses_nothing() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let key = xapi.create_vdi(&sr, MIB);
    let snapshot = || xapi.volume("Volume.snapshot", json!({ "sr": sr, "key": key }));
    let disk = xapi.plug(&sr, &key, "5");
    let mut client = disk.connect();
    client.write(0, &[1; 8192]).unwrap();
    let first = snapshot().unwrap()["key"].as_str().unwrap().to_owned();
    client.write(4096, &[2; 4096]).unwrap();

    signal_all(&disk.tapdisk(), Signal::STOP);
    let start = Instant::now();
    let refused = snapshot().unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(25), "a deadline holds");
    assert_eq!(refused.code, "SR_BACKEND_FAILURE_453", "{refused}");
    let pid = disk.tapdisk().pid.to_string();
    assert!(refused.params[1].contains(&pid), "it names the process: {refused}");
    // The SR is not stuck with it.
    let other = xapi.create_vdi(&sr, MIB);
    xapi.volume("Volume.snapshot", json!({ "sr": sr, "key": other })).unwrap();
    maintain(&xapi, &["gc", "--sr", &sr]).success();

    signal_all(&disk.tapdisk(), Signal::CONT);
    client.write(0, &[3; 4096]).unwrap();
    let second = snapshot().unwrap()["key"].as_str().unwrap().to_owned();
    client.write(0, &[4; 8192]).unwrap();
    let read = |key: &str| {
        let disk = Disk::plug(&xapi, &sr, key, "backup", true).unwrap();
        let mut client = disk.connect();
        let got = [client.read(0, 1).unwrap()[0], client.read(4096, 1).unwrap()[0]];
        disk.unplug();
        got
    };
    assert_eq!(read(&first), [1, 1]);
    assert_eq!(read(&second), [3, 2], "every acknowledged write, and none that came later");
    // Killed instead of stopped: the volume is as its last writer left it.
    disk.kill_tapdisk();
    let third = snapshot().unwrap()["key"].as_str().unwrap().to_owned();
    assert_eq!(read(&third), [4, 4]);
    disk.unplug();
    assert_sound(&xapi, &sr);
}

/// fio writes and verifies, while the tree around its disk changes all the time.
#[test]
fn fio_notices_nothing_of_snapshots_clones_and_their_end() {
    if !tools::present(&["fio"]) {
        return;
    }
    let xapi = Xapi::new();
    let sr = xapi.create_sr("1GiB");
    let key = xapi.create_vdi(&sr, 64 * MIB);
    let disk = xapi.plug(&sr, &key, "5");
    let uri = format!("--uri={}", disk.nbd());
    let (done, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let at = |key: &serde_json::Value| json!({ "sr": sr, "key": key });
            while !done.load(Ordering::Acquire) {
                let snapshot = xapi.volume("Volume.snapshot", at(&json!(key))).unwrap();
                let clone = xapi.volume("Volume.clone", at(&json!(key))).unwrap();
                let other = xapi.volume("Volume.clone", at(&snapshot["key"])).unwrap();
                let compare = json!({ "sr": sr, "key": clone["key"], "key2": snapshot["key"] });
                xapi.volume("Volume.compare", compare).unwrap();
                for volume in [&snapshot, &clone, &other] {
                    xapi.volume("Volume.destroy", at(&volume["key"])).unwrap();
                }
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        let fio = tools::attempt(
            "fio",
            &[
                "--name=busy",
                "--ioengine=nbd",
                &uri,
                "--rw=randwrite",
                "--bs=4k",
                "--iodepth=32",
                "--size=64M",
                "--loops=4",
                "--verify=crc32c",
                "--verify_fatal=1",
                "--verify_state_save=0",
                "--minimal",
            ],
        );
        done.store(true, Ordering::Release);
        assert!(fio.status.success(), "{}", String::from_utf8_lossy(&fio.stderr));
    });
    assert!(rounds.load(Ordering::Relaxed) > 3, "there was something to notice");
    disk.unplug();
    maintain(&xapi, &["gc", "--sr", &sr]).success();
    assert_eq!(xapi.data_in_use(&sr), 64 * MIB, "nothing of the others is left");
    assert_sound(&xapi, &sr);
}
