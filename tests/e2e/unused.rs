//! What xapi leaves active and never ends: a migration's destination, a plug into dom0 whose client failed.
//! It is ended where it is in the way, once it has had no client for a while, and says until then how.

use std::{thread, time::Duration};

use end_to_end::{Disk, Xapi};
use serde_json::{Value, json};

use crate::{MIB, maintenance::assert_sound};

const MIRROR: &str = "MIR0a1b2c";
const DOM0: &str = "u0_vbd_0_x_xvda";
/// The shortest time that can be configured.
const UNUSED: (&str, &str) = ("XAPI_RAM_UNUSED_S", "1");

/// An SR with a volume.
fn host(variables: &[(&str, &str)]) -> (Xapi, String, String) {
    let xapi = Xapi::with(variables);
    let sr = xapi.create_sr("64MiB");
    let key = xapi.create_vdi(&sr, MIB);
    (xapi, sr, key)
}

fn plug<'a>(xapi: &'a Xapi, sr: &str, key: &str, domain: &str, read_only: bool) -> Disk<'a> {
    Disk::attach_and_activate(xapi, sr, key, domain, read_only).unwrap()
}

fn destroy(xapi: &Xapi, sr: &str, key: &str) -> Result<Value, end_to_end::Failure> {
    xapi.volume("Volume.destroy", json!({ "sr": sr, "key": key }))
}

fn assert_nothing_left(xapi: &Xapi, sr: &str) {
    assert_eq!(xapi.control_dir().tapdisks().unwrap(), [0; 0]);
    assert_eq!(xapi.control_dir().reserved().unwrap(), [0; 0]);
    assert_sound(xapi, sr);
}

#[test]
fn a_guest_takes_over_from_a_migration_and_the_volume_can_be_destroyed_afterwards() {
    let (xapi, sr, key) = host(&[]);
    let mirror = plug(&xapi, &sr, &key, MIRROR, false);
    let mut client = mirror.connect();
    client.write(0, b"moved").unwrap();
    drop(client);
    let guest = plug(&xapi, &sr, &key, "5", false);
    assert_eq!(guest.connect().read(0, 5).unwrap(), b"moved");
    guest.unplug();
    assert_nothing_left(&xapi, &sr);
    for method in ["Datapath.deactivate", "Datapath.detach"] {
        mirror.step(method).unwrap();
    }
    destroy(&xapi, &sr, &key).unwrap();
}

#[test]
fn a_migration_that_goes_on_keeps_its_disk() {
    let (xapi, sr, key) = host(&[UNUSED]);
    let mirror = plug(&xapi, &sr, &key, MIRROR, false);
    let mut client = mirror.connect();
    thread::sleep(Duration::from_millis(1100));
    let guest = plug(&xapi, &sr, &key, "5", false);
    guest.unplug();
    client.write(0, b"going on").unwrap();
    let failure = destroy(&xapi, &sr, &key).unwrap_err();
    assert_eq!(failure.code, "SR_BACKEND_FAILURE_24");
    assert!(failure.params[1].contains(MIRROR), "{failure}");
    client.disconnect().unwrap();
    // Counted from the end of the client, not from the activation.
    destroy(&xapi, &sr, &key).unwrap_err();
    thread::sleep(Duration::from_millis(1100));
    destroy(&xapi, &sr, &key).unwrap();
    assert_nothing_left(&xapi, &sr);
}

/// Each operation that an active disk keeps from being done, with both sorts of activation that xapi leaves.
#[test]
fn what_is_left_makes_way_for_every_change_that_needs_the_volume() {
    let (xapi, sr, key) = host(&[UNUSED]);
    let snapshot = xapi.volume("Volume.snapshot", json!({ "sr": sr, "key": key })).unwrap();
    let revert = json!({ "sr": sr, "key": key, "snapshot": snapshot["key"] });
    let data_destroy = json!({ "sr": sr, "key": snapshot["key"] });
    let changes = [
        ("Volume.revert", &key, revert),
        ("Volume.data_destroy", &snapshot["key"].as_str().unwrap().to_owned(), data_destroy),
        ("Volume.destroy", &key, json!({ "sr": sr, "key": key })),
    ];
    for (method, of, params) in changes {
        let read_only = method == "Volume.data_destroy";
        let left = plug(&xapi, &sr, of, if read_only { DOM0 } else { MIRROR }, read_only);
        xapi.volume(method, params.clone()).unwrap_err();
        thread::sleep(Duration::from_millis(1100));
        xapi.volume(method, params).unwrap_or_else(|failure| panic!("{method}: {failure}"));
        assert_nothing_left(&xapi, &sr);
        left.step("Datapath.deactivate").unwrap();
        left.step("Datapath.detach").unwrap();
    }
}

/// A leftover of one disk and a guest on another: the SR stays until the guest is gone.
#[test]
fn what_is_left_makes_way_for_the_detach_of_an_sr() {
    let (xapi, sr, key) = host(&[UNUSED]);
    let guest = xapi.plug(&sr, &xapi.create_vdi(&sr, MIB), "5");
    let _left = plug(&xapi, &sr, &key, DOM0, true);
    thread::sleep(Duration::from_millis(1100));
    let failure = xapi.volume("SR.detach", json!({ "sr": sr })).unwrap_err();
    assert_eq!(failure.code, "SR_BACKEND_FAILURE_16");
    let text = &failure.params[1];
    assert!(text.contains("domain \"5\"") && !text.contains(DOM0), "{text}");
    assert_eq!(guest.connect().read(0, 1).unwrap(), [0], "the guest's disk is not touched");
    assert_eq!(xapi.control_dir().tapdisks().unwrap(), [guest.tapdisk().pid]);
    guest.unplug();
    let _left = plug(&xapi, &sr, &key, MIRROR, false);
    thread::sleep(Duration::from_millis(1100));
    xapi.volume("SR.detach", json!({ "sr": sr })).unwrap();
    assert_eq!(xapi.control_dir().tapdisks().unwrap(), [0; 0]);
}

#[test]
fn a_disk_that_a_migration_left_active_is_resized() {
    let (xapi, sr, key) = host(&[]);
    let mirror = plug(&xapi, &sr, &key, MIRROR, false);
    xapi.volume("Volume.resize", json!({ "sr": sr, "key": key, "new_size": 2 * MIB })).unwrap();
    assert_eq!(mirror.connect().size(), 2 * MIB);
    mirror.unplug();
}

/// Who cannot wait finds in the error what to type; so too for what never ends by itself.
#[test]
fn the_errors_command_ends_an_activation_at_once() {
    for read_only in [true, false] {
        let (xapi, sr, key) = host(&[]);
        plug(&xapi, &sr, &key, DOM0, read_only);
        let refused = [
            destroy(&xapi, &sr, &key),
            xapi.volume("SR.detach", json!({ "sr": sr })),
            Disk::attach_and_activate(&xapi, &sr, &key, "5", !read_only).map(|_| json!(null)),
        ];
        let commands = refused.map(|refused| {
            let text = refused.unwrap_err().params[1].clone();
            let (_, command) = text.rsplit_once(": ").unwrap();
            command.trim_end_matches(')').to_owned()
        });
        assert!(commands.iter().all(|command| *command == commands[0]), "{commands:?}");
        assert!(commands[0].starts_with('/') && commands[0].contains("Datapath.detach"));
        let mut shell = xapi.command("/bin/sh".as_ref());
        let status = shell.args(["-c", commands[0].as_str()]).status().unwrap();
        assert!(status.success(), "{}", commands[0]);
        xapi.datapath(
            "Datapath.detach",
            json!({ "uri": format!("ram://{sr}/{key}"), "domain": "5" }),
        )
        .unwrap();
        destroy(&xapi, &sr, &key).unwrap();
        assert_nothing_left(&xapi, &sr);
    }
}
