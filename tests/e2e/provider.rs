//! `device-config:tapdisk=blktap`: disks that the host's own tapdisk serves from copies.
//!
//! Its part is played by tapdisk-ram under the name of `tapdisk`, which for a plain file does what
//! blktap's `ram:` driver does: it loads it and never writes it back. Where `XAPI_RAM_BLKTAP` names
//! a real one, each test is done with that too.

mod limits;
mod stock;
mod trouble;

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
        assert_eq!(stock.xapi.data_in_use(&sr), 0, "the store has none of it yet");
        drop(client);
        disk.unplug();
        assert_eq!(stock.xapi.data_in_use(&sr), 7 * BLOCK, "zeros take no memory");
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
        assert_eq!(stock.xapi.data_in_use(&sr), 5 * BLOCK, "what was zeroed is given back");
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

/// The clone that takes the writes of such a disk is the volume that the tapdisk holds.
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
        assert_eq!(stock.xapi.data_in_use(&sr), BLOCK);
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
