//! No memory left, and clients that do not read.

use std::{os::unix::net::UnixDatagram, time::Duration};

use end_to_end::{Xapi, tools};
use serde_json::json;

use crate::{MIB, maintenance::maintain};

#[test]
fn an_sr_filled_to_the_last_byte_tells_the_client_and_goes_on() {
    fill(&Xapi::new());
}

#[test]
fn so_does_an_sr_whose_memory_the_store_counts() {
    fill(&Xapi::with(&[("XAPI_RAM_MOUNT", "never")]));
}

fn fill(xapi: &Xapi) {
    let sr = xapi.create_sr("16MiB");
    let (first, second) = (xapi.create_vdi(&sr, 64 * MIB), xapi.create_vdi(&sr, 64 * MIB));
    let (one, two) = (xapi.plug(&sr, &first, "1"), xapi.plug(&sr, &second, "2"));
    let (mut a, mut b) = (one.connect(), two.connect());
    a.write(0, &tools::noise(1, 10 << 20)).unwrap();
    b.write(0, &tools::noise(2, 5 << 20)).unwrap();
    let refused = b.write(8 * MIB, &tools::noise(3, 4 << 20)).unwrap_err();
    assert!(refused.to_string().contains("no space"), "the client is told: {refused}");
    // To the last block.
    let mut at = 32 * MIB;
    while b.write(at, &[7; 4096]).is_ok() {
        at += 4096;
    }
    assert_eq!(xapi.used(&sr), 16 * MIB);
    // What is there can be read and overwritten; what is not reads as zeros.
    assert_eq!(a.read(0, 10 << 20).unwrap(), tools::noise(1, 10 << 20));
    a.write(0, &[9; 4096]).unwrap();
    assert_eq!(b.read(at, 4096).unwrap(), [0; 4096]);
    assert!(one.tapdisk().is_same() && two.tapdisk().is_same(), "nobody crashed");
    // Structure still changes, and deleting gives the space back.
    let set = json!({ "sr": sr, "key": first, "k": "k", "v": "v" });
    xapi.volume("Volume.set", set).unwrap();
    one.unplug();
    xapi.volume("Volume.destroy", json!({ "sr": sr, "key": first })).unwrap();
    assert!(xapi.data_in_use(&sr) <= 6 * MIB, "{} are in use", xapi.data_in_use(&sr));
    b.write(40 * MIB, &tools::noise(4, 8 << 20)).unwrap();
    assert_eq!(b.read(40 * MIB, 8 << 20).unwrap(), tools::noise(4, 8 << 20));
    two.unplug();
}

/// The client writes on in an SR that has grown, keeps to one that has shrunk, and neither it nor its tapdisk
/// is told anything. The same by a PBD with another size.
#[test]
fn an_sr_changes_its_size_under_a_disk_that_is_used() {
    let xapi = Xapi::new();
    let mut configuration = xapi.create_sr_only("16MiB");
    let sr = xapi.attach_sr(&configuration);
    let total = || xapi.volume("SR.stat", json!({ "sr": sr })).unwrap()["total_space"].clone();
    let resize = |size| maintain(&xapi, &["resize", "--sr", &sr, "--size", size]);
    let disk = xapi.plug(&sr, &xapi.create_vdi(&sr, 64 * MIB), "1");
    let mut client = disk.connect();
    let noise = tools::noise(1, 12 << 20);
    client.write(0, &noise).unwrap();
    client.write(20 * MIB, &noise).unwrap_err();
    client.trim(20 * MIB, 12 << 20).unwrap();
    resize("32MiB").success();
    client.write(20 * MIB, &noise).unwrap();
    let refused = resize("16MiB").failure();
    let said = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(said.contains("24 MiB of data"), "{said}");
    assert_eq!(total(), 32 * MIB);
    client.trim(20 * MIB, 12 << 20).unwrap();
    resize("16MiB").success();
    client.write(20 * MIB, &noise).unwrap_err();
    assert!(xapi.used(&sr) <= 16 * MIB);
    client.trim(20 * MIB, 12 << 20).unwrap();
    assert_eq!(client.read(0, 12 << 20).unwrap(), noise);

    configuration["size"] = json!((24 * MIB).to_string());
    assert_eq!(xapi.attach_sr(&configuration), sr);
    assert_eq!(total(), 24 * MIB);
    configuration["size"] = json!((8 * MIB).to_string());
    let refused = xapi.volume("SR.attach", json!({ "configuration": configuration })).unwrap_err();
    assert!(refused.to_string().contains("12 MiB of data"), "{refused}");
    assert_eq!(total(), 24 * MIB);
    client.write(40 * MIB, &noise[..10 << 20]).unwrap();
    assert!(disk.tapdisk().is_same());
    disk.unplug();
}

/// The log of the host says that a disk finds no room, why, and what helps: once, however often its guest
/// tries; and that it finds room again.
#[test]
fn the_log_says_once_that_writes_find_no_room_and_once_that_they_do_again() {
    let xapi = Xapi::new();
    let log = UnixDatagram::bind(xapi.root().join("log")).unwrap();
    log.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let sr = xapi.create_sr("4MiB");
    let disk = xapi.plug(&sr, &xapi.create_vdi(&sr, 16 * MIB), "1");
    let mut client = disk.connect();
    let mut at = 0;
    while client.write(at, &[7; 4096]).is_ok() {
        at += 4096;
    }
    let said = next_message(&log, &["ENOSPC", "room again"]);
    for part in ["minor 0", &sr, "xe vdi-destroy", "is full"] {
        assert!(said.contains(part), "{part:?} is missing in {said:?}");
    }
    for _ in 0..50 {
        client.write(at, &[7; 4096]).unwrap_err();
        std::thread::sleep(Duration::from_millis(30));
    }
    client.trim(0, 1 << 20).unwrap();
    client.write(at, &[7; 4096]).unwrap();
    let said = next_message(&log, &["ENOSPC", "room again"]);
    assert!(said.contains("find room again"), "{said}");
    disk.unplug();
}

/// The next message of the log with one of these words.
fn next_message(log: &UnixDatagram, words: &[&str]) -> String {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = log.recv(&mut buffer).expect("a message");
        let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if words.iter().any(|word| said.contains(word)) {
            return said;
        }
    }
}

/// A client asks for much and reads nothing, while another frees and overwrites what was asked for.
/// Every reply has to be what the disk was at some moment: all of it old, or all of it freed.
#[test]
fn a_client_that_stops_reading_hinders_nobody_and_sees_nothing_wrong() {
    const PIECE: u32 = 256 << 10;
    let xapi = Xapi::new();
    let sr = xapi.create_sr("128MiB");
    let disk = xapi.plug(&sr, &xapi.create_vdi(&sr, 64 * MIB), "1");
    let mut other = disk.connect();
    other.write(0, &vec![0xaa; 32 << 20]).unwrap();
    let mut slow = disk.connect();
    let cookies: Vec<u64> = (0..64_u64)
        .map(|number| {
            slow.submit(0, nbd::wire::command::READ, number * u64::from(PIECE), PIECE, &[]).unwrap()
        })
        .collect();
    // The others are served meanwhile.
    other.write(48 * MIB, &vec![0xbb; 8 << 20]).unwrap();
    other.trim(0, 32 << 20).unwrap();
    assert!(
        xapi.data_in_use(&sr) <= 9 * MIB,
        "freeing waits for nobody: {}",
        xapi.data_in_use(&sr)
    );
    other.write(0, &vec![0xcc; 1 << 20]).unwrap();
    let mut old = 0;
    for (number, cookie) in (0_u64..).zip(cookies) {
        let got = slow.finish_read(cookie, number * u64::from(PIECE), PIECE).unwrap();
        let first = got[0];
        assert!(got.iter().all(|&byte| byte == first), "reply {number} is torn");
        assert!([0xaa, 0, 0xcc].contains(&first), "reply {number} begins with {first:#x}");
        old += usize::from(first == 0xaa);
    }
    assert!(old > 0, "the first replies were on their way before anything was freed");
    disk.unplug();
}
