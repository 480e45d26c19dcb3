//! A control directory that something has emptied under running disks: their tapdisks make their names
//! again, and go on as if nothing had happened.

use std::{fs, time::Duration};

use end_to_end::Disk;
use nbd::client::Client as Nbd;
use rustix::process::Signal;
use serde_json::json;

use super::{Host, eventually};
use crate::maintenance::assert_sound;

/// Removes everything, as `rm -rf` of the directory and a package that makes it again.
fn empty(host: &Host) {
    fs::remove_dir_all(host.dir.path()).unwrap();
    fs::create_dir(host.dir.path()).unwrap();
}

#[test]
fn a_tapdisk_whose_names_are_lost_is_found_by_the_next_call_and_unplugged_without_a_trace() {
    let host = Host::new();
    let sr = host.xapi.create_sr("64MiB");
    let key = host.xapi.create_vdi(&sr, 1 << 20);
    let disk = host.xapi.plug(&sr, &key, "5");
    let tapdisk = disk.tapdisk();
    let names = host.names_of(tapdisk.pid);
    let mut client = disk.connect();
    client.write(0, b"before").unwrap();
    for step in ["Datapath.attach", "Datapath.activate"] {
        empty(&host);
        disk.step(step).unwrap();
        assert_eq!(disk.tapdisk(), tapdisk, "{step}");
        assert_eq!(host.names_of(tapdisk.pid), names, "{step}");
        assert_eq!(host.dir.reserved().unwrap().len(), 1, "{step}");
        assert_eq!(client.read(0, 6).unwrap(), b"before", "{step}: its clients are served");
        assert_eq!(disk.connect().read(0, 6).unwrap(), b"before", "{step}: new ones too");
        let snapshot = serde_json::json!({ "sr": sr, "key": key });
        host.xapi.volume("Volume.snapshot", snapshot).unwrap();
    }
    empty(&host);
    disk.step("Datapath.deactivate").unwrap();
    assert!(tapdisk.is_same(), "it has closed the disk, and is not killed for being out of reach");
    empty(&host);
    disk.step("Datapath.detach").unwrap();
    assert!(!tapdisk.is_same());
    assert_eq!(host.dir.reserved().unwrap(), [0; 0]);
    assert_eq!(host.names_of(tapdisk.pid), [""; 0]);
    let disk = Disk::attach_and_activate(&host.xapi, &sr, &key, "5", false).unwrap();
    assert_eq!(disk.connect().read(0, 6).unwrap(), b"before");
    disk.unplug();
    assert_sound(&host.xapi, &sr);
}

/// Also by a call of the volume plugin, which reaches the tapdisk in the midst of the operation.
#[test]
fn operations_on_a_volume_find_its_tapdisk_whose_names_are_lost() {
    let host = Host::new();
    let sr = host.xapi.create_sr("64MiB");
    let key = host.xapi.create_vdi(&sr, 1 << 20);
    let disk = host.xapi.plug(&sr, &key, "5");
    let mut client = disk.connect();
    client.write(0, b"before").unwrap();
    let tapdisk = disk.tapdisk();
    let names = host.names_of(tapdisk.pid);
    for (method, more) in
        [("Volume.snapshot", json!({})), ("Volume.resize", json!({ "new_size": 2 << 20 }))]
    {
        empty(&host);
        let mut params = json!({ "sr": sr, "key": key });
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        host.xapi.volume(method, params).unwrap_or_else(|failure| panic!("{method}: {failure}"));
        assert_eq!(host.names_of(tapdisk.pid), names, "{method}");
    }
    assert_eq!(client.read(0, 6).unwrap(), b"before");
    // The link to it is the datapath plugin's.
    disk.step("Datapath.attach").unwrap();
    assert_eq!(disk.connect().size(), 2 << 20);
    disk.unplug();
    assert_sound(&host.xapi, &sr);
}

/// Where no plugin comes: while it is used it looks by itself, and a signal has it look at once.
#[test]
fn a_tapdisk_finds_by_itself_that_its_names_are_lost() {
    let host = Host::new();
    let tapdisk = host.serve("image", 65536);
    let names = host.names_of(tapdisk.pid);
    let mut client = host.connect(&tapdisk);
    let are_there = || host.dir.path().exists() && host.names_of(tapdisk.pid) == names;
    empty(&host);
    eventually("looked for by a busy tapdisk", || {
        assert_eq!(client.read(0, 5).unwrap(), b"image");
        are_there()
    });
    assert_eq!(tapdisk.control.pid().unwrap(), tapdisk.pid);
    assert_eq!(host.dir.reserved().unwrap(), [tapdisk.minor]);
    assert!(tapctl::minors::is_attached(&host.dir, tapdisk.minor).unwrap());
    assert_eq!(host.connect(&tapdisk).read(0, 5).unwrap(), b"image");
    // Without a directory there is nothing to make names in, unless it is asked to.
    fs::remove_dir_all(host.dir.path()).unwrap();
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_millis(2500) {
        assert_eq!(client.read(0, 5).unwrap(), b"image");
    }
    assert!(!host.dir.path().exists());
    tapdisk.identity.signal(Signal::HUP).unwrap();
    eventually("made when asked", are_there);
    // A name alone that is lost.
    fs::remove_file(host.nbd_path(&tapdisk)).unwrap();
    tapdisk.identity.signal(Signal::HUP).unwrap();
    eventually("one made again", || {
        Nbd::connect(host.nbd_path(&tapdisk), &Default::default()).is_ok()
    });
    tapdisk.control.close(tapdisk.minor).unwrap();
    tapdisk.control.detach(tapdisk.minor).unwrap();
    tapdisk.ends();
    assert_eq!(host.names_of(tapdisk.pid), [""; 0]);
}

/// The number was free for others meanwhile.
#[test]
fn a_minor_that_another_process_has_reserved_meanwhile_stays_with_that() {
    let host = Host::new();
    let tapdisk = host.serve("image", 65536);
    empty(&host);
    let taken = tapctl::minors::allocate(&host.dir, Duration::from_secs(5)).unwrap();
    assert_eq!(taken, tapdisk.minor);
    tapdisk.identity.signal(Signal::HUP).unwrap();
    eventually("called again", || tapdisk.control.pid().is_ok());
    assert_eq!(host.connect(&tapdisk).read(0, 5).unwrap(), b"image");
    assert!(!tapctl::minors::is_attached(&host.dir, taken).unwrap());
    tapctl::minors::free(&host.dir, taken, Duration::from_secs(5)).unwrap();
}
