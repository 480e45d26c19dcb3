//! The life of an SR and a disk in it, in the order in which xapi lives it.

use end_to_end::{Disk, Xapi, tools};
use serde_json::json;

use crate::MIB;
use crate::maintenance::maintain;

#[test]
fn what_is_written_is_read_after_the_sr_was_detached() {
    written_and_read(&Xapi::new());
}

/// The same where SRs are directories, as for ordinary users.
#[test]
fn so_it_is_without_mounts() {
    let xapi = Xapi::with(&[("XAPI_RAM_MOUNT", "never")]);
    written_and_read(&xapi);
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(xapi.root().to_str().unwrap()), "nothing was mounted");
}

/// Writes through one client and reads through another, over a detach and attach of the SR.
fn written_and_read(xapi: &Xapi) {
    if !tools::present(&["nbdcopy", "qemu-img"]) {
        return;
    }
    let configuration = xapi.create_sr_only("256MiB");
    for key in ["sr_uuid", "name", "description", "size", "host"] {
        assert!(configuration[key].is_string(), "{key} is needed after a reboot: {configuration}");
    }
    let sr = xapi.attach_sr(&configuration);
    let key = xapi.create_vdi(&sr, 100 * MIB);
    let file = xapi.root().join("image");
    std::fs::write(&file, tools::noise(1, 100 << 20)).unwrap();
    let file = file.to_str().unwrap();

    let disk = xapi.plug(&sr, &key, "u0_test");
    tools::run("nbdcopy", &[file, &disk.nbd()]);
    disk.unplug();
    xapi.volume("SR.detach", json!({ "sr": sr })).unwrap();
    assert_eq!(xapi.attach_sr(&configuration), sr);
    let disk = Disk::plug(xapi, &sr, &key, "7", true).unwrap();
    tools::run("qemu-img", &["compare", "-f", "raw", "-F", "raw", file, &disk.nbd()]);
    disk.unplug();

    let volume = json!({ "sr": sr, "key": key });
    xapi.volume("Volume.destroy", volume.clone()).unwrap();
    // With a clone-on-boot key xapi destroys the same volume twice.
    xapi.volume("Volume.destroy", volume).unwrap();
    assert_eq!(xapi.used(&sr), 0);
    // xe sr-destroy attaches once more, and sends no detach afterwards.
    let sr = xapi.attach_sr(&configuration);
    xapi.volume("SR.destroy", json!({ "sr": sr })).unwrap();
    assert!(!xapi.sr_dir(&sr).exists(), "nothing is left of a destroyed SR");
}

/// A restart of the host loses everything in memory without a call to a plugin.
#[test]
fn after_a_reboot_the_sr_attaches_empty_and_the_lost_disk_is_named() {
    let xapi = Xapi::new();
    let configuration = xapi.create_sr_only("64MiB");
    let sr = xapi.attach_sr(&configuration);
    let key = xapi.create_vdi(&sr, MIB);
    for mount in ["data", "meta"] {
        let place = xapi.sr_dir(&sr).join(mount);
        let _not_root = rustix::mount::unmount(&place, rustix::mount::UnmountFlags::empty());
    }
    std::fs::remove_dir_all(xapi.sr_dir(&sr)).unwrap();

    assert_eq!(xapi.attach_sr(&configuration), sr);
    assert_eq!(xapi.volume("SR.ls", json!({ "sr": sr })).unwrap(), json!([]));
    let lost = xapi.stat(&sr, &key).unwrap_err();
    assert!(lost.params[1].contains("were lost when the host restarted"), "{lost}");
    assert!(lost.params[1].contains(&format!("xe sr-scan uuid={sr}")), "{lost}");
    // What xapi does with a disk that it believes in: this must not stand in the way.
    xapi.volume("Volume.destroy", json!({ "sr": sr, "key": key })).unwrap();
}

/// SR.probe finds an SR that xe sr-forget has left behind, and a command frees it.
#[test]
fn a_forgotten_sr_is_probed_and_reclaimed() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let found = xapi.volume("SR.probe", json!({ "configuration": {} })).unwrap();
    assert_eq!(found[0]["configuration"]["sr_uuid"], json!(sr), "{found}");
    assert_eq!(found[0]["complete"], true);
    // Its configuration is good for attaching it.
    assert_eq!(xapi.attach_sr(&found[0]["configuration"]), sr);
    maintain(&xapi, &["reclaim", "--sr", &sr, "--force"]).success();
    assert_eq!(xapi.volume("SR.probe", json!({ "configuration": {} })).unwrap(), json!([]));
    assert!(!xapi.sr_dir(&sr).exists());
}

/// Names, descriptions, keys and sizes are what they were set to, also for SR.ls.
#[test]
fn what_is_set_is_told() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    xapi.volume("SR.set_name", json!({ "sr": sr, "new_name": "fast" })).unwrap();
    xapi.volume("SR.set_description", json!({ "sr": sr, "new_description": "very" })).unwrap();
    let stat = xapi.volume("SR.stat", json!({ "sr": sr })).unwrap();
    assert_eq!((&stat["name"], &stat["description"]), (&json!("fast"), &json!("very")));
    assert_eq!(stat["total_space"], json!(64 * MIB));

    let key = xapi.create_vdi(&sr, 0);
    let at = |more: serde_json::Value| {
        let mut params = json!({ "sr": sr, "key": key });
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        params
    };
    xapi.volume("Volume.set_name", at(json!({ "new_name": "n" }))).unwrap();
    xapi.volume("Volume.set_description", at(json!({ "new_description": "d" }))).unwrap();
    xapi.volume("Volume.set", at(json!({ "k": "a", "v": "1" }))).unwrap();
    xapi.volume("Volume.set", at(json!({ "k": "b", "v": "2" }))).unwrap();
    xapi.volume("Volume.unset", at(json!({ "k": "a" }))).unwrap();
    xapi.volume("Volume.unset", at(json!({ "k": "never set" }))).unwrap();
    xapi.volume("Volume.resize", at(json!({ "new_size": 5000 }))).unwrap();
    let listed = xapi.volume("SR.ls", json!({ "sr": sr })).unwrap();
    let volume = &listed[0];
    assert_eq!(*volume, xapi.stat(&sr, &key).unwrap());
    assert_eq!(volume["name"], "n");
    assert_eq!(volume["description"], "d");
    let id = &volume["keys"]["content_id"];
    assert_eq!(volume["keys"], json!({ "content_id": id, "vdi-type": "user", "b": "2" }));
    assert_eq!(volume["virtual_size"], 5120);
}
