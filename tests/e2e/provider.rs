//! `device-config:tapdisk=blktap`: disks that the host's own tapdisk serves from copies.
//!
//! Its part is played by tapdisk-ram under the name of `tapdisk`, which for a plain file does what
//! blktap's `ram:` driver does: it loads it and never writes it back. Where `XAPI_RAM_BLKTAP` names
//! a real one, each test is done with that too.

mod stock;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::Duration,
};

use end_to_end::{Disk, Failure, Side, Xapi};
use nbd::client::{Client, Wish};
use serde_json::{Value, json};

use self::stock::{BLKTAP, Stock, with_each};
use crate::MIB;
use crate::maintenance::{assert_sound, maintain};

const BLOCK: u64 = 4096;

/// A client that asks no more than the stock server knows.
fn connect(disk: &Disk<'_>) -> Client {
    let wish = Wish { structured: false, allocation: false, ..Wish::default() };
    Client::connect(&disk.socket, &wish).unwrap()
}

/// Writes a text into a sector: the stock server takes nothing less.
fn put(disk: &Disk<'_>, at: u64, text: &str) {
    let mut sector = text.as_bytes().to_vec();
    sector.resize(512, 0);
    connect(disk).write(at, &sector).unwrap();
}

/// The text in a sector.
fn get(disk: &Disk<'_>, at: u64) -> String {
    let sector = String::from_utf8(connect(disk).read(at, 512).unwrap()).unwrap();
    sector.trim_end_matches('\0').to_owned()
}

fn plug<'a>(stock: &'a Stock, sr: &str, key: &str, domain: &str) -> Disk<'a> {
    Disk::attach_and_activate(&stock.xapi, sr, key, domain, false).unwrap()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Failure>, number: u16, says: &[&str]) {
    let failure = result.unwrap_err();
    assert_eq!(failure.code, format!("SR_BACKEND_FAILURE_{number}"), "{failure}");
    for part in says {
        assert!(failure.params[1].contains(part), "{part:?} is not in {failure}");
    }
}

fn on(sr: &str, key: &str, more: &Value) -> Value {
    let mut params = json!({ "sr": sr, "key": key });
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    params
}

#[test]
fn what_is_written_survives_deactivate_and_activate_and_stays_thin() {
    with_each(|stock| {
        let sr = stock.sr("64MiB");
        let key = stock.xapi.create_vdi(&sr, 8 * MIB + BLOCK);
        let disk = stock.xapi.plug(&sr, &key, "5");
        assert_eq!(stock.images(&sr), [] as [PathBuf; 0], "an image is gone once it is loaded");
        let mut client = connect(&disk);
        assert_eq!(client.size(), 8 * MIB + BLOCK);
        assert_eq!(client.read(0, 1 << 20).unwrap(), vec![0; 1 << 20]);
        client.write(0, &[1; 4 * 4096]).unwrap();
        client.write(5 * MIB - 512, &[2; 1024]).unwrap();
        client.write(8 * MIB + BLOCK - 512, &[3; 512]).unwrap();
        client.write(MIB, &[0; 1 << 20]).unwrap();
        assert_eq!(stock.xapi.used(&sr), 0, "the store has none of it yet");
        drop(client);
        disk.unplug();
        assert_eq!(stock.xapi.used(&sr), 7 * BLOCK, "zeros take no memory");
        stock.assert_nothing_left(&sr);

        let disk = plug(stock, &sr, &key, "6");
        let mut client = connect(&disk);
        assert_eq!(client.read(0, 4 * 4096).unwrap(), [1; 4 * 4096]);
        let around = client.read(5 * MIB - 1024, 2048).unwrap();
        assert_eq!(around, [vec![0; 512], vec![2; 1024], vec![0; 512]].concat());
        assert_eq!(client.read(8 * MIB + BLOCK - 512, 512).unwrap(), [3; 512]);
        client.write(0, &[0; 2 * 4096]).unwrap();
        drop(client);
        disk.unplug();
        assert_eq!(stock.xapi.used(&sr), 5 * BLOCK, "what was zeroed is given back");
        stock.assert_nothing_left(&sr);
    });
}

#[test]
fn every_step_may_be_repeated() {
    with_each(|stock| {
        let sr = stock.sr("64MiB");
        let key = stock.xapi.create_vdi(&sr, MIB);
        let disk = stock.xapi.plug(&sr, &key, "5");
        put(&disk, 0, "once");
        let again = plug(stock, &sr, &key, "5");
        assert_eq!(disk.backend, again.backend, "what xapi remembers stays true");
        assert_eq!(disk.tapdisk(), again.tapdisk());
        assert_eq!(get(&again, 0), "once");
        for method in
            ["Datapath.deactivate", "Datapath.deactivate", "Datapath.detach", "Datapath.detach"]
        {
            disk.step(method).unwrap();
        }
        // A detach that finds it active takes back all the same.
        let disk = plug(stock, &sr, &key, "5");
        put(&disk, 512, "twice");
        disk.step("Datapath.detach").unwrap();
        let disk = plug(stock, &sr, &key, "5");
        assert_eq!((get(&disk, 0), get(&disk, 512)), ("once".into(), "twice".into()));
        disk.unplug();
        stock.xapi.volume("Volume.destroy", on(&sr, &key, &json!({}))).unwrap();
        stock.assert_nothing_left(&sr);
    });
}

/// Everything that the stock driver cannot do, and that would go unnoticed if it were let happen.
#[test]
fn each_limit_is_refused_with_its_error_and_lifted_by_deactivate() {
    with_each(|stock| {
        let sr = stock.sr("64MiB");
        let xapi = &stock.xapi;
        let key = xapi.create_vdi(&sr, MIB);
        let snapshot = xapi.volume("Volume.snapshot", on(&sr, &key, &json!({}))).unwrap();
        let clone = xapi.volume("Volume.clone", on(&sr, &key, &json!({}))).unwrap();
        let disk = xapi.plug(&sr, &key, "5");
        put(&disk, 0, "mine");
        let says = ["host's own tapdisk", key.as_str()];
        for read_only in [false, true] {
            let second = Disk::attach_and_activate(xapi, &sr, &key, "6", read_only);
            refused(second, 24, &[&says[..], &["\"5\"", "one domain"]].concat());
        }
        let calls = [
            ("Volume.snapshot", json!({})),
            ("Volume.clone", json!({})),
            ("Volume.resize", json!({ "new_size": 2 * MIB })),
            ("Volume.revert", json!({ "snapshot": snapshot["key"] })),
            ("Volume.compose", json!({ "key2": clone["key"] })),
            ("Volume.destroy", json!({})),
        ];
        let unplug = [&says[..], &["unplug"]].concat();
        for (method, more) in &calls {
            refused(xapi.volume(method, on(&sr, &key, more)), 24, &unplug);
        }
        let as_parent = json!({ "sr": sr, "key": clone["key"], "key2": key });
        refused(xapi.volume("Volume.compose", as_parent), 24, &unplug);
        refused(xapi.volume("SR.detach", json!({ "sr": sr })), 16, &[&key]);
        refused(xapi.volume("SR.destroy", json!({ "sr": sr })), 16, &[&key]);
        let told = xapi.volume("Plugin.diagnostics", json!({})).unwrap();
        let pid = disk.tapdisk().pid;
        assert!(told.as_str().unwrap().contains(&format!("active in process {pid}")), "{told}");
        assert_eq!(get(&disk, 0), "mine", "none of it has done anything");
        disk.step("Datapath.deactivate").unwrap();
        for (method, more) in calls {
            xapi.volume(method, on(&sr, &key, &more)).unwrap_or_else(|e| panic!("{method}: {e}"));
        }
        disk.step("Datapath.detach").unwrap();
        stock.assert_nothing_left(&sr);
    });
}

#[test]
fn a_disk_that_the_stock_driver_cannot_take_is_refused_where_it_is_made_and_where_it_is_used() {
    let stock = Stock::stand_in();
    let xapi = &stock.xapi;
    let limit = 500 * MIB;
    let says = ["524288000 bytes (500 MiB)", "tapdisk=blktap", "tapdisk=ram"];
    let mut configuration = xapi.create_sr_only("64MiB");
    assert_eq!(configuration["tapdisk"], "ram");
    let sr = xapi.attach_sr(&configuration);
    let large = xapi.create_vdi(&sr, limit + BLOCK);
    // Its PBD is made anew with another device-config.
    xapi.volume("SR.detach", json!({ "sr": sr })).unwrap();
    configuration["tapdisk"] = json!("blktap");
    assert_eq!(xapi.attach_sr(&configuration), sr);
    let size = (limit + BLOCK).to_string();
    let says_size = [&says[..], &[size.as_str()]].concat();
    let new = json!({
        "sr": sr, "name": "", "description": "", "size": limit + BLOCK, "sharable": false,
    });
    refused(xapi.volume("Volume.create", new), 79, &says_size);
    let key = xapi.create_vdi(&sr, MIB);
    let resize = json!({ "new_size": limit + BLOCK });
    refused(xapi.volume("Volume.resize", on(&sr, &key, &resize)), 79, &says_size);
    let uri = xapi.stat(&sr, &large).unwrap()["uri"][0].clone();
    for method in ["Datapath.attach", "Datapath.activate", "Datapath.activate_readonly"] {
        let place = json!({ "uri": uri, "domain": "5" });
        refused(xapi.datapath(method, place), 79, &says_size);
    }
    stock.assert_nothing_left(&sr);
}

/// blktap's driver has one buffer for each process, and a second image would share it.
#[test]
fn each_disk_has_a_process_of_its_own() {
    with_each(|stock| {
        let sr = stock.sr("64MiB");
        let disks: Vec<Disk<'_>> = (0..3)
            .map(|number: u8| {
                let disk = stock.xapi.plug(&sr, &stock.xapi.create_vdi(&sr, MIB), "5");
                connect(&disk).write(0, &[number + 1; 512]).unwrap();
                disk
            })
            .collect();
        for (number, disk) in disks.iter().enumerate() {
            assert_eq!(connect(disk).read(0, 512).unwrap(), vec![number as u8 + 1; 512]);
        }
        let mut pids: Vec<u32> = disks.iter().map(|disk| disk.tapdisk().pid).collect();
        pids.dedup();
        assert_eq!(pids.len(), 3);
        disks.into_iter().for_each(Disk::unplug);
        stock.assert_nothing_left(&sr);
    });
}

#[test]
fn a_tapdisk_that_dies_loses_what_was_written_since_activate_and_nothing_else() {
    with_each(|stock| {
        let sr = stock.sr("64MiB");
        let key = stock.xapi.create_vdi(&sr, MIB);
        let disk = stock.xapi.plug(&sr, &key, "5");
        put(&disk, 0, "before");
        disk.step("Datapath.deactivate").unwrap();
        disk.step("Datapath.activate").unwrap();
        put(&disk, 0, "lost..");
        let kill = || {
            let tapdisk = disk.tapdisk();
            tapdisk.kill().unwrap();
            assert!(tapdisk.wait(Duration::from_secs(5)).unwrap());
        };
        kill();
        stock.logged();
        disk.step("Datapath.deactivate").unwrap();
        let logged = stock.logged();
        assert!(logged.contains("is dead") && logged.contains("is lost"), "{logged}");
        assert!(logged.contains(&key), "{logged}");
        disk.step("Datapath.activate").unwrap();
        assert_eq!(get(&disk, 0), "before");
        // So it is where nothing comes between.
        put(&disk, 0, "lost..");
        kill();
        disk.step("Datapath.activate").unwrap();
        assert!(stock.logged().contains("is lost"));
        assert_eq!(get(&disk, 0), "before");
        kill();
        disk.unplug();
        stock.assert_nothing_left(&sr);
    });
}

/// An administrator's tap-ctl pause: the stock driver forgets what was written.
#[test]
fn a_tapdisk_that_somebody_pauses_counts_as_one_that_has_lost_it() {
    with_each(|stock| {
        let sr = stock.sr("64MiB");
        let key = stock.xapi.create_vdi(&sr, MIB);
        let disk = stock.xapi.plug(&sr, &key, "5");
        put(&disk, 0, "before");
        disk.step("Datapath.deactivate").unwrap();
        disk.step("Datapath.activate").unwrap();
        put(&disk, 0, "paused");
        let pid = disk.tapdisk().pid;
        let client = tapctl::Client::new(&stock.control, pid);
        let minor = u16::try_from(client.list().unwrap()[0].minor).unwrap();
        client.pause(minor).unwrap();
        stock.logged();
        disk.step("Datapath.deactivate").unwrap();
        let logged = stock.logged();
        assert!(logged.contains("paused") && logged.contains("is lost"), "{logged}");
        disk.step("Datapath.activate").unwrap();
        assert_eq!(get(&disk, 0), "before");
        disk.unplug();
        stock.assert_nothing_left(&sr);
    });
}

/// It has what nobody else has, so it is not killed for being slow, as tapdisk-ram would be.
#[test]
fn a_tapdisk_that_hangs_is_not_killed_and_loses_nothing() {
    let stock = Stock::stand_in();
    let sr = stock.sr("64MiB");
    let key = stock.xapi.create_vdi(&sr, MIB);
    let disk = stock.xapi.plug(&sr, &key, "5");
    put(&disk, 0, "patience");
    let tapdisk = disk.tapdisk();
    tapdisk.signal(rustix::process::Signal::STOP).unwrap();
    let says = ["host's own tapdisk", "it hangs", "gives up what was written"];
    refused(disk.step("Datapath.deactivate"), 453, &says);
    assert!(tapdisk.is_same());
    tapdisk.signal(rustix::process::Signal::CONT).unwrap();
    disk.step("Datapath.deactivate").unwrap();
    disk.step("Datapath.activate").unwrap();
    assert_eq!(get(&disk, 0), "patience");
    disk.unplug();
    stock.assert_nothing_left(&sr);
}

/// A deactivate that is killed leaves the old contents or the new ones, and can be repeated.
#[test]
fn a_killed_activate_or_deactivate_loses_nothing_and_is_repeated() {
    with_each(|stock| {
        let sr = stock.sr("128MiB");
        let key = stock.xapi.create_vdi(&sr, 16 * MIB);
        let uri = stock.xapi.stat(&sr, &key).unwrap()["uri"][0].clone();
        let killed_after = |method: &str, delay: Duration| {
            let params = json!({ "dbg": "x", "uri": uri, "domain": "5" }).to_string();
            let mut call = stock.xapi.method(Side::Datapath, method);
            let mut child = call.stderr(Stdio::null()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(params.as_bytes()).unwrap();
            thread::sleep(delay);
            child.kill().unwrap();
            child.wait().unwrap();
        };
        for round in 0..8_u8 {
            let delay = Duration::from_millis(u64::from(round) * 17 % 90);
            killed_after("Datapath.activate", delay);
            let disk = plug(stock, &sr, &key, "5");
            let mut client = connect(&disk);
            assert_eq!(client.read(7 * MIB, 512).unwrap(), [round; 512], "round {round}");
            for at in 0..16 {
                client.write(at * MIB, &vec![round + 1; 1 << 20]).unwrap();
            }
            drop(client);
            killed_after("Datapath.deactivate", delay);
            if round % 4 == 3 {
                // Whatever became of it, the volume is not a mixture.
                let tapdisk = fs::read_link(&disk.socket).map(|_| disk.tapdisk());
                tapdisk.into_iter().for_each(|tapdisk| tapdisk.kill().unwrap());
            }
            disk.step("Datapath.deactivate").unwrap();
            let mut disk = plug(stock, &sr, &key, "5");
            let mut client = connect(&disk);
            let all = [client.read(0, 8 << 20), client.read(8 * MIB, 8 << 20)];
            let all = all.map(Result::unwrap_or_default).concat();
            let first = if all.is_empty() { 0 } else { all[0] };
            assert!(first == round || first == round + 1);
            assert!(round % 4 == 3 || first == round + 1, "it was taken back");
            assert!(all.iter().all(|&byte| byte == first), "a mixture in round {round}");
            if first == round {
                for at in 0..16 {
                    client.write(at * MIB, &vec![round + 1; 1 << 20]).unwrap();
                }
            }
            drop(client);
            disk.step("Datapath.deactivate").unwrap();
            disk.step("Datapath.detach").unwrap();
            disk = plug(stock, &sr, &key, "5");
            disk.unplug();
        }
        maintain(&stock.xapi, &["gc", "--sr", &sr]).success();
        assert_eq!(stock.xapi.used(&sr), 16 * MIB);
        assert_eq!(stock.images(&sr), [] as [PathBuf; 0]);
        assert_sound(&stock.xapi, &sr);
    });
}

/// The clone that takes the writes of such a disk is what is lent.
#[test]
fn a_non_persistent_disk_forgets_at_close_and_not_before() {
    with_each(|stock| {
        let sr = stock.sr("64MiB");
        let key = stock.xapi.create_vdi(&sr, MIB);
        let disk = stock.xapi.plug(&sr, &key, "5");
        put(&disk, 0, "original");
        let uri = disk.uri.clone();
        disk.unplug();
        let open = |persistent: bool| {
            let params = json!({ "uri": uri, "persistent": persistent });
            stock.xapi.datapath("Datapath.open", params).unwrap();
        };
        open(false);
        let disk = plug(stock, &sr, &key, "5");
        put(&disk, 0, "scribble");
        disk.step("Datapath.deactivate").unwrap();
        disk.step("Datapath.detach").unwrap();
        let disk = plug(stock, &sr, &key, "5");
        assert_eq!(get(&disk, 0), "scribble");
        disk.unplug();
        let disk = plug(stock, &sr, &key, "5");
        assert_eq!(get(&disk, 0), "original");
        disk.unplug();
        stock.assert_nothing_left(&sr);
        assert_eq!(stock.xapi.used(&sr), BLOCK);
    });
}

#[test]
fn a_read_only_disk_is_read_and_not_written() {
    with_each(|stock| {
        let sr = stock.sr("64MiB");
        let key = stock.xapi.create_vdi(&sr, MIB);
        let disk = stock.xapi.plug(&sr, &key, "5");
        put(&disk, 0, "readable");
        disk.unplug();
        let disk = Disk::plug(&stock.xapi, &sr, &key, "5", true).unwrap();
        assert_eq!(get(&disk, 0), "readable");
        connect(&disk).write(0, &[1; 512]).unwrap_err();
        // What it is in is another domain's affair, also of one that only reads.
        refused(Disk::attach_and_activate(&stock.xapi, &sr, &key, "6", true), 24, &["one domain"]);
        stock.xapi.volume("Volume.snapshot", on(&sr, &key, &json!({}))).unwrap();
        refused(stock.xapi.volume("Volume.destroy", on(&sr, &key, &json!({}))), 24, &[&key]);
        disk.unplug();
        let disk = plug(stock, &sr, &key, "5");
        assert_eq!(get(&disk, 0), "readable");
        // The same domain wants it otherwise: what it has written comes along.
        put(&disk, 0, "switched");
        let disk = Disk::attach_and_activate(&stock.xapi, &sr, &key, "5", true).unwrap();
        assert_eq!(get(&disk, 0), "switched");
        disk.unplug();
        stock.assert_nothing_left(&sr);
    });
}

/// An SR that has room for the disk once, and a disk that was written throughout.
#[test]
fn a_full_sr_takes_back_in_parts() {
    with_each(|stock| {
        let sr = stock.sr("12MiB");
        let key = stock.xapi.create_vdi(&sr, 8 * MIB);
        for byte in 1..4 {
            let disk = stock.xapi.plug(&sr, &key, "5");
            let mut client = connect(&disk);
            assert_eq!(client.read(5 * MIB, 512).unwrap(), [byte - 1; 512]);
            for at in 0..8 {
                client.write(at * MIB, &vec![byte; 1 << 20]).unwrap();
            }
            drop(client);
            disk.unplug();
            assert_eq!(stock.xapi.used(&sr), 8 * MIB);
        }
        stock.assert_nothing_left(&sr);
    });
}

/// Room for less than was written: nothing is lost, and it is the administrator's turn.
#[test]
fn what_does_not_fit_stays_with_the_tapdisk_until_there_is_room() {
    with_each(|stock| {
        let sr = stock.sr("12MiB");
        let filler = stock.xapi.create_vdi(&sr, 8 * MIB);
        let key = stock.xapi.create_vdi(&sr, 8 * MIB);
        for (key, byte) in [(&filler, 9), (&key, 1)] {
            let disk = stock.xapi.plug(&sr, key, "5");
            let mut client = connect(&disk);
            for at in 0..8 {
                client.write(at * MIB, &vec![byte; 1 << 20]).unwrap();
            }
            drop(client);
            if byte == 9 {
                disk.unplug();
                continue;
            }
            let says = ["could not be taken back", "free memory in the SR", key.as_str()];
            refused(disk.step("Datapath.deactivate"), 44, &says);
            refused(disk.step("Datapath.detach"), 44, &says);
            assert_eq!(connect(&disk).read(7 * MIB, 512).unwrap(), [1; 512], "it is served");
            stock.xapi.volume("Volume.destroy", on(&sr, &filler, &json!({}))).unwrap();
            disk.unplug();
        }
        let disk = stock.xapi.plug(&sr, &key, "5");
        assert_eq!(connect(&disk).read(0, 8 << 18).unwrap(), vec![1; 8 << 18]);
        disk.unplug();
        stock.assert_nothing_left(&sr);
    });
}

#[test]
fn a_host_without_a_tapdisk_is_told_so() {
    let nowhere = tempfile::tempdir().unwrap();
    let path = nowhere.path().join("tapdisk");
    let xapi = Xapi::with(&[(BLKTAP, path.to_str().unwrap())]);
    let wanted = json!({ "size": "64MiB", "tapdisk": "blktap" });
    let sr = xapi.attach_sr(&xapi.configure_sr(wanted).unwrap());
    let key = xapi.create_vdi(&sr, MIB);
    let plugged = Disk::attach_and_activate(&xapi, &sr, &key, "5", false);
    refused(plugged, 453, &[path.to_str().unwrap(), BLKTAP]);
    xapi.volume("Volume.destroy", on(&sr, &key, &json!({}))).unwrap();
    assert_eq!(xapi.control_dir().reserved().unwrap(), [0; 0]);
}

#[test]
fn the_log_says_what_it_is_for_and_an_unknown_tapdisk_is_refused() {
    let stock = Stock::stand_in();
    let create =
        |tapdisk: &str| stock.xapi.configure_sr(json!({ "size": "64MiB", "tapdisk": tapdisk }));
    stock.logged();
    assert_eq!(create("ram").unwrap()["tapdisk"], "ram");
    assert!(!stock.logged().contains("LOST"));
    assert_eq!(create("blktap").unwrap()["tapdisk"], "blktap");
    let logged = stock.logged();
    for part in ["tapdisk=blktap", "LOST", "500 MiB", "comparison and demonstration"] {
        assert!(logged.contains(part), "{part} is not in {logged}");
    }
    refused(create("qemu"), 1, &["device-config:tapdisk", "\"qemu\"", "ram or blktap"]);
    assert!(Path::new(stock.control.path()).exists());
}
