//! SRs with `device-config:save-dir`: a detach, a host that restarts, and the attach that follows, as xapi calls
//! them.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use scratch::Scratch;
use serde_json::{Value, json};

use super::{MIB, Plugin, SR, key_of};

/// A plugin, a directory on a disk, and the configuration of an attached SR that is saved there.
struct Saved {
    plugin: Plugin,
    directory: Scratch,
    configuration: Value,
}

impl Saved {
    fn new() -> Self {
        let (plugin, directory) = (Plugin::new(), Scratch::on_disk());
        let save_dir = directory.path().to_str().unwrap();
        let configuration = plugin.ok(
            "SR.create",
            json!({
                "uuid": SR,
                "configuration": {"size": "64MiB", "save-dir": save_dir},
                "name": "kept",
                "description": "d",
            }),
        );
        assert_eq!(configuration["save-dir"], save_dir);
        let saved = Self { plugin, directory, configuration };
        saved.attach();
        saved
    }

    /// With two saves: in the older one the first byte of the volume is 1, in the newer one 2. It is detached. The
    /// key.
    fn twice() -> (Self, String) {
        let saved = Self::new();
        let key = saved.plugin.create(MIB);
        saved.plugin.write(&key, 0, 4096, 1);
        saved.detach();
        saved.attach();
        saved.plugin.write(&key, 0, 4096, 2);
        saved.detach();
        (saved, key)
    }

    fn attach(&self) {
        self.plugin.ok("SR.attach", json!({"configuration": self.configuration}));
    }

    fn detach(&self) {
        self.plugin.ok("SR.detach", json!({"sr": SR}));
    }

    /// What a restart of the host does.
    fn restart(&self) {
        fs::remove_dir_all(self.plugin.root.path().join(SR)).unwrap();
    }

    fn health(&self) -> String {
        let health = &self.plugin.ok("SR.stat", json!({"sr": SR}))["health"];
        assert_eq!(health[0], "Healthy");
        health[1].as_str().unwrap().to_owned()
    }

    fn ls(&self) -> Value {
        self.plugin.ok("SR.ls", json!({"sr": SR}))
    }

    fn content_id(&self, key: &str) -> String {
        self.plugin.volume("stat", key)["keys"]["content_id"].as_str().unwrap().to_owned()
    }

    fn files(&self) -> PathBuf {
        self.directory.path().join(SR)
    }

    fn run(&self, line: &[&str]) -> (u8, String) {
        let out = self.plugin.run(&[&["volume-plugin"], line].concat(), "");
        (out.status, out.stdout + &out.stderr)
    }
}

#[test]
fn a_detached_sr_comes_back_after_a_restart_with_all_that_was_in_it() {
    let saved = Saved::new();
    let plugin = &saved.plugin;
    let key = plugin.create(8 * MIB);
    plugin.write(&key, 0, 70_000, 1);
    let snapshot = key_of(&plugin.volume("snapshot", &key));
    plugin.write(&key, 4096, 4096, 2);
    plugin.ok("Volume.set", json!({"sr": SR, "key": key, "k": "purpose", "v": "a test"}));
    let before = saved.ls();
    saved.detach();
    saved.restart();
    saved.attach();
    assert_eq!(saved.ls(), before);
    assert_eq!([plugin.byte(&key, 0), plugin.byte(&key, 4096)], [1, 2]);
    assert_eq!(plugin.byte(&snapshot, 4096), 1);
    assert_eq!(saved.health(), "");
    assert_eq!(saved.run(&["check", "--sr", SR]), (0, format!("SR {SR} is sound\n")));
    assert_eq!(plugin.ok("SR.stat", json!({"sr": SR}))["name"], "kept");
}

#[test]
fn without_a_restart_the_memory_wins() {
    let (saved, key) = Saved::twice();
    saved.plugin.ok("SR.detach", json!({"sr": SR}));
    saved.attach();
    assert_eq!(saved.plugin.byte(&key, 0), 2);
}

#[test]
fn after_a_loss_of_power_health_says_that_the_disks_are_as_they_were_saved() {
    let saved = Saved::new();
    let plugin = &saved.plugin;
    let key = plugin.create(MIB);
    plugin.write(&key, 0, 4096, 1);
    let snapshot = key_of(&plugin.volume("snapshot", &key));
    saved.detach();
    saved.attach();
    plugin.write(&key, 0, 4096, 2);
    let ids = [&key, &snapshot].map(|key| saved.content_id(key));
    saved.restart();
    saved.attach();
    assert_eq!(plugin.byte(&key, 0), 1);
    let health = saved.health();
    for part in ["stopped without saving it", "in use since", "as they were saved at"] {
        assert!(health.contains(part), "{part} is not in {health}");
    }
    assert_ne!(saved.content_id(&key), ids[0]);
    assert_eq!(saved.content_id(&snapshot), ids[1], "a snapshot does not change");
    // Saved and attached again, it is the last state.
    saved.detach();
    saved.restart();
    saved.attach();
    assert_eq!(saved.health(), "");
}

#[test]
fn a_damaged_save_is_told_and_the_one_before_taken_and_without_one_the_attach_fails() {
    let (saved, key) = Saved::twice();
    saved.restart();
    let newest = saved.files().join("00000002.manifest");
    let manifest = fs::read(&newest).unwrap();
    fs::write(&newest, &manifest[..manifest.len() / 2]).unwrap();
    saved.attach();
    assert_eq!(saved.plugin.byte(&key, 0), 1);
    let health = saved.health();
    assert!(health.contains("00000002.manifest is damaged"), "{health}");
    saved.restart();
    fs::remove_file(saved.files().join("00000001.data")).unwrap();
    let attach = json!({"configuration": saved.configuration});
    let parts = ["00000002.manifest is damaged", "00000001.data is missing", "move", SR];
    saved.plugin.refused("SR.attach", attach, 181, &parts);
    assert_eq!(saved.plugin.ok("SR.probe", json!({"configuration": {}})), json!([]));
}

#[test]
fn a_save_that_fails_keeps_the_sr_attached_and_says_how_to_go_on() {
    let saved = Saved::new();
    let plugin = &saved.plugin;
    let (bad, good) = (plugin.create(MIB), plugin.create(MIB));
    plugin.write(&good, 0, 4096, 1);
    saved.detach();
    saved.attach();
    plugin.write(&good, 0, 4096, 2);
    fs::write(plugin.record(&bad), "{").unwrap();
    let detach = json!({"sr": SR});
    let advice = format!("volume-plugin at-detach --sr {SR} --incomplete");
    let give_up = format!("volume-plugin at-detach --sr {SR} --without-save");
    let parts = ["stays attached", &bad, &advice, &give_up];
    plugin.refused("SR.detach", detach.clone(), 181, &parts);
    assert_eq!(plugin.byte(&good, 0), 2, "it is attached");
    let line: Vec<&str> = advice.split(' ').collect();
    let (status, text) = saved.run(&line[1..]);
    assert!(status == 0 && text.contains("without its damaged volumes"), "{text}");
    saved.detach();
    saved.restart();
    saved.attach();
    assert_eq!((saved.ls().as_array().unwrap().len(), plugin.byte(&good, 0)), (1, 2));
}

#[test]
fn an_sr_that_cannot_be_saved_at_all_is_detached_without_when_that_is_said() {
    let saved = Saved::new();
    let key = saved.plugin.create(MIB);
    saved.plugin.write(&key, 0, 4096, 1);
    // Something is in the way of the directory.
    fs::remove_dir_all(saved.files()).unwrap();
    symlink("/dev/full", saved.files()).unwrap();
    let parts = ["--without-save", "stays attached", "File exists"];
    saved.plugin.refused("SR.detach", json!({"sr": SR}), 200, &parts);
    assert_eq!(saved.run(&["at-detach", "--sr", SR]).0, 1);
    assert_eq!(saved.run(&["at-detach", "--sr", SR, "--without-save"]).0, 0);
    saved.detach();
}

#[test]
fn a_directory_that_keeps_nothing_over_a_restart_is_refused() {
    let plugin = Plugin::new();
    let create = |save_dir: &str, number, part: &str| {
        let configuration = json!({"size": "64MiB", "save-dir": save_dir});
        let params =
            json!({"uuid": SR, "configuration": configuration, "name": "n", "description": ""});
        plugin.refused("SR.create", params, number, &[save_dir, part]);
    };
    create("var/lib/ram", 1, "is no absolute path");
    create("/nonexistent/saves", 1, "does not exist");
    create("/etc/passwd", 1, "is no directory");
    create("/dev/shm", 1, "lies in memory");
    create("/", 1, "is the mount point of a disk");
}

#[test]
fn a_destroyed_sr_leaves_no_saves_and_a_reclaimed_one_is_restored_by_hand() {
    let (saved, key) = Saved::twice();
    saved.attach();
    let from = saved.directory.path().to_str().unwrap();
    let restore = ["restore", "--sr", SR, "--from", from];
    let (status, text) = saved.run(&restore);
    assert!(status == 1 && text.contains("reclaim"), "the memory is not overwritten: {text}");
    saved.detach();
    assert_eq!(saved.run(&["reclaim", "--sr", SR]).0, 0);
    let (status, text) = saved.run(&[&restore[..], &["--check"]].concat());
    assert!(status == 0 && text.lines().count() == 2 && text.contains("sound"), "{text}");
    let (status, text) = saved.run(&[&restore[..], &["--generation", "9"]].concat());
    assert!(status == 1 && text.contains("generations: 3, 2"), "{text}");
    let (status, text) = saved.run(&[&restore[..], &["--generation", "2"]].concat());
    assert!(status == 0 && text.contains("xe pbd-plug"), "{text}");
    saved.attach();
    assert_eq!(saved.plugin.byte(&key, 0), 2);
    saved.plugin.ok("SR.destroy", json!({"sr": SR}));
    assert!(!saved.files().exists());
}

/// Each volume takes a descriptor while the SR is saved.
#[test]
fn an_sr_with_more_volumes_than_a_process_has_descriptors_is_saved_and_restored() {
    const VOLUMES: usize = 1100;
    let saved = Saved::new();
    let sr = store::Sr::open(&saved.plugin.host(), SR).unwrap();
    let mut keys: Vec<String> =
        (0..VOLUMES).map(|_| store::testing::create(&sr, 1 << 20).to_string()).collect();
    keys.sort();
    saved.plugin.write(&keys[VOLUMES / 2], 0, 4096, 7);
    let before = saved.ls();
    // As a shell may have it (ulimit -n 256), or systemd.
    let few = || {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(256), ..limit }).unwrap();
    };
    few();
    let (status, text) = saved.run(&["save", "--sr", SR]);
    assert!(status == 0 && text.contains("generation 1"), "{text}");
    assert_eq!(saved.run(&["check", "--sr", SR]).0, 0);
    few();
    saved.detach();
    saved.restart();
    few();
    saved.attach();
    assert_eq!(saved.ls(), before);
    assert_eq!(saved.plugin.byte(&keys[VOLUMES / 2], 0), 7);
    assert_eq!(saved.run(&["check", "--sr", SR]).0, 0);
}
