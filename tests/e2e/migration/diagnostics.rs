//! What `Plugin.diagnostics` and the log tell an administrator, on a host where disks are shared, used and
//! mirrored, and where calls have failed.

use std::{
    os::unix::net::UnixDatagram,
    thread,
    time::{Duration, Instant},
};

use end_to_end::{Side, Xapi, tools};
use serde_json::{Value, json};

use super::outgoing::{MIRROR, Migration};
use crate::MIB;

const SECRET: &str = "what-a-guest-keeps-to-itself";

/// The text, which the caller gets as one string.
fn told(xapi: &Xapi) -> String {
    let text = xapi.volume("Plugin.diagnostics", json!({})).unwrap();
    text.as_str().unwrap().to_owned()
}

/// What there is in the end: the tapdisk looks at its disks about once a second.
fn eventually<T>(look: impl Fn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "it does not come");
        thread::sleep(Duration::from_millis(200));
    }
}

/// The line that begins so.
#[track_caller]
fn line<'a>(text: &'a str, start: &str) -> &'a str {
    let found = text.lines().map(str::trim_start).find(|line| line.starts_with(start));
    found.unwrap_or_else(|| panic!("no line begins with {start:?}:\n{text}"))
}

#[test]
fn diagnostics_tell_of_mirrors_sharing_and_the_last_errors_and_of_nothing_that_guests_keep() {
    let hosts = [Xapi::new(), Xapi::new()];
    let migration = Migration::prepare(&hosts, "5");
    let (xapi, sr, key) = (migration.source.xapi, &migration.source.sr, &migration.key);
    let operation = migration.mirror("5").unwrap();
    assert_eq!(migration.wait(&operation)["complete"], true);
    let number = operation[1].as_str().unwrap().rsplit('/').next().unwrap();

    let guest = json!({ "sr": sr, "key": key, "k": "xenstore-data", "v": SECRET });
    xapi.volume("Volume.set", guest).unwrap();
    let params = json!({ "sr": sr, "key": key });
    let snapshot = xapi.volume("Volume.snapshot", params.clone()).unwrap();
    let alone = xapi.create_vdi(sr, 256 * MIB);
    let disk = xapi.plug(sr, &alone, "7");
    let mut client = disk.connect();
    client.write(0, SECRET.as_bytes()).unwrap();
    // The SR has 128 MiB: the tapdisk says that writes find no room.
    for at in (0..160).step_by(8) {
        if client.write((at + 8) * MIB, &tools::noise(at, 8 << 20)).is_err() {
            break;
        }
    }
    let mut shrink = params.clone();
    shrink["new_size"] = json!(4096);
    let refused = xapi.volume("Volume.resize", shrink).unwrap_err();

    let is_of_alone = |line: &&str| line.contains(" tapdisk-ram[") && line.contains(&alone);
    let room = eventually(|| told(xapi).lines().find(is_of_alone).map(str::to_owned));
    assert!(room.contains(" warning: ") && room.contains(" is full: "), "{room}");

    let text = told(xapi);
    let volume = line(&text, &format!("volume {key} \""));
    assert!(volume.contains("may share memory with 1 (groups [") && volume.contains("active in"));
    let of_snapshot = line(&text, &format!("volume {} \"", snapshot["key"].as_str().unwrap()));
    assert!(of_snapshot.contains("may share memory with 1") && of_snapshot.contains("read-only"));
    assert!(line(&text, &format!("volume {alone} \"")).contains("shares nothing"));
    let used = line(&text, &format!("volume {key} in SR {sr}"));
    let tapdisk = line(volume, "volume").split("process ").nth(1).unwrap().split(',').next();
    assert!(used.contains(&format!("process {}, minor ", tapdisk.unwrap())), "{used}");
    assert_eq!(line(&text, "domain \"5\""), "domain \"5\": active read-write");
    assert_eq!(
        line(&text, "domain \"u0_mirror"),
        format!("domain {:?}: attached", migration.datapath)
    );
    let mirror = format!("mirror {number} for domain \"5\": ");
    assert_eq!(line(&text, &mirror), format!("{mirror}in sync, until it is cut over"));
    let errors = text.split("the last errors and warnings:").nth(1).unwrap();
    let resize = errors.lines().find(|line| line.contains("Volume.resize")).unwrap();
    for part in [" volume-plugin[", " error: ", sr, key, &refused.code, &refused.params[1]] {
        assert!(resize.contains(part), "{part} is not in {resize}");
    }
    // The destination goes: the reason is told for as long as the record is there.
    migration.destination.steps(&["deactivate", "detach"], &migration.leaf, MIRROR);
    migration.proxy.cut();
    client.disconnect().unwrap();
    let mut guest = disk_client(&migration);
    guest.write(0, SECRET.as_bytes()).unwrap();
    assert_eq!(migration.wait(&operation)["failed"], true);
    let text = told(xapi);
    assert!(line(&text, &mirror).starts_with(&format!("{mirror}failed: ")), "{text}");
    assert!(!text.contains(SECRET), "{text}");
    disk.unplug();
}

/// Another client of the disk that is mirrored.
fn disk_client(migration: &Migration<'_>) -> nbd::client::Client {
    let (source, key) = (&migration.source, &migration.key);
    let attached = source.datapath("attach", key, "5").unwrap();
    nbd::client::Client::connect(source.socket(&attached), &nbd::client::Wish::default()).unwrap()
}

/// Each message of a call tells which SR, volume and domain it is about, and where the caller's own messages and
/// spans of it are.
#[test]
fn the_log_names_sr_volume_domain_and_the_callers_context() {
    let xapi = Xapi::new();
    let log = UnixDatagram::bind(xapi.root().join("log")).unwrap();
    log.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let next = |method: &str| {
        let mut buffer = [0; 9000];
        loop {
            let length = log.recv(&mut buffer).expect("a message");
            let line = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let is_end = line.contains(": done in ") || line.contains(": failed in ");
            if is_end && line.contains(&format!("]: {method} ")) {
                return line;
            }
        }
    };
    let call = |side, method: &str, mut params: Value| {
        params["dbg"] = json!("OpaqueRef:1f|VDI.op\n00-aa11-bb22-01");
        // Messages of calls before, of which the socket keeps but a few.
        log.set_nonblocking(true).unwrap();
        while log.recv(&mut [0; 9000]).is_ok() {}
        log.set_nonblocking(false).unwrap();
        let _answer = xapi.raw(side, method, params.to_string().as_bytes());
        let line = next(method);
        assert!(line.contains(" dbg=OpaqueRef:1f|VDI.op traceparent=00-aa11-bb22-01 "), "{line}");
        line
    };
    let sr = xapi.create_sr("16MiB");
    let key = xapi.create_vdi(&sr, MIB);
    let line = call(Side::Volume, "Volume.snapshot", json!({ "sr": sr, "key": key }));
    assert!(line.contains(&format!(" sr={sr} key={key}: done in ")), "{line}");
    let line = call(Side::Volume, "Volume.stat", json!({ "sr": sr, "key": "none" }));
    assert!(line.contains(&format!(" sr={sr} key=none: failed in ")), "{line}");
    let uri = xapi.stat(&sr, &key).unwrap()["uri"][0].clone();
    let line = call(Side::Datapath, "Datapath.attach", json!({ "uri": uri, "domain": "5" }));
    assert!(line.contains(&format!(" uri={} domain=5: done in ", uri.as_str().unwrap())), "{line}");
    assert!(line.contains(&sr) && line.contains(&key), "{line}");
    let operation = format!("{sr}/{key}/0123456789abcdef");
    let params = json!({ "operation": ["MirrorV1", operation] });
    let line = call(Side::Datapath, "Data.stat", params);
    assert!(line.contains(&format!(" operation={operation}: ")), "{line}");
    xapi.datapath("Datapath.detach", json!({ "uri": uri, "domain": "5" })).unwrap();
}
