//! The environment means the same to every program: to both plugins, to the tapdisk that a plugin
//! starts, and to tap-ctl-ram.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use end_to_end::{Side, Xapi, programs};
use serde_json::{Value, json};

/// The names of the programs.
const PROGRAMS: [&str; 4] = ["volume-plugin", "datapath-plugin", "tapdisk-ram", "tap-ctl-ram"];

/// A process that was killed leaves its statistics, and the next call removes them: also where
/// the directory is not the default.
#[test]
fn the_directory_of_statistics_is_that_of_both_halves() {
    let elsewhere = tempfile::TempDir::with_prefix_in("xr-", "/dev/shm").unwrap();
    let named = elsewhere.path().to_str().unwrap();
    let default = Xapi::new();
    let below = default.root().join("ctl/shm");
    for (xapi, shm) in
        [(default, below.as_path()), (Xapi::with(&[("XAPI_RAM_SHM_DIR", named)]), elsewhere.path())]
    {
        let sr = xapi.create_sr("16MiB");
        let disk = xapi.plug(&sr, &xapi.create_vdi(&sr, 4096), "5");
        let tapdisk = disk.tapdisk();
        let mut there = entries(shm);
        there.sort();
        assert_eq!(there, ["metrics".to_owned(), format!("td3-{}", tapdisk.pid)]);
        disk.kill_tapdisk();
        disk.unplug();
        // The graphs of the SR are there as long as it is attached.
        assert_eq!(entries(shm), ["metrics"]);
        xapi.volume("SR.destroy", json!({ "sr": sr })).unwrap();
        assert_eq!(entries(&shm.join("metrics")), [""; 0]);
    }
}

/// The daemon changes to the root directory, the plugins do not.
#[test]
fn relative_directories_are_those_below_the_callers_for_every_program() {
    let xapi = Xapi::new();
    let relative = [("XAPI_RAM_SR_ROOT", "sr"), ("XAPI_RAM_CONTROL_DIR", "ctl")];
    let run = |program: &Path, arguments: &[&str], stdin: &str| {
        let mut command = xapi.command(program);
        command.args(arguments).envs(relative).current_dir(xapi.root());
        finished(command, stdin)
    };
    let call = |side: Side, method: &str, mut params: Value| -> Value {
        params["dbg"] = "test".into();
        let program = xapi.method(side, method).get_program().to_owned();
        let output = run(Path::new(&program), &["--json"], &params.to_string());
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{method}: {answer}");
        serde_json::from_str(&answer).unwrap()
    };
    let sr = xapi.create_sr("16MiB");
    let key = xapi.create_vdi(&sr, 4096);
    let uri = xapi.stat(&sr, &key).unwrap()["uri"][0].clone();
    let place = json!({ "uri": uri, "domain": "5" });
    for method in ["attach", "activate"] {
        call(Side::Datapath, &format!("Datapath.{method}"), place.clone());
    }
    call(Side::Volume, "Volume.snapshot", json!({ "sr": sr, "key": key }));
    let listed = run(&programs::path("tap-ctl-ram"), &["list"], "");
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains(&format!("args=ram:{}", xapi.sr_dir(&sr).display())), "{listed}");
    // One that is started by hand is found in the same place.
    let spawned = run(&programs::path("tapdisk-ram"), &[], "");
    let announced = String::from_utf8(spawned.stdout).unwrap();
    let control_dir = xapi.control_dir();
    let pid = announced.trim_end().rsplit_once("ctl").unwrap().1.parse().unwrap();
    assert_eq!(announced.trim_end(), control_dir.ctl(pid).to_str().unwrap());
    tapctl::Identity::of(pid).unwrap().unwrap().kill().unwrap();
    for method in ["deactivate", "detach"] {
        call(Side::Datapath, &format!("Datapath.{method}"), place.clone());
    }
    assert_eq!(entries(&control_dir.minors()), [""; 0]);
}

#[test]
fn a_directory_that_cannot_be_used_is_refused_by_every_program_and_not_replaced_by_the_default() {
    let bad = OsStr::from_bytes(b"/dev/shm/\xff");
    for name in PROGRAMS {
        let mut command = Command::new(programs::path(name));
        command.env("XAPI_RAM_CONTROL_DIR", bad).env("XAPI_RAM_SYSLOG", "/nonexistent/log");
        let arguments: &[&str] = match name {
            "tapdisk-ram" => &["serve"],
            "tap-ctl-ram" => &["list"],
            _ => &["Plugin.query"],
        };
        command.args(arguments);
        let output = finished(command, "");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{name}");
        let named = "XAPI_RAM_CONTROL_DIR=";
        assert!(stderr.contains(named) && stderr.contains(r"/dev/shm/\xFF"), "{name}: {stderr}");
    }
}

#[test]
fn every_program_says_what_it_is() {
    for name in PROGRAMS {
        let run = |argument: &str| {
            let mut command = Command::new(programs::path(name));
            command.arg(argument);
            finished(command, "")
        };
        let version = run("--version");
        let expected = format!("{name} {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(String::from_utf8(version.stdout).unwrap(), expected);
        let help = run("--help");
        assert!(help.status.success() && !help.stdout.is_empty());
        let unknown = run("--no-such-option");
        assert!(!unknown.status.success() && !unknown.stderr.is_empty(), "{name}");
    }
    let mut command = Command::new(programs::path("tapdisk-ram"));
    command.arg("--help");
    let help = String::from_utf8(finished(command, "").stdout).unwrap();
    for part in ["serve", "XAPI_RAM_CONTROL_DIR", "/run/blktap-control", "XAPI_RAM_POLL_US"] {
        assert!(help.contains(part), "{part} in {help}");
    }
}

/// Runs a command with that stdin to its end.
fn finished(mut command: Command, stdin: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), stdin.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn entries(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
