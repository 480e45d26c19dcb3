//! Two versions of the programs on one host, as while it is upgraded or a step back is taken: plugins of
//! one version with the tapdisks and the SR of the other, under running disks.
//!
//! `make test-long` builds the programs of the previous commit (`tests/previous.sh`) and names their
//! directory by `PREVIOUS_PROGRAMS`; without it these tests say that they are skipped.

use std::{io::Write as _, os::unix::fs::symlink, path::PathBuf, thread, time::Duration};

use end_to_end::{Disk, Xapi, programs};
use nbd::client::{Client, Wish};
use serde_json::{Value, json};

use crate::{MIB, maintenance::assert_sound};

const PREVIOUS: &str = "PREVIOUS_PROGRAMS";
const BLOCK: usize = 4096;

/// A host with the programs of two versions: the one that has made what there is, and the one that goes on.
struct Host {
    before: Xapi,
    after: Xapi,
    /// Whether the one that goes on does not know the SRs of the other one.
    has_other_format: bool,
    name: &'static str,
}

impl Host {
    /// The one of the two whose SRs both can use.
    fn maker(&self) -> &Xapi {
        if self.has_other_format { &self.after } else { &self.before }
    }
}

/// The format of the SRs that a version makes.
fn format(xapi: &Xapi) -> u64 {
    let sr = xapi.create_sr("64MiB");
    let record = std::fs::read(xapi.sr_dir(&sr).join("meta/sr.json")).unwrap();
    xapi.volume("SR.destroy", json!({ "sr": sr })).unwrap();
    serde_json::from_slice::<Value>(&record).unwrap()["format"].as_u64().unwrap()
}

/// Does it once with an older version before, and once with it after.
fn both_ways(variables: &[(&str, &str)], test: impl Fn(&Host)) {
    let Some(previous) = std::env::var_os(PREVIOUS).map(PathBuf::from) else {
        let text = format!("SKIPPED: programs of another version ({PREVIOUS} does not name any)\n");
        let _unseen = std::io::stderr().write_all(text.as_bytes());
        return;
    };
    let current = Xapi::with(variables);
    let before = current.with_programs(&previous);
    test(&Host { before, after: current, has_other_format: false, name: "upgrade" });
    let current = Xapi::with(variables);
    let after = current.with_programs(&previous);
    // The test below is about an SR that the older one does not know.
    let has_other_format = format(&current) != format(&after);
    test(&Host { before: current, after, has_other_format, name: "step back" });
}

/// A version that does not know the format of an SR leaves it as it is, and says what to do.
#[test]
fn an_sr_of_a_later_format_is_refused_by_the_version_before() {
    let Some(previous) = std::env::var_os(PREVIOUS).map(PathBuf::from) else { return };
    let current = Xapi::new();
    let old = current.with_programs(&previous);
    if format(&current) == format(&old) {
        return;
    }
    let configuration = current.create_sr_only("64MiB");
    let sr = current.attach_sr(&configuration);
    let key = current.create_vdi(&sr, MIB);
    let disk = plug(&current, &sr, &key, "5");
    disk.connect().write(0, &[7; BLOCK]).unwrap();
    disk.unplug();
    let later = format!("format {}", format(&current));
    for refused in [
        old.volume("SR.attach", json!({ "configuration": configuration })),
        old.volume("SR.stat", json!({ "sr": sr })),
        old.volume("Volume.snapshot", on(&sr, &key)),
    ] {
        let error = format!("{:?}", refused.unwrap_err());
        assert!(error.contains(&later), "{error}");
    }
    let program = previous.join("tapdisk-ram");
    let mixed = Xapi::with(&[("XAPI_RAM_TAPDISK", program.to_str().unwrap())]);
    let other = mixed.create_sr("64MiB");
    let lost = mixed.create_vdi(&other, MIB);
    let refused = Disk::attach_and_activate(&mixed, &other, &lost, "5", false);
    let error = format!("{:?}", refused.map(drop).unwrap_err());
    assert!(error.contains(&later), "a tapdisk that does not know it: {error}");
    let disk = plug(&current, &sr, &key, "5");
    assert_eq!(disk.connect().read(0, BLOCK as u32).unwrap(), [7; BLOCK]);
    disk.unplug();
    assert_sound(&current, &sr);
}

fn plug<'a>(xapi: &'a Xapi, sr: &str, key: &str, domain: &str) -> Disk<'a> {
    Disk::attach_and_activate(xapi, sr, key, domain, false).unwrap()
}

fn on(sr: &str, key: &str) -> Value {
    json!({ "sr": sr, "key": key })
}

fn key_of(volume: &Value) -> String {
    volume["key"].as_str().unwrap().to_owned()
}

/// A disk that is written to without a pause, and says at the end how often.
fn write_until(client: &mut Client, done: impl Fn() -> bool) -> u8 {
    let mut round = 0;
    while !done() || round == 0 {
        round = round % 200 + 1;
        for block in 0..8 {
            client.write(block * BLOCK as u64, &[round; BLOCK]).unwrap();
        }
    }
    round
}

/// Everything that a plugin asks of a tapdisk, and that both write into the SR.
#[test]
fn a_running_disk_is_snapshotted_resized_and_ended_by_the_other_version() {
    both_ways(&[], |host| {
        let (Host { before, after, name, .. }, maker) = (host, host.maker());
        let configuration = maker.create_sr_only("64MiB");
        let sr = maker.attach_sr(&configuration);
        let key = before.create_vdi(&sr, MIB);
        let old = key_of(&before.volume("Volume.snapshot", on(&sr, &key)).unwrap());
        let disk = plug(before, &sr, &key, "5");
        let tapdisk = disk.tapdisk();
        let mut client = disk.connect();
        // The toolstack restarts with the other version, and attaches nothing anew that is attached.
        assert_eq!(after.attach_sr(&configuration), sr);
        thread::scope(|scope| {
            let calls = scope.spawn(|| structural(after, &sr, &key, &old));
            let last = write_until(&mut client, || calls.is_finished());
            calls.join().unwrap();
            assert_eq!(client.read(0, BLOCK as u32).unwrap(), [last; BLOCK], "{name}");
        });
        // A second domain comes and goes, by the other version.
        let second = plug(after, &sr, &key, "6");
        assert_eq!(second.tapdisk(), tapdisk, "{name}: one tapdisk");
        second.step("Datapath.deactivate").unwrap();
        second.step("Datapath.detach").unwrap();
        drop(client);
        let last = disk.connect().read(0, BLOCK as u32).unwrap();
        for method in ["Datapath.deactivate", "Datapath.detach"] {
            after.datapath(method, json!({ "uri": disk.uri, "domain": "5" })).unwrap();
        }
        assert!(!tapdisk.is_same(), "{name}");
        assert_eq!(before.control_dir().tapdisks().unwrap(), [0; 0], "{name}");
        assert_eq!(before.control_dir().reserved().unwrap(), [0; 0], "{name}");
        // And the other way about: what one left, the other one serves.
        for xapi in [after, before, after] {
            let disk = plug(xapi, &sr, &key, "7");
            assert_eq!(disk.connect().read(0, BLOCK as u32).unwrap(), last, "{name}");
            assert_eq!(disk.connect().size(), 2 * MIB, "{name}");
            disk.unplug();
            assert_sound(xapi, &sr);
        }
        for xapi in [after, before] {
            xapi.volume("SR.detach", json!({ "sr": sr })).unwrap();
            assert_eq!(xapi.attach_sr(&configuration), sr);
        }
        for volume in after.volume("SR.ls", json!({ "sr": sr })).unwrap().as_array().unwrap() {
            after.volume("Volume.destroy", on(&sr, &key_of(volume))).unwrap();
        }
        assert_eq!(after.used(&sr), 0, "{name}");
        assert_eq!(before.used(&sr), 0, "{name}");
        after.volume("SR.destroy", json!({ "sr": sr })).unwrap();
    });
}

/// Whatever changes the structure of a volume while it is written to.
fn structural(xapi: &Xapi, sr: &str, key: &str, old: &str) {
    for round in 0..3 {
        let snapshot = key_of(&xapi.volume("Volume.snapshot", on(sr, key)).unwrap());
        let clone = key_of(&xapi.volume("Volume.clone", on(sr, &snapshot)).unwrap());
        let compared = json!({ "sr": sr, "key": key, "key2": snapshot });
        xapi.volume("Volume.compare", compared).unwrap();
        let set = json!({ "sr": sr, "key": key, "k": "round", "v": round.to_string() });
        xapi.volume("Volume.set", set).unwrap();
        xapi.volume("Volume.destroy", on(sr, &snapshot)).unwrap();
        xapi.volume("Volume.destroy", on(sr, &clone)).unwrap();
        thread::sleep(Duration::from_millis(20));
    }
    xapi.volume("Volume.destroy", on(sr, old)).unwrap();
    let grown = json!({ "sr": sr, "key": key, "new_size": 2 * MIB });
    xapi.volume("Volume.resize", grown).unwrap();
}

/// A non-persistent disk: its clone lives from one call to the next.
#[test]
fn a_session_that_one_version_has_begun_the_other_ends() {
    both_ways(&[], |host| {
        let (Host { before, after, name, .. }, maker) = (host, host.maker());
        let sr = maker.create_sr("64MiB");
        let key = before.create_vdi(&sr, MIB);
        // What a volume takes that was used once.
        plug(before, &sr, &key, "5").unplug();
        let empty = before.used(&sr);
        let uri = format!("ram://{sr}/{key}");
        let open = json!({ "uri": uri, "persistent": false });
        before.datapath("Datapath.open", open).unwrap();
        let disk = plug(before, &sr, &key, "5");
        disk.connect().write(0, b"scribble").unwrap();
        drop(plug(after, &sr, &key, "5"));
        assert_eq!(disk.connect().read(0, 8).unwrap(), b"scribble", "{name}");
        for method in ["Datapath.deactivate", "Datapath.detach"] {
            after.datapath(method, json!({ "uri": uri, "domain": "5" })).unwrap();
        }
        after.datapath("Datapath.close", json!({ "uri": uri })).unwrap();
        let disk = plug(after, &sr, &key, "5");
        assert_eq!(disk.connect().read(0, 8).unwrap(), [0; 8], "{name}");
        disk.unplug();
        assert_eq!(after.used(&sr), empty, "{name}");
        assert_sound(before, &sr);
    });
}

/// Each version starts the tapdisk of the other, which is named by hand.
#[test]
fn a_plugin_starts_the_tapdisk_of_the_other_version() {
    let Some(previous) = std::env::var_os(PREVIOUS).map(PathBuf::from) else { return };
    let current = programs::directory();
    for (plugins, tapdisk) in [(&current, &previous), (&previous, &current)] {
        let program = tapdisk.join("tapdisk-ram");
        let host = Xapi::with(&[("XAPI_RAM_TAPDISK", program.to_str().unwrap())]);
        let [new, old] = [&current, &previous].map(|programs| host.with_programs(programs));
        // Both know the SRs of the older one.
        let sr = old.create_sr("64MiB");
        let xapi = if plugins == &previous { &old } else { &new };
        let key = xapi.create_vdi(&sr, MIB);
        let disk = plug(xapi, &sr, &key, "5");
        disk.connect().write(0, b"mixed").unwrap();
        let snapshot = xapi.volume("Volume.snapshot", on(&sr, &key)).unwrap();
        disk.connect().write(0, b"later").unwrap();
        let clone = xapi.volume("Volume.clone", on(&sr, &key_of(&snapshot))).unwrap();
        let copy = plug(xapi, &sr, &key_of(&clone), "5");
        assert_eq!(copy.connect().read(0, 5).unwrap(), b"mixed");
        copy.unplug();
        disk.unplug();
        assert_sound(xapi, &sr);
    }
}

/// What the host's own tapdisk holds for one version, the other one takes back.
#[test]
fn a_disk_that_the_hosts_own_tapdisk_holds_is_taken_back_by_the_other_version() {
    let tools = tempfile::tempdir().unwrap();
    let stock = tools.path().join("tapdisk");
    symlink(programs::path("tapdisk-ram"), &stock).unwrap();
    both_ways(&[("XAPI_RAM_BLKTAP", stock.to_str().unwrap())], |host| {
        let (Host { before, after, name, .. }, maker) = (host, host.maker());
        let wanted = json!({ "size": "64MiB", "tapdisk": "blktap" });
        let sr = maker.attach_sr(&maker.configure_sr(wanted).unwrap());
        let key = before.create_vdi(&sr, MIB);
        let disk = plug(before, &sr, &key, "5");
        let wish = Wish { structured: false, allocation: false, ..Wish::default() };
        Client::connect(&disk.socket, &wish).unwrap().write(0, &[7; 512]).unwrap();
        for method in ["Datapath.deactivate", "Datapath.detach"] {
            after.datapath(method, json!({ "uri": disk.uri, "domain": "5" })).unwrap();
        }
        let disk = plug(after, &sr, &key, "5");
        let mut client = Client::connect(&disk.socket, &wish).unwrap();
        assert_eq!(client.read(0, 512).unwrap(), [7; 512], "{name}");
        drop(client);
        disk.unplug();
        assert_sound(before, &sr);
    });
}
