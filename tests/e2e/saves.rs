//! Saves of SRs that are in use, by the installed programs; those of idle ones are tested with the volume plugin.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use end_to_end::{Xapi, tools};
use scratch::Scratch;
use serde_json::{Value, json};

use crate::MIB;
use crate::maintenance::{assert_sound, maintain};

/// So often the SR is saved.
const SAVES: usize = 6;

/// The number at the beginning of a volume.
fn number(xapi: &Xapi, sr: &str, key: &str) -> u64 {
    let disk = xapi.plug(sr, key, "7");
    let bytes = disk.connect().read(0, 8).unwrap();
    disk.unplug();
    u64::from_ne_bytes(bytes.try_into().expect("eight bytes"))
}

/// Makes an SR of its newest save, on a host of its own.
fn restored(sr: &str, saves: &Path) -> Xapi {
    let other = Xapi::new();
    maintain(&other, &["restore", "--sr", sr, "--from", saves.to_str().unwrap()]).success();
    let found = other.volume("SR.probe", json!({"configuration": {}})).unwrap();
    let configuration: &Value = &found[0]["configuration"];
    assert_eq!(other.attach_sr(configuration), sr);
    other
}

/// A writer puts a number into one disk and, once that is acknowledged, into another one. Whatever moment a save
/// keeps, the second disk has no number that the first one lacks, and at most one less.
#[test]
fn a_save_has_all_disks_as_they_were_at_one_moment() {
    let xapi = Xapi::new();
    let saves = Scratch::on_disk();
    let sr = xapi.create_sr("1GiB");
    let keys = [xapi.create_vdi(&sr, 8 * MIB), xapi.create_vdi(&sr, 8 * MIB)];
    let disks = keys.each_ref().map(|key| xapi.plug(&sr, key, "5"));
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let to = saves.path().to_str().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut clients = disks.each_ref().map(|disk| disk.connect());
            let mut number = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                for client in &mut clients {
                    client.write(0, &number.to_ne_bytes().repeat(512)).unwrap();
                }
                written.store(number, Ordering::Release);
            }
        });
        for _ in 0..SAVES {
            let before = written.load(Ordering::Acquire);
            maintain(&xapi, &["save", "--sr", &sr, "--to", to]).success();
            let after = written.load(Ordering::Acquire);
            let other = restored(&sr, saves.path());
            let [first, second] = keys.each_ref().map(|key| number(&other, &sr, key));
            assert!(first == second || first == second + 1, "{second} was written after {first}");
            assert!((before..=after + 1).contains(&first), "{first} of {before} to {after}");
            assert_sound(&other, &sr);
        }
        stop.store(true, Ordering::Relaxed);
    });
    disks.into_iter().for_each(|disk| disk.unplug());
    maintain(&xapi, &["gc", "--sr", &sr]).success();
    assert_eq!(xapi.data_in_use(&sr), 2 * 4096, "no memory stays with saves that are over");
    assert_sound(&xapi, &sr);
}

/// On a terminal a bar shows how far a save is; the answer stands below it.
#[test]
fn a_person_at_a_terminal_sees_how_far_a_save_is() {
    if !tools::present(&["script"]) {
        return;
    }
    let xapi = Xapi::new();
    let saves = Scratch::on_disk();
    let sr = xapi.create_sr("1GiB");
    let key = xapi.create_vdi(&sr, 64 * MIB);
    let disk = xapi.plug(&sr, &key, "5");
    disk.connect().write(0, &tools::noise(1, 32 << 20)).unwrap();
    disk.unplug();
    let to = saves.path().to_str().unwrap();
    let plugin = xapi.volume_plugin();
    let line = format!("{} save --sr {sr} --to {to}", plugin.get_program().to_str().unwrap());
    let recording = saves.path().join("terminal");
    let mut script = std::process::Command::new("script");
    script.args(["-q", "-e", "-c", &line]).arg(&recording).env("TERM", "xterm");
    for (name, value) in plugin.get_envs() {
        script.env(name, value.unwrap_or_default());
    }
    let output = script.output().unwrap();
    let seen = std::fs::read_to_string(&recording).unwrap();
    assert!(output.status.success(), "{seen}");
    for part in [&format!("saving SR {sr} ["), "100% of 32.00 MiB", "of data", "\u{1b}["] {
        assert!(seen.contains(part), "{part:?} is not in {seen:?}");
    }
    // It moves on, and as far as it says: each bar is as long as the percentage before it.
    let mut last = (0, 0);
    let mut shown = 0;
    for bar in seen.split(&format!("saving SR {sr} [")).skip(1) {
        let (bar, rest) = bar.split_once("] ").expect("a whole bar");
        let percent: usize = rest.split_once('%').unwrap().0.trim().parse().unwrap();
        let length = bar.matches('=').count() + bar.matches('>').count();
        // The percentage is rounded, the bar is not; its head takes one more column, until it is full.
        let column = |per_mille: usize| (30 * per_mille / 1000 + 1).min(30);
        let columns = column((10 * percent).saturating_sub(5))..=column(10 * percent + 5);
        assert!(
            columns.contains(&length) || (percent, length) == (0, 0),
            "{length} of 30 at {percent} %: {seen:?}"
        );
        assert!((percent, length) >= last, "it goes back: {seen:?}");
        last = (percent, length);
        shown += 1;
    }
    assert!(last.0 == 100 && shown > 1, "{shown} times, up to {last:?}: {seen:?}");
    // The bar takes its line to the end, and the answer follows in the next one.
    let answer = seen.rsplit("0s left").next().unwrap_or_default();
    assert!(answer.trim_start().starts_with(&format!("SR {sr} is saved in")), "{answer:?}");
    // Without a terminal there is the answer, and nothing else.
    let output = xapi.volume_plugin().args(["save", "--sr", &sr, "--to", to]).output().unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 1);
}

/// Whether this process has `CAP_SYS_RESOURCE`, number 24 of `include/uapi/linux/capability.h`: as root on a host,
/// and not in every container.
fn may_raise_limits() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(effective.trim(), 16).unwrap() & 1 << 24 != 0
}

/// Each volume takes a descriptor while its SR is saved. As root the plugin gets as many as it needs; where it may not,
/// it says how many it needs, and nothing has changed.
#[test]
fn a_save_of_many_volumes_has_the_descriptors_it_needs_or_says_so() {
    const VOLUMES: usize = 300;
    if !tools::present(&["setpriv"]) {
        return;
    }
    let xapi = Xapi::new();
    let saves = Scratch::on_disk();
    let sr = xapi.create_sr("1GiB");
    let key = xapi.create_vdi(&sr, MIB);
    for _ in 1..VOLUMES {
        maintain(&xapi, &["Volume.clone", "--sr", &sr, "--key", &key]).success();
    }
    // One of them is in use.
    let disk = xapi.plug(&sr, &key, "5");
    disk.connect().write(0, &7_u64.to_ne_bytes().repeat(512)).unwrap();
    let plugin = xapi.volume_plugin();
    let program = plugin.get_program().to_str().unwrap();
    let to = saves.path().to_str().unwrap();
    let line = format!("ulimit -n 256; exec {program} save --sr {sr} --to {to}");
    let save = |privileges: &[&str]| {
        let mut command = std::process::Command::new("setpriv");
        command.args(privileges).args(["sh", "-c", &line]);
        command.envs(plugin.get_envs().map(|(name, value)| (name, value.unwrap_or_default())));
        command.output().unwrap()
    };
    let may_raise = may_raise_limits();
    let refused = save(if may_raise { &["--bounding-set=-sys_resource"] } else { &[] });
    let said = String::from_utf8(refused.stderr).unwrap();
    for part in ["300 volumes", "may open 256 here", "ulimit -n 400"] {
        assert!(said.contains(part), "{part:?} is not in {said:?}");
    }
    assert!(!saves.path().join(&sr).exists(), "a refused save has left something");
    if may_raise {
        let saved = save(&[]);
        assert!(saved.status.success(), "{saved:?}");
    } else {
        maintain(&xapi, &["save", "--sr", &sr, "--to", to]).success();
    }
    disk.unplug();
    let other = restored(&sr, saves.path());
    assert_eq!(number(&other, &sr, &key), 7);
    let listed = other.volume("SR.ls", json!({ "sr": sr })).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), VOLUMES);
    assert_sound(&other, &sr);
}
