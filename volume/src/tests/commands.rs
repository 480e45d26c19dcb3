//! The maintenance commands, as a person calls them.

use serde_json::json;

use super::{MIB, Plugin, SR};

/// Runs a command; its exit status and what it printed, wherever.
fn run(plugin: &Plugin, line: &[&str]) -> (u8, String) {
    let smapiv3_plugin::testing::Outcome { status, stdout, stderr, .. } =
        plugin.run(&[&["volume-plugin"], line].concat(), "");
    assert!(stdout.is_empty() != stderr.is_empty(), "{stdout} {stderr}");
    (status, stdout + &stderr)
}

#[test]
fn check_says_that_an_sr_is_sound_or_what_is_wrong() {
    let plugin = Plugin::with_sr();
    let key = plugin.create(MIB);
    plugin.write(&key, 0, 4096, 1);
    assert_eq!(run(&plugin, &["check", "--sr", SR]), (0, format!("SR {SR} is sound\n")));
    let data = plugin.root.path().join(SR).join("data");
    for layer in std::fs::read_dir(data).unwrap() {
        std::fs::remove_file(layer.unwrap().path()).unwrap();
    }
    let (status, text) = run(&plugin, &["check", "--sr", SR]);
    assert_eq!(status, 1);
    assert!(text.contains("is not sound: ") && text.contains(&key), "{text}");
    let (status, text) = run(&plugin, &["check", "--sr", "no-such-sr"]);
    assert!(status == 1 && text.contains("not attached"), "{text}");
}

#[test]
fn gc_says_what_it_freed() {
    let plugin = Plugin::with_sr();
    let key = plugin.create(MIB);
    plugin.write(&key, 0, 8192, 1);
    // What a destroy leaves that was killed after it had committed.
    std::fs::remove_file(plugin.record(&key)).unwrap();
    let freed = |bytes| (0, format!("{bytes} bytes freed in SR {SR}\n"));
    assert_eq!(run(&plugin, &["gc", "--sr", SR]), freed(8192));
    assert_eq!(run(&plugin, &["gc", "--sr", SR]), freed(0));
    assert_eq!(plugin.ok("SR.stat", json!({"sr": SR}))["free_space"], 64 * MIB);
}

#[test]
fn reclaim_destroys_what_was_forgotten_and_spares_what_is_attached() {
    let plugin = Plugin::with_sr();
    plugin.attach("sr-two");
    plugin.ok("SR.detach", json!({"sr": "sr-two"}));
    let (status, text) = run(&plugin, &["srs"]);
    assert!(status == 0 && text.lines().count() == 2 && text.contains("detached"), "{text}");
    let (status, text) = run(&plugin, &["reclaim", "--sr", SR]);
    assert!(status == 1 && text.contains("--force"), "{text}");
    let destroyed = |sr| (0, format!("SR {sr} is destroyed\n"));
    assert_eq!(run(&plugin, &["reclaim", "--sr", "sr-two"]), destroyed("sr-two"));
    let graphs = plugin.config().control.metrics().path().join("metrics");
    assert_eq!(std::fs::read_dir(&graphs).unwrap().count(), 1, "that of the attached one");
    assert_eq!(run(&plugin, &["reclaim", "--sr", SR, "--force"]), destroyed(SR));
    assert_eq!(std::fs::read_dir(&graphs).unwrap().count(), 0);
    assert_eq!(plugin.ok("SR.probe", json!({"configuration": {}})), json!([]));
    let (status, text) = run(&plugin, &["reclaim", "--sr", SR]);
    assert!(status == 1 && text.contains("SR_does_not_exist"), "{text}");
}

/// One damaged volume neither hides the others nor takes the SR out of service; it can be got rid of.
#[test]
fn a_damaged_volume_is_told_everywhere_and_destroyed() {
    let plugin = Plugin::with_sr();
    let (bad, good) = (plugin.create(MIB), plugin.create(MIB));
    plugin.write(&bad, 0, 8192, 1);
    std::fs::write(plugin.record(&bad), "{").unwrap();
    let listed = plugin.ok("SR.ls", json!({"sr": SR}));
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["key"]), (1, &json!(good)));
    let health = &plugin.ok("SR.stat", json!({"sr": SR}))["health"];
    assert_eq!(health[0], "Healthy", "or the PBD could not be plugged");
    let advice = format!("volume-plugin Volume.destroy --sr {SR} --key {bad}");
    let told = |text: &str| {
        assert!(text.contains("1 of the volumes") && text.contains(&advice), "{text}");
    };
    told(health[1].as_str().unwrap());
    let key = json!({"sr": SR, "key": bad});
    plugin.refused("Volume.stat", key, 181, &[plugin.record(&bad).to_str().unwrap(), &advice]);
    for command in ["check", "gc"] {
        let (status, text) = run(&plugin, &[command, "--sr", SR]);
        assert!(status == 1 && text.contains(&advice), "{command}: {text}");
    }
    let diagnostics = plugin.ok("Plugin.diagnostics", json!({}));
    assert!(diagnostics.as_str().unwrap().contains(&advice), "{diagnostics}");
    let line: Vec<&str> = advice.split(' ').collect();
    assert_eq!(plugin.run(&line, "").status, 0);
    assert_eq!(run(&plugin, &["check", "--sr", SR]), (0, format!("SR {SR} is sound\n")));
    // What is in use is the record of the good one.
    let stat = plugin.ok("SR.stat", json!({"sr": SR}));
    assert_eq!(
        (&stat["health"], &stat["free_space"]),
        (&json!(["Healthy", ""]), &json!(64 * MIB - 4096))
    );
}

#[test]
fn a_damaged_sr_is_listed_and_reclaimed_by_force_only() {
    let plugin = Plugin::with_sr();
    plugin.attach("sr-two");
    std::fs::write(plugin.root.path().join("sr-two/meta/sr.json"), "").unwrap();
    let (status, text) = run(&plugin, &["srs"]);
    assert!(status == 0 && text.lines().count() == 2, "{text}");
    assert!(text.contains("SR sr-two: damaged: ") && text.contains("meta/sr.json"), "{text}");
    let diagnostics = plugin.ok("Plugin.diagnostics", json!({}));
    assert!(diagnostics.as_str().unwrap().contains("SR sr-two: damaged: "), "{diagnostics}");
    plugin.refused("SR.stat", json!({"sr": "sr-two"}), 181, &["meta/sr.json", "reclaim"]);
    let (status, text) = run(&plugin, &["reclaim", "--sr", "sr-two"]);
    assert!(status == 1 && text.contains("--force"), "{text}");
    let destroyed = (0, "SR sr-two is destroyed\n".to_owned());
    assert_eq!(run(&plugin, &["reclaim", "--sr", "sr-two", "--force"]), destroyed);
    assert_eq!(run(&plugin, &["srs"]).1.lines().count(), 1);
}

#[test]
fn resize_says_what_the_size_is_now_and_what_a_restart_makes_of_it() {
    let plugin = Plugin::with_sr();
    let resize = |size| run(&plugin, &["resize", "--sr", SR, "--size", size]);
    let (status, text) = resize("32MiB");
    assert_eq!(status, 0, "{text}");
    for part in ["may take 32 MiB now, it was 64 MiB", "names 64 MiB", "size=33554432"] {
        assert!(text.contains(part), "{part:?} is missing in {text:?}");
    }
    assert_eq!(plugin.ok("SR.stat", json!({"sr": SR}))["total_space"], 32 * MIB);
    // xapi attaches it again with the configuration that it knows.
    let known = json!({"sr_uuid": SR, "host": plugin.host().uuid, "size": "64MiB"});
    plugin.ok("SR.attach", json!({"configuration": known}));
    assert_eq!(plugin.ok("SR.stat", json!({"sr": SR}))["total_space"], 32 * MIB);
    assert_eq!(resize("64MiB"), (0, format!("SR {SR} may take 64 MiB now, it was 32 MiB\n")));
    let key = plugin.create(16 * MIB);
    plugin.write(&key, 0, 8 << 20, 1);
    for (size, part) in
        [("4MiB", "8 MiB of data"), ("lots", "--size: \"lots\""), ("1024TiB", "at most")]
    {
        let (status, text) = resize(size);
        assert!(status == 1 && text.contains(part), "{part:?} is missing in {text:?}");
    }
    assert_eq!(plugin.ok("SR.stat", json!({"sr": SR}))["total_space"], 64 * MIB);
}
