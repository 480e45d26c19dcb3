//! SRs and volumes from beginning to end, as the toolstack leads them.

use serde_json::{Value, json};

use super::{MIB, Plugin, SR, key_of};

#[test]
fn an_sr_is_created_attached_described_detached_attached_again_and_destroyed() {
    let plugin = Plugin::new();
    let configuration = plugin.attach(SR);
    assert_eq!(
        configuration,
        json!({"sr_uuid": SR, "name": "scratch", "description": "d", "size": "67108864",
               "host": plugin.host().uuid, "tapdisk": "ram"})
    );
    assert_eq!(
        plugin.ok("SR.stat", json!({"sr": SR})),
        json!({"sr": SR, "uuid": SR, "name": "scratch", "description": "d",
               "free_space": 64 * MIB, "total_space": 64 * MIB, "datasources": [format!("xeno+shm:///xapi-storage-ram-{SR}")],
               "clustered": false, "health": ["Healthy", ""]})
    );
    plugin.ok("SR.set_name", json!({"sr": SR, "new_name": "n2"}));
    plugin.ok("SR.set_description", json!({"sr": SR, "new_description": "d2"}));
    let stat = plugin.ok("SR.stat", json!({"sr": SR}));
    assert_eq!((&stat["name"], &stat["description"]), (&json!("n2"), &json!("d2")));
    let key = plugin.create(MIB);
    plugin.write(&key, 8192, 4096, 7);
    // A block of data, the page of the index that says where it is, and the record.
    assert_eq!(plugin.ok("SR.stat", json!({"sr": SR}))["free_space"], 64 * MIB - 3 * 4096);
    plugin.ok("SR.detach", json!({"sr": SR}));
    plugin.ok("SR.detach", json!({"sr": SR}));
    assert_eq!(plugin.ok("Plugin.ls", json!({})), json!([]));
    let mut again = configuration.clone();
    again["SRmaster"] = "true".into();
    again["uri"] = "file:///dev/null".into();
    plugin.ok("SR.attach", json!({"configuration": again}));
    plugin.ok("SR.attach", json!({"configuration": again}));
    assert_eq!(plugin.ok("Plugin.ls", json!({})), json!([SR]));
    assert_eq!(plugin.byte(&key, 8192), 7);
    plugin.ok("SR.destroy", json!({"sr": SR}));
    assert!(!plugin.root.path().join(SR).exists());
}

#[test]
fn the_toolstacks_self_test_needs_no_size() {
    let plugin = Plugin::new();
    let params = json!({"uuid": "dummySR", "configuration": {"uri": "file:///dev/null"},
                        "name": "dummy name", "description": "dummy description"});
    match plugin.call("SR.create", params) {
        Ok(configuration) => assert_eq!(configuration["size"], (1024 * MIB).to_string()),
        // A machine without that much memory says how much there is.
        Err(refusal) => assert!(refusal.message.contains("device-config:size="), "{refusal:?}"),
    }
}

#[test]
fn a_probe_finds_every_sr_with_what_attaches_it() {
    let plugin = Plugin::new();
    assert_eq!(plugin.ok("SR.probe", json!({"configuration": {}})), json!([]));
    let (one, two) = (plugin.attach(SR), plugin.attach("sr-two"));
    plugin.ok("SR.detach", json!({"sr": "sr-two"}));
    let found = plugin.ok("SR.probe", json!({"configuration": {}}));
    let part = |field: &str| -> Vec<Value> {
        found.as_array().unwrap().iter().map(|found| found[field].clone()).collect()
    };
    assert_eq!(part("configuration"), [one, two.clone()]);
    assert_eq!(part("complete"), [true, true]);
    assert_eq!(part("extra_info"), [json!({"attached": "true"}), json!({"attached": "false"})]);
    assert_eq!(found[1]["sr"]["uuid"], "sr-two");
    let filtered = plugin.ok("SR.probe", json!({"configuration": {"sr_uuid": "sr-two"}}));
    assert_eq!(filtered, json!([found[1]]));
    plugin.ok("SR.attach", json!({"configuration": found[1]["configuration"]}));
}

#[test]
fn a_volume_is_created_described_enlarged_and_destroyed_twice() {
    let plugin = Plugin::with_sr();
    let created = plugin.ok(
        "Volume.create",
        json!({"sr": SR, "name": "n", "description": "d", "size": 5000, "sharable": true}),
    );
    let key = key_of(&created);
    assert_eq!(
        created,
        json!({"key": key, "uuid": key, "name": "n", "description": "d", "read_write": true,
               "sharable": true, "virtual_size": 5120, "physical_utilisation": 0,
               "uri": [format!("ram://{SR}/{key}")], "keys": {"content_id": created["keys"]["content_id"]}, "volume_type": "Data",
               "cbt_enabled": false})
    );
    let with = |more: Value| {
        let mut params = json!({"sr": SR, "key": key});
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        params
    };
    plugin.ok("Volume.set_name", with(json!({"new_name": "n2"})));
    plugin.ok("Volume.set_description", with(json!({"new_description": "d2"})));
    plugin.ok("Volume.set", with(json!({"k": "vdi-type", "v": "user"})));
    plugin.ok("Volume.set", with(json!({"k": "is_a_snapshot", "v": "false"})));
    plugin.ok("Volume.unset", with(json!({"k": "vdi-type"})));
    plugin.ok("Volume.unset", with(json!({"k": "vdi-type"})));
    plugin.ok("Volume.resize", with(json!({"new_size": 9000})));
    plugin.ok("Volume.resize", with(json!({"new_size": 9000})));
    let stat = plugin.volume("stat", &key);
    let mut expected = created.clone();
    for (field, value) in [
        ("name", json!("n2")),
        ("description", json!("d2")),
        ("virtual_size", json!(9216)),
        ("keys", json!({"content_id": stat["keys"]["content_id"], "is_a_snapshot": "false"})),
    ] {
        expected[field] = value;
    }
    assert_eq!(stat, expected);
    assert_ne!(stat["keys"]["content_id"], created["keys"]["content_id"], "it was enlarged");
    assert_eq!(plugin.ok("SR.ls", json!({"sr": SR})), json!([stat]));
    plugin.volume("destroy", &key);
    plugin.volume("destroy", &key);
    assert_eq!(plugin.ok("SR.ls", json!({"sr": SR})), json!([]));
}

#[test]
fn a_size_of_zero_becomes_one_sector() {
    let plugin = Plugin::with_sr();
    let key = plugin.create(0);
    assert_eq!(plugin.volume("stat", &key)["virtual_size"], 512);
}

#[test]
fn the_query_declares_what_works_and_nothing_that_would_harm() {
    let query = Plugin::new().ok("Plugin.query", json!({}));
    assert_eq!(
        (&query["plugin"], &query["required_api_version"], &query["required_cluster_stack"]),
        (&json!("ram"), &json!("5.0"), &json!([]))
    );
    let features: Vec<&str> =
        query["features"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    for harmful in host::features::NEVER {
        assert!(!features.contains(&harmful), "{harmful}");
    }
    let keys: Vec<&String> = query["configuration"].as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        ["description", "host", "name", "save-dir", "size", "sr_uuid", "swap", "tapdisk", "uri"]
    );
}

#[test]
fn diagnostics_tell_who_serves_what() {
    let plugin = Plugin::with_sr();
    let (idle, busy) = (plugin.create(MIB), plugin.create(MIB));
    let _disk = plugin.disk(&busy, false);
    plugin.attach("sr-two");
    plugin.ok("SR.detach", json!({"sr": "sr-two"}));
    let text = plugin.ok("Plugin.diagnostics", json!({}));
    let text = text.as_str().unwrap();
    let line = |start: &str| {
        let mut lines = text.lines().map(str::trim_start);
        lines.find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {text}"))
    };
    assert!(line("memory: ").contains("available"));
    assert!(line("volume-plugin ").contains(", Linux "));
    assert!(line(&format!("SR {SR}")).contains("attached, 0.0 MiB of 64.0 MiB used"));
    assert_eq!(line("2 volumes"), "2 volumes in 2 layers");
    assert!(line("SR sr-two").contains("detached"));
    assert!(line(&format!("volume {idle}")).ends_with("writable, not active"));
    let pid = std::process::id();
    assert!(line(&format!("volume {busy}")).contains(&format!("active in process {pid}, minor 3")));
}

/// SR.stat and the log say that an SR is nearly full before a write is refused.
#[test]
fn an_sr_that_is_nearly_full_says_so_and_what_to_do() {
    let plugin = Plugin::with_sr();
    let key = plugin.create(128 * MIB);
    plugin.write(&key, 0, 59 << 20, 1);
    let health = || plugin.ok("SR.stat", json!({"sr": SR}))["health"].clone();
    assert_eq!(health(), json!(["Healthy", ""]));
    plugin.write(&key, 59 * MIB, 2 << 20, 1);
    let told = health();
    let text = told[1].as_str().unwrap();
    assert_eq!(told[0], "Healthy", "or the PBD could not be plugged");
    for part in [SR, "nearly full", "64 MiB", "61 MiB of data", "xe vdi-destroy", "fstrim"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}
