//! The maintenance commands, as a person calls them.

use serde_json::json;

use super::{MIB, Plugin, SR};

/// Runs a command; its exit status and what it printed, wherever.
fn run(plugin: &Plugin, line: &[&str]) -> (u8, String) {
    let (status, stdout, stderr) = plugin.run(&[&["volume-plugin"], line].concat(), "");
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
    assert_eq!(run(&plugin, &["reclaim", "--sr", SR, "--force"]), destroyed(SR));
    assert_eq!(plugin.ok("SR.probe", json!({"configuration": {}})), json!([]));
    let (status, text) = run(&plugin, &["reclaim", "--sr", SR]);
    assert!(status == 1 && text.contains("SR_does_not_exist"), "{text}");
}
