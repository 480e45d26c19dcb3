//! Whatever is killed: nothing that was acknowledged is lost, and the SR stays usable.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use end_to_end::{Disk, Side, Xapi, programs, tools};
use serde_json::{Value, json};

use crate::MIB;
use crate::maintenance::{assert_sound, maintain};

const BLOCK: u64 = 4096;

#[test]
fn a_killed_tapdisk_loses_no_acknowledged_write() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("128MiB");
    let key = xapi.create_vdi(&sr, 32 * MIB);
    let mut acknowledged: Vec<u64> = vec![0; usize::try_from(32 * MIB / BLOCK).unwrap()];
    let mut sequence = 0;
    for round in 0..5 {
        let disk = Disk::attach_and_activate(&xapi, &sr, &key, "5", false).unwrap();
        let tapdisk = disk.tapdisk();
        let killer = thread::spawn(move || {
            thread::sleep(Duration::from_millis(40 + 13 * round));
            tapdisk.kill().unwrap();
            assert!(tapdisk.wait(Duration::from_secs(5)).unwrap());
        });
        let mut client = disk.connect();
        loop {
            sequence += 1;
            let block = sequence * 7919 % acknowledged.len() as u64;
            let bytes = sequence.to_ne_bytes().repeat(512);
            if client.write(block * BLOCK, &bytes).is_err() {
                break;
            }
            acknowledged[usize::try_from(block).unwrap()] = sequence;
        }
        killer.join().unwrap();
        // xapi goes on from where it was: no detach, no second attach.
        disk.step("Datapath.activate").unwrap();
        let mut client = disk.connect();
        for (block, wanted) in acknowledged.iter_mut().enumerate() {
            let got = client.read(block as u64 * BLOCK, 4096).unwrap();
            let got = u64::from_ne_bytes(got[..8].try_into().unwrap());
            // The write that was under way may have been done, unacknowledged.
            assert!(got == *wanted || got == sequence, "block {block}: {got} for {wanted}");
            *wanted = got;
        }
    }
    let disk = Disk::attach_and_activate(&xapi, &sr, &key, "5", false).unwrap();
    disk.unplug();
    assert_eq!(xapi.control_dir().tapdisks().unwrap(), Vec::<u32>::new(), "no socket is left");
    assert_sound(&xapi, &sr);
}

#[test]
fn a_plugin_call_killed_at_any_moment_leaves_a_usable_sr() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let kept = xapi.create_vdi(&sr, MIB);
    let calls = |key: &str| {
        [
            (
                "Volume.create",
                json!({
                    "sr": sr, "name": "", "description": "", "size": 4 * MIB, "sharable": false,
                }),
            ),
            ("Volume.set", json!({ "sr": sr, "key": key, "k": "k", "v": "v" })),
            ("Volume.snapshot", json!({ "sr": sr, "key": key })),
            ("Volume.clone", json!({ "sr": sr, "key": key })),
            ("Volume.resize", json!({ "sr": sr, "key": key, "new_size": 8 * MIB })),
            ("Volume.destroy", json!({ "sr": sr, "key": key })),
        ]
    };
    for round in 0..120_u64 {
        let victim = xapi.create_vdi(&sr, MIB);
        let calls = calls(&victim);
        let (method, params) = &calls[usize::try_from(round).unwrap() % calls.len()];
        let mut params = params.clone();
        params["dbg"] = json!("x");
        call_and_kill(&xapi, Side::Volume, method, &params, round);
        // The next call neither waits nor fails.
        xapi.stat(&sr, &kept).unwrap();
        for volume in xapi.volume("SR.ls", json!({ "sr": sr })).unwrap().as_array().unwrap() {
            if volume["key"] != json!(kept) {
                xapi.volume("Volume.destroy", json!({ "sr": sr, "key": volume["key"] })).unwrap();
            }
        }
        assert_sound(&xapi, &sr);
    }
    maintain(&xapi, &["gc", "--sr", &sr]).success();
    for directory in ["data", "meta/map", "meta/index", "meta/volume"] {
        let left = fs::read_dir(xapi.sr_dir(&sr).join(directory)).unwrap().count();
        assert_eq!(left, 1, "only the volume that was kept has files in {directory}");
    }
}

/// Calls a method and kills it, at another moment in every round.
fn call_and_kill(xapi: &Xapi, side: Side, method: &str, params: &Value, round: u64) {
    let mut child = xapi.method(side, method).stderr(Stdio::null()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, params.to_string().as_bytes()).unwrap();
    drop(stdin);
    thread::sleep(Duration::from_micros(round * 37 % 2500));
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The clone of a non-persistent session is there or not; it never leaks.
#[test]
fn a_session_whose_calls_are_killed_at_any_moment_leaves_nothing() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let key = xapi.create_vdi(&sr, MIB);
    let uri = format!("ram://{sr}/{key}");
    let open = json!({ "dbg": "x", "uri": uri, "persistent": false });
    let close = json!({ "dbg": "x", "uri": uri });
    for round in 0..120_u64 {
        let (method, params) =
            if round % 3 == 2 { ("Datapath.close", &close) } else { ("Datapath.open", &open) };
        call_and_kill(&xapi, Side::Datapath, method, params, round);
        if round % 10 == 9 {
            // The guest starts after all.
            xapi.datapath("Datapath.open", open.clone()).unwrap();
            let disk = Disk::attach_and_activate(&xapi, &sr, &key, "5", false).unwrap();
            let mut client = disk.connect();
            assert_eq!(client.read(0, 1).unwrap(), [0], "nothing of an earlier session");
            client.write(0, &[1; 4096]).unwrap();
            drop(client);
            disk.unplug();
        }
    }
    for _twice in 0..2 {
        xapi.datapath("Datapath.close", close.clone()).unwrap();
    }
    assert_sound(&xapi, &sr);
    maintain(&xapi, &["gc", "--sr", &sr]).success();
    assert_eq!(xapi.data_in_use(&sr), 0);
    for directory in ["data", "meta/map", "meta/index", "meta/volume"] {
        let left = fs::read_dir(xapi.sr_dir(&sr).join(directory)).unwrap().count();
        assert_eq!(left, 1, "only the volume itself has files in {directory}");
    }
}

/// xapi-storage-script's unit has KillMode=control-group: a restart of the toolstack kills
/// everything in its group.
#[test]
fn a_disk_outlives_the_control_group_of_its_caller() {
    let Some(group) = new_group() else { return };
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let key = xapi.create_vdi(&sr, MIB);
    let uri = xapi.stat(&sr, &key).unwrap()["uri"][0].clone();
    for method in ["Datapath.attach", "Datapath.activate"] {
        call_inside(&group, &xapi, method, &uri);
    }
    let left = fs::read_to_string(group.join("cgroup.procs")).unwrap();
    assert_eq!(left, "", "the tapdisk is in nobody's group but its own");
    fs::remove_dir(&group).unwrap();
    let disk = Disk::attach_and_activate(&xapi, &sr, &key, "5", false).unwrap();
    let mut client = disk.connect();
    client.write(0, b"still here").unwrap();
    disk.unplug();
}

/// The host's own tapdisk does not leave its control group by itself, so it has to be started outside
/// the caller's.
#[test]
fn the_hosts_own_tapdisk_is_not_started_in_the_control_group_of_the_caller() {
    let Some(group) = new_group() else { return };
    let tools = tempfile::tempdir().unwrap();
    let (program, born_in) = (tools.path().join("tapdisk"), tools.path().join("born-in"));
    let script = format!(
        "#!/bin/sh\ncat /proc/self/cgroup > {}\nexec {}\n",
        born_in.display(),
        programs::path("tapdisk-ram").display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    let xapi = Xapi::with(&[("XAPI_RAM_BLKTAP", program.to_str().unwrap())]);
    let wanted = json!({ "size": "64MiB", "tapdisk": "blktap" });
    let sr = xapi.attach_sr(&xapi.configure_sr(wanted).unwrap());
    let key = xapi.create_vdi(&sr, MIB);
    let uri = xapi.stat(&sr, &key).unwrap()["uri"][0].clone();
    call_inside(&group, &xapi, "Datapath.activate", &uri);
    let born_in = fs::read_to_string(born_in).unwrap();
    let name = group.file_name().unwrap().to_str().unwrap();
    assert!(!born_in.is_empty() && !born_in.contains(name), "{born_in}");
    fs::remove_dir(&group).unwrap();
    Disk::attach_and_activate(&xapi, &sr, &key, "5", false).unwrap().unplug();
}

/// Calls a method of the datapath as a member of a control group.
fn call_inside(group: &Path, xapi: &Xapi, method: &str, uri: &serde_json::Value) {
    let program = xapi.method(Side::Datapath, method).get_program().to_owned();
    let mut inside = xapi.command("/bin/sh".as_ref());
    inside.args(["-c", "echo 0 > \"$1/cgroup.procs\" && exec \"$2\" --json", "sh"]);
    inside.arg(group).arg(program).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = inside.spawn().unwrap();
    let params = json!({ "dbg": "x", "uri": uri, "domain": "5" }).to_string();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), params.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{method}: {output:?}");
}

/// A control group of our own in a hierarchy that systemd would use; says so where there is none.
fn new_group() -> Option<PathBuf> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("xapi-ram-test-{}-{number}", std::process::id());
    let group = make_group(&name);
    if group.is_none() {
        let text = "SKIPPED: this machine lets nobody make control groups\n";
        let _unseen = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
    }
    group
}

fn make_group(name: &str) -> Option<PathBuf> {
    ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .iter()
        .map(|root| Path::new(root).join(name))
        .find(|group| {
            let made = fs::create_dir(group).is_ok() && group.join("cgroup.procs").exists();
            let enter = "echo 0 > \"$1/cgroup.procs\"";
            made && tools::attempt("sh", &["-c", enter, "sh", &group.to_string_lossy()])
                .status
                .success()
        })
}
