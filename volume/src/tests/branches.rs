//! Snapshots, clones and what changed, on volumes that nobody serves.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{MIB, Plugin, SR, key_of};

/// By which xapi finds volumes with the same bytes.
fn content_id(plugin: &Plugin, key: &str) -> Value {
    plugin.volume("stat", key)["keys"]["content_id"].clone()
}

#[test]
fn a_snapshot_is_read_only_and_keeps_texts_and_tracking_but_no_keys() {
    let plugin = Plugin::with_sr();
    let key = plugin.create(MIB);
    plugin.volume("enable_cbt", &key);
    plugin.ok("Volume.set", json!({"sr": SR, "key": key, "k": "vdi-type", "v": "user"}));
    plugin.write(&key, 0, 4096, 1);
    let snapshot = plugin.volume("snapshot", &key);
    for (field, value) in [
        ("read_write", json!(false)),
        ("name", json!("disk")),
        ("description", json!("about")),
        ("virtual_size", json!(MIB)),
        ("keys", json!({"content_id": content_id(&plugin, &key)})),
        ("cbt_enabled", json!(true)),
        ("volume_type", json!("Data")),
    ] {
        assert_eq!(snapshot[field], value, "{field}");
    }
    let snapshot = key_of(&snapshot);
    assert_eq!(plugin.volume("stat", &snapshot)["uri"][0], format!("ram://{SR}/{snapshot}"));
    plugin.write(&key, 0, 4096, 2);
    assert_eq!((plugin.byte(&key, 0), plugin.byte(&snapshot, 0)), (2, 1));
    let resize = json!({"sr": SR, "key": snapshot, "new_size": 2 * MIB});
    plugin.refused("Volume.resize", resize, 66, &[&snapshot, "snapshot"]);
    plugin.volume("disable_cbt", &key);
    assert_eq!(plugin.volume("stat", &key)["cbt_enabled"], false);
}

#[test]
fn a_clone_goes_its_own_way_and_keeps_no_keys() {
    let plugin = Plugin::with_sr();
    let key = plugin.create(MIB);
    plugin.write(&key, 0, 8192, 1);
    plugin.ok("Volume.set", json!({"sr": SR, "key": key, "k": "is_a_snapshot", "v": "true"}));
    let clone = plugin.volume("clone", &key);
    let keys = json!({"content_id": content_id(&plugin, &key)});
    assert_eq!((&clone["read_write"], &clone["keys"]), (&json!(true), &keys));
    let clone = key_of(&clone);
    plugin.write(&clone, 0, 4096, 2);
    plugin.write(&key, 4096, 4096, 3);
    let bytes = |key: &str| (plugin.byte(key, 0), plugin.byte(key, 4096));
    assert_eq!((bytes(&key), bytes(&clone)), ((1, 3), (2, 1)));
    assert_eq!(plugin.volume("similar_content", &key), json!([clone]));
    plugin.volume("destroy", &key);
    assert_eq!(bytes(&clone), (2, 1));
}

#[test]
fn a_revert_brings_the_contents_back_and_keeps_the_identity() {
    let plugin = Plugin::with_sr();
    let key = plugin.create(MIB);
    plugin.write(&key, 0, 4096, 1);
    let snapshot = key_of(&plugin.volume("snapshot", &key));
    plugin.write(&key, 0, 8192, 2);
    plugin.ok("Volume.set_name", json!({"sr": SR, "key": key, "new_name": "mine"}));
    plugin.ok("Volume.revert", json!({"sr": SR, "snapshot": snapshot, "key": key}));
    assert_eq!((plugin.byte(&key, 0), plugin.byte(&key, 4096)), (1, 0));
    assert_eq!(plugin.volume("stat", &key)["name"], "mine");
    plugin.write(&key, 0, 4096, 3);
    assert_eq!(plugin.byte(&snapshot, 0), 1);
    let wrong = json!({"sr": SR, "snapshot": key, "key": snapshot});
    plugin.refused("Volume.revert", wrong, 1, &[&key, "not a snapshot"]);
}

#[test]
fn ranges_of_a_comparison_are_in_blocks() {
    let plugin = Plugin::with_sr();
    let key = plugin.create(MIB);
    plugin.write(&key, 40960, 8192, 1);
    let snapshot = key_of(&plugin.volume("snapshot", &key));
    plugin.write(&key, 0, 1, 2);
    plugin.write(&key, 45056, 4096, 2);
    let compare = |key: &str, key2: &str| {
        plugin.ok("Volume.compare", json!({"sr": SR, "key": key, "key2": key2}))
    };
    let differing = json!({"blocksize": 4096, "ranges": [[0, 1], [11, 1]]});
    assert_eq!(compare(&key, &snapshot), differing);
    assert_eq!(compare(&key, &key)["ranges"], json!([]));
    let not_empty = json!([[0, 1], [10, 2]]);
    let unrelated = plugin.create(MIB);
    for key2 in [unrelated.as_str(), "no-such-key"] {
        assert_eq!(compare(&key, key2)["ranges"], not_empty);
    }
}

#[test]
fn changed_blocks_begin_with_the_top_bit_and_outlive_the_data() {
    let plugin = Plugin::with_sr();
    let key = plugin.create(2 * MIB);
    let snapshot = key_of(&plugin.volume("snapshot", &key));
    for granule in [0, 9, 31] {
        plugin.write(&key, granule * 65536 + 512, 512, 1);
    }
    let bitmap = |offset: i64, length: i64| {
        let changed = plugin.ok(
            "Volume.list_changed_blocks",
            json!({"sr": SR, "key": snapshot, "key2": key, "offset": offset, "length": length}),
        );
        assert_eq!(changed["granularity"], 65536);
        STANDARD.decode(changed["bitmap"].as_str().unwrap()).unwrap()
    };
    let all = vec![0b1000_0000, 0b0100_0000, 0, 1];
    assert_eq!(bitmap(0, -1), all);
    // Padded to words of 32 bits.
    assert_eq!(bitmap(9 * 65536 + 1, 1), [0b1000_0000, 0, 0, 0]);
    assert_eq!(bitmap(8 * 65536 + 1, 65536), [0b0100_0000, 0, 0, 0]);
    let writable = json!({"sr": SR, "key": key});
    plugin.refused("Volume.data_destroy", writable, 1, &[&key, "not a snapshot", "xe vdi-destroy"]);
    assert_eq!(plugin.byte(&key, 512), 1, "and nothing is lost");
    plugin.volume("data_destroy", &snapshot);
    plugin.volume("data_destroy", &snapshot);
    assert_eq!(plugin.volume("stat", &snapshot)["volume_type"], "CBT_Metadata");
    assert_eq!(bitmap(0, -1), all);
    let clone = json!({"sr": SR, "key": snapshot});
    plugin.refused("Volume.clone", clone, 66, &[&snapshot, "destroyed"]);
    for (offset, length) in [(-1, -1), (0, -2), (0, i64::MAX), (i64::MAX, 1)] {
        let params = json!({"sr": SR, "key": snapshot, "key2": key, "offset": offset,
                            "length": length});
        plugin.refused("Volume.list_changed_blocks", params, 1, &[&offset.to_string()]);
    }
}

#[test]
fn a_child_is_composed_over_its_parent() {
    let plugin = Plugin::with_sr();
    let base = plugin.create(MIB);
    plugin.write(&base, 0, 12288, 1);
    let (parent, child) =
        (key_of(&plugin.volume("clone", &base)), key_of(&plugin.volume("clone", &base)));
    plugin.write(&parent, 0, 8192, 2);
    plugin.write(&child, 4096, 4096, 3);
    plugin.ok("Volume.compose", json!({"sr": SR, "key": child, "key2": parent}));
    let bytes: Vec<u8> = [0, 4096, 8192].map(|offset| plugin.byte(&child, offset)).into();
    assert_eq!(bytes, [2, 3, 1]);
    plugin.refused("Volume.stat", json!({"sr": SR, "key": parent}), 144, &[&parent]);
}

#[test]
fn a_copy_goes_into_any_ram_sr_of_this_host_and_nowhere_else() {
    let plugin = Plugin::with_sr();
    plugin.attach("sr-two");
    let key = plugin.create(MIB);
    plugin.write(&key, 4096, 4096, 9);
    let copy = |dest_sr: &str| json!({"sr": SR, "key": key, "dest_sr": dest_sr});
    let here = key_of(&plugin.ok("Volume.copy", copy(SR)));
    assert_eq!(plugin.byte(&here, 4096), 9);
    let there = plugin.ok("Volume.copy", copy("sr-two"));
    assert_eq!(there["uri"][0], format!("ram://sr-two/{}", key_of(&there)));
    assert_eq!((&there["name"], &there["read_write"]), (&json!("disk"), &json!(true)));
    assert_eq!(there["physical_utilisation"], 4096);
    for dest in ["0a0b", "nfs://x/y"] {
        plugin.refused("Volume.copy", copy(dest), 38, &["Unimplemented: ", dest]);
    }
    assert_eq!(plugin.ok("SR.ls", json!({"sr": SR})).as_array().unwrap().len(), 2);
}
