//! Which code and which words a call is refused with.

use serde_json::{Value, json};

use super::{MIB, Plugin, SR};

const MISSING: &str = "00000000-0000-8000-8000-000000000000";

/// Calls of every method that is about one SR.
fn calls_on(sr: &str) -> Vec<(&'static str, Value)> {
    let mut calls = vec![
        ("SR.stat", json!({"sr": sr})),
        ("SR.ls", json!({"sr": sr})),
        ("SR.set_name", json!({"sr": sr, "new_name": "n"})),
        ("SR.set_description", json!({"sr": sr, "new_description": "d"})),
        (
            "Volume.create",
            json!({"sr": sr, "name": "n", "description": "", "size": 1, "sharable": false}),
        ),
    ];
    calls.extend(calls_on_volume(sr, "k"));
    calls.push(("Volume.destroy", json!({"sr": sr, "key": "k"})));
    calls
}

/// Calls of every method that needs a volume to be there.
fn calls_on_volume(sr: &str, key: &str) -> Vec<(&'static str, Value)> {
    let one = json!({"sr": sr, "key": key});
    let and = |more: Value| {
        let mut params = one.clone();
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        params
    };
    vec![
        ("Volume.stat", one.clone()),
        ("Volume.snapshot", one.clone()),
        ("Volume.clone", one.clone()),
        ("Volume.data_destroy", one.clone()),
        ("Volume.enable_cbt", one.clone()),
        ("Volume.disable_cbt", one.clone()),
        ("Volume.similar_content", one.clone()),
        ("Volume.copy", and(json!({"dest_sr": sr}))),
        ("Volume.set_name", and(json!({"new_name": "n"}))),
        ("Volume.set_description", and(json!({"new_description": "d"}))),
        ("Volume.set", and(json!({"k": "k", "v": "v"}))),
        ("Volume.unset", and(json!({"k": "k"}))),
        ("Volume.resize", and(json!({"new_size": 1 << 30}))),
        ("Volume.revert", and(json!({"snapshot": key}))),
        ("Volume.compare", and(json!({"key2": key}))),
        ("Volume.compose", and(json!({"key2": "other"}))),
        ("Volume.list_changed_blocks", and(json!({"key2": key, "offset": 0, "length": -1}))),
    ]
}

/// blktap's `ram:` driver takes 500 MiB and not a sector more.
#[test]
fn an_sr_whose_disks_the_hosts_tapdisk_serves_takes_no_larger_ones() {
    const LIMIT: u64 = 500 << 20;
    let plugin = Plugin::with_sr();
    let large = plugin.create(LIMIT + 1);
    let other = "0f0e0d0c-0000-4000-8000-000000000002";
    let configuration = json!({"size": "64MiB", "tapdisk": "blktap"});
    let params =
        json!({"uuid": other, "configuration": configuration, "name": "", "description": ""});
    let configuration = plugin.ok("SR.create", params);
    plugin.ok("SR.attach", json!({"configuration": configuration}));
    let create = |size: u64| json!({"sr": other, "name": "", "description": "", "size": size, "sharable": false});
    let key = plugin.ok("Volume.create", create(LIMIT))["key"].clone();
    let says = ["tapdisk=blktap", "524288000 bytes (500 MiB)"];
    plugin.refused("Volume.create", create(LIMIT + 1), 79, &says);
    let resize = json!({"sr": other, "key": key, "new_size": LIMIT + 1});
    plugin.refused("Volume.resize", resize, 79, &says);
    let copy = json!({"sr": SR, "key": large, "dest_sr": other});
    plugin.refused("Volume.copy", copy, 79, &says);
}

#[test]
fn an_sr_that_is_not_attached_or_not_there() {
    let plugin = Plugin::with_sr();
    plugin.ok("SR.detach", json!({"sr": SR}));
    for sr in [SR, "no-such-sr"] {
        for (method, params) in calls_on(sr) {
            plugin.refused(method, params, 47, &["Sr_not_attached: ", sr, "xe pbd-plug"]);
        }
    }
    plugin.refused("SR.detach", json!({"sr": "no-such-sr"}), 47, &["Sr_not_attached"]);
    plugin.refused("SR.destroy", json!({"sr": "no-such-sr"}), 47, &["SR_does_not_exist"]);
    plugin.refused("SR.stat", json!({"sr": "../x"}), 1, &["\"../x\""]);
}

#[test]
fn a_volume_that_is_not_there() {
    let plugin = Plugin::with_sr();
    let parts = ["Volume_does_not_exist: ", "no-such-key", "xe sr-scan"];
    for (method, params) in calls_on_volume(SR, "no-such-key") {
        plugin.refused(method, params, 144, &parts);
    }
}

#[test]
fn a_volume_that_was_lost_when_the_host_restarted() {
    let plugin = Plugin::new();
    let configuration = plugin.attach(SR);
    let key = plugin.create(MIB);
    std::fs::remove_dir_all(plugin.root.path().join(SR)).unwrap();
    plugin.ok("SR.attach", json!({"configuration": configuration}));
    assert_eq!(plugin.ok("SR.ls", json!({"sr": SR})), json!([]));
    for key in [key.as_str(), MISSING] {
        let params = json!({"sr": SR, "key": key});
        plugin.refused("Volume.stat", params, 144, &["Volume_does_not_exist", "lost", "restarted"]);
    }
    plugin.volume("destroy", &key);
}

#[test]
fn an_sr_in_the_memory_of_another_host() {
    let plugin = Plugin::new();
    let mut configuration = plugin.attach(SR);
    configuration["host"] = "another-host".into();
    let parts = ["another-host", &plugin.host().uuid, "shared=false"];
    plugin.refused("SR.attach", json!({"configuration": configuration}), 47, &parts);
    let create = json!({"uuid": "sr-2", "configuration": {"host": "another-host"}, "name": "",
                        "description": ""});
    plugin.refused("SR.create", create, 1, &parts[..2]);
}

#[test]
fn an_sr_that_exists_or_does_not_fit() {
    let plugin = Plugin::with_sr();
    let create = |uuid: &str, size: &str| json!({"uuid": uuid, "configuration": {"size": size}, "name": "", "description": ""});
    plugin.refused("SR.create", create(SR, "1MiB"), 42, &[SR, "exists"]);
    plugin.refused("SR.create", create("sr-2", "1000TiB"), 44, &["memory", "device-config:size="]);
}

#[test]
fn a_device_config_that_cannot_be_is_told_in_full() {
    let plugin = Plugin::new();
    let create = json!({"uuid": "a/b", "configuration": {"siez": "1", "path": "/p", "size": "-1"},
                        "name": "", "description": ""});
    let parts = [
        "siez",
        "\"/p\"",
        "\"-1\" is not a size",
        "\"a/b\"",
        "size, tapdisk, save-dir, swap, uri, sr_uuid",
    ];
    plugin.refused("SR.create", create, 1, &parts);
    let attach = json!({"configuration": {"uri": "x"}});
    plugin.refused("SR.attach", attach, 115, &["sr_uuid is", "size is", "host is missing"]);
    plugin.refused("SR.probe", json!({"configuration": {"path": "/p"}}), 1, &["path"]);
}

#[test]
fn a_size_that_cannot_be() {
    let plugin = Plugin::with_sr();
    for size in [-1, i64::MIN, i64::MAX, (16 << 40) + 1] {
        let params =
            json!({"sr": SR, "name": "", "description": "", "size": size, "sharable": true});
        plugin.refused("Volume.create", params, 79, &[&size.to_string()]);
    }
    let key = plugin.create(MIB);
    for size in [-1, 0, 4096, i64::MAX] {
        let params = json!({"sr": SR, "key": key, "new_size": size});
        plugin.refused("Volume.resize", params, 79, &[&size.to_string()]);
    }
}

#[test]
fn what_is_active_is_neither_destroyed_nor_reverted_nor_detached() {
    let plugin = Plugin::with_sr();
    let key = plugin.create(MIB);
    let snapshot = super::key_of(&plugin.volume("snapshot", &key));
    let _disk = plugin.disk(&key, false);
    let process = format!("process {}", std::process::id());
    plugin.refused("Volume.destroy", json!({"sr": SR, "key": key}), 24, &[&key, &process]);
    let revert = json!({"sr": SR, "key": key, "snapshot": snapshot});
    plugin.refused("Volume.revert", revert, 24, &[&key, &process]);
    plugin.refused("SR.detach", json!({"sr": SR}), 16, &[&key, &process]);
    plugin.refused("SR.destroy", json!({"sr": SR}), 16, &[&key, &process]);
    plugin.volume("destroy", &snapshot);
}

#[test]
fn an_active_volume_whose_tapdisk_does_not_answer() {
    let plugin = Plugin::with_sr();
    let key = plugin.create(MIB);
    let disk = plugin.disk(&key, false);
    for method in ["Volume.snapshot", "Volume.clone"] {
        plugin.refused(method, json!({"sr": SR, "key": key}), 453, &[&key, "no tapdisk listens"]);
    }
    let resize = json!({"sr": SR, "key": key, "new_size": 2 * MIB});
    plugin.refused("Volume.resize", resize.clone(), 453, &[&key, "no tapdisk listens"]);
    assert_eq!(plugin.ok("SR.ls", json!({"sr": SR})).as_array().unwrap().len(), 1);
    drop(disk);
    plugin.ok("Volume.resize", resize);
    assert_eq!(plugin.volume("stat", &key)["virtual_size"], 2 * MIB);
}

#[test]
fn a_key_that_would_hide_every_volume_from_the_toolstack() {
    let plugin = Plugin::with_sr();
    let set = json!({"sr": SR, "key": plugin.create(0), "k": "is_a_snapshot", "v": "yes"});
    plugin.refused("Volume.set", set, 1, &["is_a_snapshot", "\"yes\""]);
}

#[test]
fn an_sr_of_another_type_is_left_alone() {
    let plugin = Plugin::new();
    let other = plugin.root.path().join("nfs-sr");
    std::fs::create_dir_all(&other).unwrap();
    std::fs::write(other.join("disk.vhd"), "precious").unwrap();
    plugin.refused("SR.destroy", json!({"sr": "nfs-sr"}), 47, &["not a ram SR", "disk.vhd"]);
    let create = json!({"uuid": "nfs-sr", "configuration": {"size": "1MiB"}, "name": "",
                        "description": ""});
    let configuration = plugin.ok("SR.create", create);
    plugin.refused("SR.attach", json!({"configuration": configuration}), 47, &["not a ram SR"]);
    assert!(other.join("disk.vhd").exists());
}

/// A PBD that is made by hand lacks what SR.create adds: the error says where to get it.
#[test]
fn the_attaching_of_a_pbd_that_was_made_by_hand_says_where_its_configuration_is() {
    let plugin = Plugin::with_sr();
    let by_hand = json!({"configuration": {"size": "64MiB"}});
    let parts = ["device-config:sr_uuid is missing", "xe sr-probe-ext type=ram"];
    plugin.refused("SR.attach", by_hand, 115, &parts);
}

#[test]
fn texts_that_are_too_long_are_refused_and_not_repeated_in_full() {
    let plugin = Plugin::with_sr();
    let key = plugin.create(MIB);
    let long = "x".repeat(1 << 20);
    let on = |more: Value| {
        let mut params = json!({"sr": SR, "key": key});
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        params
    };
    for (method, more) in [
        ("Volume.set_name", json!({"new_name": long})),
        ("Volume.set_description", json!({"new_description": long})),
        ("Volume.set", json!({"k": "k", "v": long})),
        ("Volume.set", json!({"k": long, "v": "v"})),
    ] {
        let error = plugin.call(method, on(more)).unwrap_err();
        assert!(error.message.contains("1048576 bytes") && error.message.len() < 300, "{error:?}");
    }
    let new = json!({"uuid": "sr-two", "configuration": {}, "name": long, "description": ""});
    assert!(plugin.call("SR.create", new).unwrap_err().message.len() < 300);
}
