//! The messages of tapback: their errors are blktap's, and what they leave is nothing.

use std::{fs, sync::atomic::Ordering::Relaxed};

use blkif::mock::{FrontendRequest, GuestDisk};
use tapctl::{Result, Ring};

use crate::host::{DEVID, Host, frontend, message, until};

const IMAGE_BYTES: usize = 1 << 20;
const ENOENT: i32 = 2;
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;
const EPROTONOSUPPORT: i32 = 93;
const EALREADY: i32 = 114;

fn errno(done: Result<()>) -> i32 {
    done.map_or_else(|error| error.errno(), |()| 0)
}

#[test]
fn errors_and_their_order_are_those_of_blktap() {
    let host = Host::start();
    host.open(0, &host.image("image", IMAGE_BYTES, 1));
    host.client().attach(1).unwrap();
    let guest = host.guest(4);
    let (mut disk, right) = frontend(&guest, 1);
    let connect = |minor, change: &dyn Fn(&mut Ring)| {
        let mut ring = right.clone();
        change(&mut ring);
        errno(host.client().connect(minor, ring))
    };
    assert_eq!(connect(2, &|_| ()), ENODEV, "no such minor");
    assert_eq!(connect(0, &|ring| ring.domid = 99), ENOENT, "no such guest");
    assert_eq!(connect(0, &|ring| ring.order = 4), EINVAL);
    assert_eq!(connect(0, &|ring| ring.order = u32::MAX), EINVAL);
    assert_eq!(connect(0, &|ring| ring.grefs[1] = 12345), EINVAL, "a page that is not granted");
    assert_eq!(connect(0, &|ring| ring.protocol = 0), EPROTONOSUPPORT);
    assert_eq!(connect(0, &|ring| ring.protocol = 4), EPROTONOSUPPORT);
    assert_eq!(connect(0, &|ring| ring.port = 999), EINVAL, "no such port");
    let both = |ring: &mut Ring| (ring.grefs[1], ring.protocol) = (12345, 4);
    assert_eq!(connect(0, &both), EINVAL, "the pages are looked at before the protocol");
    let both = |ring: &mut Ring| (ring.protocol, ring.port) = (4, 999);
    assert_eq!(connect(0, &both), EPROTONOSUPPORT, "and that before the port");
    assert!(host.files(4).iter().all(|path| !path.exists()), "a refused ring leaves something");
    assert_eq!(connect(0, &|ring| ring.pool = Some("another pool".into())), 0);
    assert_eq!(connect(0, &|_| ()), EALREADY);
    assert_eq!(connect(1, &|_| ()), EALREADY, "whatever the minor");
    assert_eq!(connect(2, &|_| ()), ENODEV, "the minor is looked at before that");
    assert_eq!(connect(0, &|ring| ring.order = 4), EALREADY, "and this before the ring");
    let mut bytes = [0; 512];
    disk.read(0, &mut bytes).unwrap();
    assert_eq!(errno(host.client().disconnect(4, DEVID + 1)), ENODEV);
    assert_eq!(errno(host.client().disconnect(4, DEVID)), 0);
    assert_eq!(errno(host.client().disconnect(4, DEVID)), ENODEV);
}

#[test]
fn a_guest_is_told_what_its_disk_can_do() {
    let host = Host::start();
    host.open(0, &host.image("image", IMAGE_BYTES, 1));
    let guest = host.guest(4);
    let (_disk, ring) = frontend(&guest, 0);
    host.client().connect(0, ring).unwrap();
    // Before the message is answered: tapback sets the state then.
    let expected = "feature-flush-cache=1\nfeature-discard=1\ndiscard-granularity=4096\n\
                    discard-alignment=0\nfeature-max-indirect-segments=256\n";
    assert_eq!(guest.keys(DEVID), expected);
}

/// What a killed process has left must not keep the next from being watched.
#[test]
fn statistics_are_there_from_connect_to_disconnect_whatever_was_left() {
    let host = Host::start();
    host.open(0, &host.image("image", IMAGE_BYTES, 1));
    let [device, of_process] = host.files(4);
    fs::create_dir(&device).unwrap();
    fs::write(device.join("statistics"), b"left").unwrap();
    let guest = host.guest(4);
    let (mut disk, ring) = frontend(&guest, 0);
    host.client().connect(0, ring.clone()).unwrap();
    assert_eq!(fs::read(device.join("statistics")).unwrap(), [0; 4096]);
    let mut front = fs::read(&of_process).unwrap();
    assert_eq!((front.len(), front[0]), (4096, 1), "version 1");
    disk.write(0, &[7; 8192]).unwrap();
    disk.read(0, &mut [0; 4096]).unwrap();
    let number =
        |bytes: &[u8], at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
    until("statistics are written", || {
        front = fs::read(&of_process).unwrap();
        number(&front, 24) == 1
    });
    assert_eq!([number(&front, 16), number(&front, 32)], [1, 8], "reads, and their sectors");
    assert_eq!([48, 56, 64].map(|at| number(&front, at)), [1, 1, 16], "writes");
    let backend = fs::read(device.join("statistics")).unwrap();
    assert_eq!([24, 40, 64, 80].map(|at| number(&backend, at)), [1, 8, 1, 16]);
    until("the ring is told of", || {
        let text = fs::read(device.join("io_ring")).unwrap();
        // What the frontend asks for last is as it was when the backend has looked.
        text[8..].starts_with(b"nr_ents 32\nreq prod 2 cons 2 event 3\nrsp prod 2 pvt 2 event ")
    });
    let stats = &host.stats(0)["xenbus"];
    assert_eq!((&stats["domid"], &stats["devid"]), (&4.into(), &DEVID.into()));
    assert_eq!(stats["reqs"], serde_json::json!([2, 2]));
    assert_eq!(host.stats(0)["secs"], serde_json::json!([8, 16]));
    host.client().disconnect(4, DEVID).unwrap();
    assert!(!device.exists() && !of_process.exists());
    assert_eq!(host.stats(0)["xenbus"], serde_json::Value::Null);
    assert_eq!(host.stats(0)["secs"], serde_json::json!([8, 16]), "what was counted stays");
}

/// What has emptied the directory of a disk that is used has no lasting effect.
#[test]
fn statistics_that_were_removed_are_made_again_with_all_that_was_counted() {
    let host = Host::start();
    host.open(0, &host.image("image", IMAGE_BYTES, 1));
    let guest = host.guest(4);
    let (mut disk, ring) = frontend(&guest, 0);
    host.client().connect(0, ring).unwrap();
    let [device, of_process] = host.files(4);
    let completed_writes = || {
        let front = fs::read(&of_process).ok()?;
        Some(u64::from_ne_bytes(front[56..64].try_into().unwrap()))
    };
    let mut writes = 0;
    let is_used = |name: &dyn Fn() -> bool, writes: &mut u64, disk: &mut GuestDisk| {
        until("statistics are there", || {
            disk.write(0, &[7; 512]).unwrap();
            *writes += 1;
            name()
        });
    };
    is_used(&|| completed_writes() > Some(0), &mut writes, &mut disk);
    // Each part alone, and everything.
    let images = || fs::read_dir(of_process.parent().unwrap()).map_or(0, Iterator::count);
    let all = images();
    let removals: [&dyn Fn(); 4] = [
        &|| fs::remove_dir_all(&device).unwrap(),
        &|| fs::remove_file(&of_process).unwrap(),
        &|| fs::remove_dir_all(of_process.parent().unwrap()).unwrap(),
        &|| {
            fs::read_dir(of_process.parent().unwrap())
                .unwrap()
                .for_each(|it| fs::remove_file(it.unwrap().path()).unwrap())
        },
    ];
    for remove in removals {
        remove();
        is_used(&|| device.join("io_ring").exists() && images() == all, &mut writes, &mut disk);
        until("what was counted is there", || completed_writes() == Some(writes));
    }
    host.client().disconnect(4, DEVID).unwrap();
    assert!(!device.exists() && !of_process.exists());
}

/// A guest that breaks the protocol loses its ring, and its disk goes on for the others.
#[test]
fn a_ring_that_lies_is_not_served_again_until_it_is_connected_anew() {
    let host = Host::start();
    host.open(0, &host.image("image", IMAGE_BYTES, 1));
    let (honest, liar) = (host.guest(4), host.guest(5));
    let (mut disk, ring) = frontend(&honest, 0);
    let (mut lying, lying_ring) = frontend(&liar, 0);
    host.client().connect(0, ring).unwrap();
    host.client().connect(0, lying_ring.clone()).unwrap();
    lying.write(0, &[5; 512]).unwrap();
    lying.frontend.word(0).store(999, Relaxed);
    lying.frontend.notify().unwrap();
    until("the ring is given up", || host.stats(0)["xenbus"]["domid"] == 4);
    // tapback takes EALREADY for success, so the guest stays without its disk.
    assert_eq!(errno(host.client().connect(0, lying_ring.clone())), EALREADY);
    let mut bytes = [0; 512];
    disk.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [5; 512]);
    host.nbd(0).disconnect().unwrap();
    host.client().disconnect(5, DEVID).unwrap();
    lying.frontend.reset();
    host.client().connect(0, lying_ring).unwrap();
    lying.read(0, &mut bytes).unwrap();
}

/// A guest that has crashed comes back with another ring (kdump), or the same domain after a resume.
#[test]
fn a_device_is_connected_again_with_other_pages() {
    let host = Host::start();
    host.open(0, &host.image("image", IMAGE_BYTES, 1));
    let guest = host.guest(4);
    let (mut disk, ring) = frontend(&guest, 0);
    host.client().connect(0, ring).unwrap();
    disk.write(512, &[2; 512]).unwrap();
    // It dies with a request under way.
    disk.frontend.submit(&FrontendRequest::Flush).unwrap();
    disk.frontend.push().unwrap();
    host.client().disconnect(4, DEVID).unwrap();
    let (mut again, ring) = frontend(&guest, 3);
    assert_eq!(ring, message(&again.frontend, 4));
    host.client().connect(0, ring).unwrap();
    let mut bytes = [0; 512];
    again.read(512, &mut bytes).unwrap();
    assert_eq!(bytes, [2; 512]);
}
