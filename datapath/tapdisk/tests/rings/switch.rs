//! A volume of an SR under a guest: snapshots between two requests, and a disk that grows.

use std::path::PathBuf;

use blkif::mock::{FrontendRequest, Span};
use store::{
    Error, ErrorKind, Live, Name, Result, Serving, Switch,
    testing::{Fixture, content},
};
use tapctl::Client;

use crate::host::{DEVID, Host, frontend};

const MIB: u64 = 1 << 20;
const MINOR: u16 = 0;

/// Reaches the process as the volume plugin does.
struct Tapdisk(Client);

impl Live for Tapdisk {
    fn switch(&mut self, _: &Name, _: &Serving, switch: &Switch) -> Result<()> {
        let message = tapctl::Switch { new_top: switch.top, index: switch.index.clone() };
        let done = self.0.switch(MINOR, message);
        done.map_err(|error| Error::new(ErrorKind::Io, error.to_string()))
    }

    fn sole(&mut self, _: &Name, _: &Serving) -> Result<()> {
        self.0.sole(MINOR).map_err(|error| Error::new(ErrorKind::Io, error.to_string()))
    }
}

pub(crate) fn path(fixture: &Fixture, key: &str) -> PathBuf {
    fixture.sr.layout().volume(&Name::parse(key).unwrap())
}

/// Requests of eleven pages that all say the same number, one after the other over the same place, and
/// snapshots beside them: none of these holds pages of two numbers.
#[test]
fn a_snapshot_holds_whole_requests() {
    let host = Host::start();
    let fixture = Fixture::new(256 * MIB);
    let key = fixture.create(8 << 20);
    host.open(MINOR, &format!("ram:{}", path(&fixture, &key).display()));
    let guest = host.guest(4);
    let (mut disk, ring) = frontend(&guest, 0);
    host.client().connect(MINOR, ring).unwrap();
    let pages = guest.take_pages(22);
    let mut snapshots = Vec::new();
    let mut live = Tapdisk(host.client());
    for round in 1..=40_u8 {
        // Two requests are under way while the snapshot is taken.
        for half in 0..2 {
            let first = pages + 11 * half;
            let number = 2 * round - 1 + half as u8;
            (first..first + 11).for_each(|page| guest.write(page, 0, &[number; 4096]));
            let spans = (first..first + 11).map(Span::page).collect();
            disk.frontend.submit(&FrontendRequest::Write(8, spans)).unwrap();
        }
        disk.frontend.push().unwrap();
        let key = fixture.lock().snapshot_volume(&key, &mut live).unwrap().key;
        snapshots.push((2 * round, key));
        disk.ask(&FrontendRequest::Flush).unwrap();
    }
    for (last, snapshot) in snapshots {
        let bytes = content(&mut fixture.open(snapshot.as_str(), true).unwrap());
        let number = bytes[4096];
        assert!((last - 2..=last).contains(&number), "{number} in a snapshot after {last}");
        assert!(bytes[4096..12 * 4096].iter().all(|&byte| byte == number), "half a write");
    }
    let mut now = vec![0; 11 * 4096];
    disk.read(4096, &mut now).unwrap();
    assert!(now.iter().all(|&byte| byte == 80));
}

#[test]
fn a_guest_is_told_that_its_disk_has_grown() {
    let host = Host::start();
    let fixture = Fixture::new(64 * MIB);
    let key = fixture.create(8 << 20);
    host.open(MINOR, &format!("ram:{}", path(&fixture, &key).display()));
    let guest = host.guest(4);
    let (mut disk, ring) = frontend(&guest, 0);
    host.client().connect(MINOR, ring).unwrap();
    assert!(disk.write(8 << 20, &[1; 512]).is_err(), "beyond the end");
    fixture.lock().resize_volume(&key, 16 << 20).unwrap();
    host.client().resize(MINOR, 16 << 20).unwrap();
    let keys = guest.keys(DEVID);
    assert!(keys.ends_with("sectors=32768\nstate=4\n"), "{keys}");
    disk.write(8 << 20, &[1; 512]).unwrap();
    assert_eq!(host.client().disk_info(MINOR).unwrap().sectors, 32768);
}
