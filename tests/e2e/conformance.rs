//! The bytes that the caller really sends, and what it makes of our features.

use end_to_end::{Side, Xapi};
use serde_json::{Value, json};

/// Recorded from xapi-storage-script: every request is understood. What it names does not exist
/// here, so most are refused, but never for their form.
#[test]
fn every_recorded_request_is_accepted() {
    let xapi = Xapi::new();
    let recorded = include_str!("../../schemas/tests/requests.jsonl");
    let mut installed = 0;
    for line in recorded.lines() {
        let request: Value = serde_json::from_str(line).unwrap();
        let (method, stdin) =
            (request["script"].as_str().unwrap(), request["stdin"].as_str().unwrap());
        for side in [Side::Volume, Side::Datapath] {
            let is_installed = std::fs::symlink_metadata(xapi.method(side, method).get_program());
            if is_installed.is_err() {
                continue;
            }
            installed += 1;
            let output = xapi.raw(side, method, stdin.as_bytes());
            let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
            if !output.status.success() {
                // 143: the request itself was wrong.
                assert_ne!(answer["code"], "SR_BACKEND_FAILURE_143", "{method} {stdin}: {answer}");
                assert_ne!(answer["code"], "SR_BACKEND_FAILURE_202", "a panic: {answer}");
            }
        }
    }
    assert!(installed > 40, "only {installed} of the recorded requests have a method");
}

/// Only what works is declared, and nothing that would make xapi use the SR for more than disks.
#[test]
fn features_are_those_that_work() {
    let xapi = Xapi::new();
    for side in [Side::Volume, Side::Datapath] {
        let query = xapi.call(side, "Plugin.query", json!({})).unwrap();
        let features = query["features"].to_string();
        for never in [
            "SR_STATS",
            "SR_METADATA",
            "VDI_ATTACH_OFFLINE",
            "VDI_GENERATE_CONFIG",
            "SR_CACHING",
            "SR_SUPPORTS_LOCAL_CACHING",
            "VDI_MIRROR",
        ] {
            assert!(!features.contains(never), "{never} is declared: {features}");
        }
    }
}

/// xapi-storage-script finds a method's file without regard to case, and spells argv[0] as on disk.
#[test]
fn the_name_of_the_file_is_the_method_in_any_case() {
    let xapi = Xapi::new();
    let method = xapi.method(Side::Volume, "Plugin.query");
    let link = xapi.root().join("Plugin.Query");
    let program = std::fs::canonicalize(method.get_program()).unwrap();
    std::os::unix::fs::symlink(program, &link).unwrap();
    let output = xapi.command(&link).arg("--json").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "an empty stdin is no request");
    let mut child = xapi
        .command(&link)
        .arg("--json")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"{\"dbg\":\"x\"}").unwrap();
    let output = child.wait_with_output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["plugin"], "ram");
}
