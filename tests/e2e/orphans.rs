//! Calls of the datapath that are killed at any moment, with real tapdisks: what the toolstack does
//! next, a detach, ends whatever was started and frees whatever was reserved.

use std::{
    fs,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use end_to_end::{Side, Xapi, programs};
use serde_json::{Value, json};
use tapctl::{Identity, process};

/// How often a call is killed, each time a little later.
const KILLS: u32 = 60;

#[test]
fn a_killed_attach_leaves_no_tapdisk_and_no_minor() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("16MiB");
    kill_at_any_moment(&xapi, &sr, "Datapath.attach");
}

/// Each process of the host's own would lock as much memory as the disk is large.
#[test]
fn a_killed_activate_leaves_no_tapdisk_of_the_hosts_own() {
    let stock = programs::path("tapdisk-ram");
    let xapi = Xapi::with(&[("XAPI_RAM_BLKTAP", stock.to_str().unwrap())]);
    let wanted = json!({ "size": "16MiB", "tapdisk": "blktap" });
    let sr = xapi.attach_sr(&xapi.configure_sr(wanted).unwrap());
    kill_at_any_moment(&xapi, &sr, "Datapath.activate");
}

fn kill_at_any_moment(xapi: &Xapi, sr: &str, method: &str) {
    let key = xapi.create_vdi(sr, 1 << 20);
    let uri = xapi.stat(sr, &key).unwrap()["uri"][0].clone();
    let place = json!({ "uri": uri, "domain": "7" });
    let whole = Instant::now();
    xapi.datapath(method, place.clone()).unwrap();
    let whole = whole.elapsed();
    xapi.datapath("Datapath.detach", place.clone()).unwrap();
    for kill in 0..KILLS {
        kill_after(xapi, method, &place, whole * kill / KILLS);
        xapi.datapath("Datapath.detach", place.clone()).unwrap();
    }
    // One that was just being started when a detach searched is found by the next.
    thread::sleep(Duration::from_millis(200));
    xapi.datapath("Datapath.detach", place.clone()).unwrap();
    assert_nothing_left(xapi, &uri);
    xapi.datapath("Datapath.activate", place.clone()).unwrap();
    xapi.datapath("Datapath.detach", place).unwrap();
    assert_nothing_left(xapi, &uri);
}

fn kill_after(xapi: &Xapi, method: &str, params: &Value, after: Duration) {
    let mut params = params.clone();
    params["dbg"] = "test".into();
    let mut command = xapi.method(Side::Datapath, method);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, params.to_string().as_bytes()).unwrap();
    drop(stdin);
    thread::sleep(after);
    let _ended_already = child.kill();
    child.wait().unwrap();
}

/// A plugin that is killed and never followed by another call leaves nothing for ever. A tapdisk that a
/// person started, or that has a minor, waits for as long as it takes.
#[test]
fn a_tapdisk_that_a_plugin_started_and_no_call_uses_ends_by_itself() {
    let xapi = Xapi::new();
    let control = xapi.control_dir();
    let start = |by_plugin: bool| {
        let mut command = xapi.command(&programs::path("tapdisk-ram"));
        if by_plugin {
            command.env("XAPI_RAM_STARTED_FOR", "a volume");
        }
        let announced = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let pid = announced.trim_end().rsplit_once("ctl").unwrap().1.parse().unwrap();
        Identity::of(pid).unwrap().unwrap()
    };
    let (unused, used, by_hand) = (start(true), start(true), start(false));
    let minor = tapctl::minors::allocate(&control, Duration::from_secs(5)).unwrap();
    tapctl::Client::new(&control, used.pid).attach(minor).unwrap();
    assert!(!unused.wait(Duration::from_secs(50)).unwrap(), "a call may still need it");
    assert!(unused.wait(Duration::from_secs(20)).unwrap());
    thread::sleep(Duration::from_secs(2));
    assert!(used.is_same() && by_hand.is_same());
    assert!(!control.ctl(unused.pid).exists() && !control.metrics().process(unused.pid).exists());
}

/// That the attached disk's tapdisk, dead or alive, goes without a trace though the record of the
/// disk went with the disk or with its SR.
#[test]
fn a_disk_that_is_destroyed_while_it_is_attached_leaves_nothing_at_detach() {
    for dead in [false, true] {
        for sr_too in [false, true] {
            let xapi = Xapi::new();
            let sr = xapi.create_sr("16MiB");
            let key = xapi.create_vdi(&sr, 1 << 20);
            let uri = xapi.stat(&sr, &key).unwrap()["uri"][0].clone();
            let place = json!({ "uri": uri, "domain": "7" });
            for method in ["attach", "activate", "deactivate"] {
                xapi.datapath(&format!("Datapath.{method}"), place.clone()).unwrap();
            }
            if dead {
                let pid = xapi.control_dir().tapdisks().unwrap()[0];
                let identity = Identity::of(pid).unwrap().unwrap();
                identity.kill().unwrap();
                assert!(identity.wait(Duration::from_secs(5)).unwrap());
            }
            xapi.volume("Volume.destroy", json!({ "sr": sr, "key": key })).unwrap();
            if sr_too {
                xapi.volume("SR.destroy", json!({ "sr": sr })).unwrap();
            }
            xapi.datapath("Datapath.detach", place).unwrap();
            assert_nothing_left(&xapi, &uri);
        }
    }
}

/// That no process, socket, minor, link or statistics is left on the host.
#[track_caller]
fn assert_nothing_left(xapi: &Xapi, uri: &Value) {
    let control = xapi.control_dir();
    let mark = format!("{} {}", control.path().display(), uri.as_str().unwrap());
    let running = process::started_with("XAPI_RAM_STARTED_FOR", mark.as_ref()).unwrap();
    assert_eq!(running, []);
    let mut left = Vec::new();
    let directories = [
        control.path().to_owned(),
        control.minors(),
        control.metrics().path().to_owned(),
        control.path().join("nbd"),
    ];
    for directory in &directories {
        let entries = fs::read_dir(directory).into_iter().flatten();
        left.extend(entries.map(|entry| entry.unwrap().path()));
    }
    // The graphs of SRs are there as long as these are attached.
    let graphs = control.metrics().path().join("metrics");
    left.retain(|path| !directories.contains(path) && *path != graphs);
    assert_eq!(
        left,
        [""; 0].map(std::path::PathBuf::from),
        "files in {}",
        control.path().display()
    );
}
