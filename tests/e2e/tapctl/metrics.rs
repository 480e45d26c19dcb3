//! Statistics: what `tap-ctl stats` prints, and the files that the host's metrics daemon maps.

use std::{fs, os::unix::fs::MetadataExt};

use end_to_end::programs;
use nbd::client::{Client as Nbd, Wish};
use serde_json::{Value, json};
use tapctl::{MetricsDir, Open, metrics::Counters};

use super::{Host, Tapdisk, eventually, texts};

#[test]
fn stats_are_the_json_that_tools_parse() {
    let host = Host::new();
    let tapdisk = host.serve("image", 65536);
    let path = host.xapi.root().join("image").display().to_string();
    let on = tapdisk.on();
    // Ours stands behind the fields of blktap.
    let stats = || {
        let text = texts(&host.ctl(&Tapdisk::command(&on, "stats", &[]))).0;
        let (blktaps, ours) = text.split_once(", \"longest_pass_us\": ").unwrap();
        let (ours, end) = ours.split_once(" }").unwrap();
        let (microseconds, copies) = ours.split_once(", \"ring_copies\": ").unwrap();
        assert!([microseconds, copies].iter().all(|it| it.parse::<u64>().is_ok()), "{text}");
        format!("{blktaps} }}{end}")
    };
    let text = |hits: &str, fails: &str| {
        format!(
            "{{ \"name\": \"ram:{path}\", \"secs\": {hits}, \"images\": [ {{ \"name\": \
             \"{path}\", \"hits\": {hits}, \"fail\": {fails}, \"driver\": {{ \"type\": 5, \
             \"name\": \"ram\", \"status\": null }} }} ], \"FIXME_enospc_redirect_count\": 0, \
             \"nbd_mirror_failed\": 0, \"reqs_outstanding\": 0, \"read_caching\": \"false\" }}\n\n"
        )
    };
    assert_eq!(stats(), text("[ 0, 0 ]", "[ 0, 0 ]"));
    let mut client = host.connect(&tapdisk);
    client.read(0, 4096).unwrap();
    client.write(0, &[1; 1024]).unwrap();
    assert_eq!(stats(), text("[ 8, 2 ]", "[ 0, 0 ]"));
    // Sectors of what was closed count for the VBD, and not for what is opened next.
    tapdisk.control.close(tapdisk.minor).unwrap();
    let closed: Value = serde_json::from_str(&stats()).unwrap();
    assert_eq!((&closed["secs"], &closed["images"]), (&json!([8, 2]), &json!([])));
    tapdisk.control.open(tapdisk.minor, Open::new(format!("ram:{path}"))).unwrap();
    let again: Value = serde_json::from_str(&stats()).unwrap();
    assert_eq!(again["secs"], json!([8, 2]));
    assert_eq!(again["images"][0]["hits"], json!([0, 0]));
    let mut all: Value = serde_json::from_str(&tapdisk.control.stats(u16::MAX).unwrap()).unwrap();
    for ours in ["longest_pass_us", "ring_copies"] {
        all[0].as_object_mut().unwrap().remove(ours).unwrap();
    }
    assert_eq!(all, json!([again]));
}

/// blktap closes the image: `images` is empty while it is paused, and `hits` begin at 0 afterwards.
#[test]
fn a_paused_disk_keeps_its_image_and_counters_in_stats() {
    let host = Host::new();
    let tapdisk = host.serve("image", 65536);
    let (minor, control) = (tapdisk.minor, &tapdisk.control);
    let stats = || -> Value { serde_json::from_str(&control.stats(minor).unwrap()).unwrap() };
    let mut client = host.connect(&tapdisk);
    client.read(0, 4096).unwrap();
    control.pause(minor).unwrap();
    let paused = stats();
    control.resume(minor, tapctl::Resume::default()).unwrap();
    for stats in [paused, stats()] {
        assert_eq!(stats["secs"], json!([8, 0]));
        assert_eq!(stats["images"][0]["hits"], json!([8, 0]));
    }
    client.write(0, &[1; 512]).unwrap();
    assert_eq!(stats()["images"][0]["hits"], json!([8, 1]));
}

fn counters(path: &std::path::Path) -> Counters {
    let bytes = fs::read(path).unwrap();
    assert_eq!(bytes.len(), 4096, "a page");
    assert!(bytes[96..].iter().all(|&byte| byte == 0));
    Counters::parse(&bytes).unwrap()
}

#[test]
fn files_count_what_was_served_and_go_with_it() {
    let host = Host::new();
    let tapdisk = host.serve("image", 65536);
    let (pid, minor) = (tapdisk.pid, tapdisk.minor);
    let metrics = host.dir.metrics().clone();
    let mode = fs::metadata(metrics.process(pid)).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o700);
    let files = [metrics.vdi(pid, minor), metrics.nbd(pid, minor), metrics.nbd_old(pid, minor)];
    for file in &files {
        assert_eq!(counters(file), Counters::default());
    }
    let mut new = host.connect(&tapdisk);
    let mut old = Nbd::connect(host.dir.nbd_old(pid, minor), &Wish::default()).unwrap();
    for _ in 0..3 {
        new.read(0, 4096).unwrap();
        old.write(4096, &[1; 512]).unwrap();
    }
    new.read(1 << 30, 512).unwrap_err();
    eventually("written", || counters(&files[0]).write.completed == 3);
    let [vdi, nbd, nbd_old] = files.each_ref().map(|file| counters(file));
    assert_eq!((nbd.read.completed, nbd.read.sectors, nbd.write.completed), (4, 24, 0));
    assert_eq!((nbd_old.read.completed, nbd_old.write.completed), (0, 3));
    assert_eq!((nbd_old.write.sectors, nbd.errors, nbd_old.errors), (3, 1, 0));
    assert_eq!((vdi.read, vdi.write, vdi.errors), (nbd.read, nbd_old.write, 1));
    assert_eq!(vdi.read.submitted, vdi.read.completed);

    tapdisk.control.close(minor).unwrap();
    assert!(files.iter().all(|file| !file.exists()), "close removes them");
    tapdisk.control.detach(minor).unwrap();
    tapdisk.ends();
    assert!(!metrics.process(pid).exists(), "and the end the directory");
}

#[test]
fn they_lie_where_the_environment_says_and_the_dead_leave_them_only_for_a_while() {
    let host = Host::new();
    let directory = host.xapi.root().join("elsewhere");
    let mut command = host.xapi.command(&programs::path("tapdisk-ram"));
    let output = command.env("XAPI_RAM_SHM_DIR", &directory).output().unwrap();
    let (stdout, _) = texts(&output);
    let pid = stdout.trim_end().rsplit_once("ctl").unwrap().1.parse().unwrap();
    let metrics = MetricsDir::new(&directory);
    assert!(metrics.process(pid).is_dir());
    let identity = tapctl::Identity::of(pid).unwrap().unwrap();
    identity.kill().unwrap();
    identity.wait(std::time::Duration::from_secs(5)).unwrap();
    assert!(metrics.process(pid).is_dir(), "as blktap's, it leaves them when it is killed");
    let dir = host.dir.clone().with_metrics(&directory);
    let removed = dir.remove_leftovers(pid, Some(&identity)).unwrap();
    assert_eq!(removed, [dir.ctl(pid), metrics.process(pid)]);
}
