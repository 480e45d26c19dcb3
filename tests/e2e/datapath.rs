//! The datapath: several domains, several modes, every step repeatable, every tapdisk replaceable.

use end_to_end::{Disk, Xapi};
use serde_json::json;

use crate::MIB;
use crate::maintenance::assert_sound;

#[test]
fn every_step_may_be_repeated() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let key = xapi.create_vdi(&sr, MIB);
    let disk = xapi.plug(&sr, &key, "5");
    let again = Disk::attach_and_activate(&xapi, &sr, &key, "5", false).unwrap();
    assert_eq!(disk.backend, again.backend, "what xapi remembers stays true");
    assert_eq!(disk.tapdisk(), again.tapdisk());
    disk.connect().write(0, b"once").unwrap();
    for method in
        ["Datapath.deactivate", "Datapath.deactivate", "Datapath.detach", "Datapath.detach"]
    {
        disk.step(method).unwrap();
    }
    // Also for a volume, and for an SR, that does not exist any more.
    xapi.volume("Volume.destroy", json!({ "sr": sr, "key": key })).unwrap();
    disk.step("Datapath.deactivate").unwrap();
    xapi.volume("SR.destroy", json!({ "sr": sr })).unwrap();
    disk.step("Datapath.detach").unwrap();
    xapi.datapath("Datapath.close", json!({ "uri": disk.uri })).unwrap();
}

#[test]
fn two_domains_share_one_tapdisk() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let key = xapi.create_vdi(&sr, MIB);
    let one = xapi.plug(&sr, &key, "u0_vbd_0_x_xvda");
    let two = xapi.plug(&sr, &key, "u0 any/string \u{e4}");
    assert_eq!(one.tapdisk(), two.tapdisk());
    one.connect().write(0, b"shared").unwrap();
    one.step("Datapath.deactivate").unwrap();
    one.step("Datapath.detach").unwrap();
    assert_eq!(two.connect().read(0, 6).unwrap(), b"shared");
    let tapdisk = two.tapdisk();
    two.unplug();
    assert!(!tapdisk.is_same(), "the last detach ends the process");
}

#[test]
fn read_only_beside_read_write_is_refused_both_ways() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let key = xapi.create_vdi(&sr, MIB);
    let plug =
        |domain: &str, read_only| Disk::attach_and_activate(&xapi, &sr, &key, domain, read_only);
    let (one, two) = (plug("1", true).unwrap(), plug("2", true).unwrap());
    let refused = plug("3", false).unwrap_err();
    assert_eq!(refused.code, "SR_BACKEND_FAILURE_24", "{refused}");
    one.step("Datapath.deactivate").unwrap();
    two.step("Datapath.deactivate").unwrap();
    plug("3", false).unwrap();
    let refused = plug("1", true).unwrap_err();
    assert_eq!(refused.code, "SR_BACKEND_FAILURE_24", "{refused}");
}

#[test]
fn an_active_volume_is_not_destroyed_and_its_sr_not_detached() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let key = xapi.create_vdi(&sr, MIB);
    let disk = xapi.plug(&sr, &key, "5");
    let volume = json!({ "sr": sr, "key": key });
    let refused = xapi.volume("Volume.destroy", volume.clone()).unwrap_err();
    assert_eq!(refused.code, "SR_BACKEND_FAILURE_24", "{refused}");
    let refused = xapi.volume("SR.detach", json!({ "sr": sr })).unwrap_err();
    assert_eq!(refused.code, "SR_BACKEND_FAILURE_16", "{refused}");
    assert!(refused.params[1].contains(&key), "it names the disk: {refused}");
    // Attached is not active.
    disk.step("Datapath.deactivate").unwrap();
    xapi.volume("Volume.destroy", volume).unwrap();
}

#[test]
fn a_tapdisk_that_dies_between_two_steps_is_replaced() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let key = xapi.create_vdi(&sr, MIB);
    let disk = xapi.plug(&sr, &key, "5");
    disk.connect().write(4096, b"kept").unwrap();
    for step in ["Datapath.attach", "Datapath.activate", "Datapath.deactivate", "Datapath.activate"]
    {
        let tapdisk = disk.tapdisk();
        disk.kill_tapdisk();
        disk.step(step).unwrap();
        disk.step("Datapath.activate").unwrap();
        assert_ne!(disk.tapdisk(), tapdisk);
        assert_eq!(disk.connect().read(4096, 4).unwrap(), b"kept");
    }
    disk.tapdisk().kill().unwrap();
    disk.unplug();
    assert_eq!(xapi.control_dir().reserved().unwrap(), [0; 0], "no minor is left");
}

/// Its first thread may have ended before those that still hold the minor.
#[test]
fn a_tapdisk_that_is_just_ending_is_replaced_by_one_with_its_minor() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let key = xapi.create_vdi(&sr, MIB);
    let disk = xapi.plug(&sr, &key, "5");
    for round in 0..20 {
        disk.tapdisk().kill().unwrap();
        disk.step("Datapath.activate").unwrap();
        assert_eq!(xapi.control_dir().reserved().unwrap(), [0], "round {round}");
    }
    disk.unplug();
}

#[test]
fn a_tapdisk_is_on_its_own() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let disk = xapi.plug(&sr, &xapi.create_vdi(&sr, MIB), "5");
    let keeper = disk.tapdisk().pid;
    for pid in [keeper, disk.server().pid] {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let session = keeper.to_string();
        assert_eq!(fields[3], session, "it has a session of its own (proc(5), field 6)");
        for number in 0..3 {
            let target = std::fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap();
            assert_eq!(target, std::path::Path::new("/dev/null"), "descriptor {number}");
        }
        let directory = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
        assert_eq!(directory, std::path::Path::new("/"));
        let score = |pid| std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        assert_eq!(score(pid), score(keeper), "both or neither is protected");
    }
    disk.unplug();
}

#[test]
fn a_non_persistent_disk_forgets_at_close_and_not_before() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let key = xapi.create_vdi(&sr, MIB);
    let disk = xapi.plug(&sr, &key, "0");
    disk.connect().write(0, b"original").unwrap();
    let uri = disk.uri.clone();
    disk.unplug();

    let open = |persistent: bool| {
        xapi.datapath("Datapath.open", json!({ "uri": uri, "persistent": persistent })).unwrap();
    };
    let plug = || Disk::attach_and_activate(&xapi, &sr, &key, "5", false).unwrap();
    open(false);
    let disk = plug();
    disk.connect().write(0, b"scribble").unwrap();
    let listed = xapi.volume("SR.ls", json!({ "sr": sr })).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1, "the clone is nobody's volume: {listed}");
    // Suspended, and its tapdisk dies: what the guest wrote is still there.
    disk.tapdisk().kill().unwrap();
    disk.step("Datapath.deactivate").unwrap();
    disk.step("Datapath.detach").unwrap();
    let disk = plug();
    assert_eq!(disk.connect().read(0, 8).unwrap(), b"scribble");
    disk.step("Datapath.deactivate").unwrap();
    disk.step("Datapath.detach").unwrap();
    // The next start begins anew, also where no close came.
    open(false);
    let disk = plug();
    assert_eq!(disk.connect().read(0, 8).unwrap(), b"original");
    disk.connect().write(0, b"again...").unwrap();
    disk.unplug();
    open(true);
    let disk = plug();
    assert_eq!(disk.connect().read(0, 8).unwrap(), b"original");
    disk.unplug();
    assert_eq!(xapi.data_in_use(&sr), 4096, "nothing of the clones is left");
    assert_sound(&xapi, &sr);
}

#[test]
fn an_active_disk_grows() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let key = xapi.create_vdi(&sr, MIB);
    let disk = xapi.plug(&sr, &key, "5");
    let mut before = disk.connect();
    before.write(0, b"x").unwrap();
    let resize = json!({ "sr": sr, "key": key, "new_size": 20 * MIB });
    xapi.volume("Volume.resize", resize).unwrap();
    let mut after = disk.connect();
    assert_eq!(after.size(), 20 * MIB, "the next client sees the new size");
    after.write(20 * MIB - 4, b"tail").unwrap();
    assert_eq!(before.read(0, 1).unwrap(), b"x");
    disk.unplug();
    let disk = xapi.plug(&sr, &key, "5");
    assert_eq!(disk.connect().read(20 * MIB - 4, 4).unwrap(), b"tail");
    disk.unplug();
}

#[test]
fn a_uri_of_nothing_is_refused_with_its_text() {
    let xapi = Xapi::new();
    for uri in ["nbd://x/y", "ram://", "ram://no-such-sr/no-such-key"] {
        let params = json!({ "uri": uri, "domain": "5" });
        let refused = xapi.datapath("Datapath.attach", params).unwrap_err();
        assert!(
            refused.params[1].contains(uri) || refused.params[1].contains("no-such-sr"),
            "{refused}"
        );
    }
}

/// Any number of connections that stay silent leaves the disk reachable for other clients.
#[test]
fn silent_connections_do_not_lock_a_disk() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let disk = xapi.plug(&sr, &xapi.create_vdi(&sr, MIB), "5");
    let mut served = disk.connect();
    let silent: Vec<_> =
        (0..400).map(|_| std::os::unix::net::UnixStream::connect(&disk.socket).unwrap()).collect();
    disk.connect().write(0, b"served").unwrap();
    assert_eq!(served.read(0, 6).unwrap(), b"served", "a served client stays connected");
    drop(silent);
    disk.unplug();
}

/// An administrator who looks for the cause of a fault reads every warning.
#[test]
fn a_disk_that_is_plugged_and_unplugged_leaves_no_warning_in_the_log() {
    let xapi = Xapi::new();
    let log = std::os::unix::net::UnixDatagram::bind(xapi.root().join("log")).unwrap();
    let reader = log.try_clone().unwrap();
    // The kernel keeps few messages for a reader, so they are read as they come.
    let reading = std::thread::spawn(move || {
        let (mut messages, mut buffer) = (Vec::new(), [0; 8192]);
        loop {
            let length = reader.recv(&mut buffer).unwrap();
            match &buffer[..length] {
                b"end" => return messages,
                message => messages.push(String::from_utf8_lossy(message).into_owned()),
            }
        }
    });
    let sr = xapi.create_sr("16MiB");
    let key = xapi.create_vdi(&sr, MIB);
    for domain in ["1", "1", "2"] {
        let disk = xapi.plug(&sr, &key, domain);
        disk.step("Datapath.attach").unwrap();
        disk.step("Datapath.activate").unwrap();
        disk.unplug();
        let serving = xapi.sr_dir(&sr).join("meta/serving").join(&key);
        assert_eq!(std::fs::read(serving).unwrap(), b"", "nothing of it is left to be collected");
    }
    log.send_to(b"end", xapi.root().join("log")).unwrap();
    let mut messages = reading.join().unwrap();
    // What the machine of this test does not allow.
    messages.retain(|it| !it.contains("not protected from") && !it.contains("control group"));
    assert!(messages.iter().any(|message| message.contains("started tapdisk")), "{messages:?}");
    // RFC 3164: facility local2 and severity info are <150>; what is lower in number is worse.
    let worse: Vec<_> = messages.iter().filter(|message| !message.starts_with("<150>")).collect();
    assert_eq!(worse, [""; 0]);
}
