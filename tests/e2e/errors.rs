//! Errors, as an administrator gets to see them: code, what was wrong with which value, what to do.

use std::{io::Write, process::Stdio};

use end_to_end::{Failure, Side, Xapi, programs};
use serde_json::{Value, json};

use crate::maintenance::{assert_sound, maintain};

/// The message that `xe` shows, after checking the code and the shape of the params.
fn message(got: Result<Value, Failure>, code: u32) -> String {
    let failure = got.expect_err("this has to fail");
    assert_eq!(failure.code, format!("SR_BACKEND_FAILURE_{code}"), "{failure}");
    assert_eq!(failure.params.len(), 3, "status, stdout, stderr: {failure}");
    failure.params[1].clone()
}

#[track_caller]
fn names(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
}

#[test]
fn what_does_not_exist_is_named() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let unknown = "11111111-2222-3333-4444-555555555555";
    for method in ["SR.stat", "SR.ls", "SR.detach"] {
        let told = message(xapi.volume(method, json!({ "sr": unknown })), 47);
        names(&told, &["Sr_not_attached", unknown]);
    }
    let told = message(xapi.volume("SR.destroy", json!({ "sr": unknown })), 47);
    names(&told, &[unknown]);
    let missing = format!("{}-2222-8333-8444-555555555555", &xapi.create_vdi(&sr, 1)[..8]);
    for method in ["Volume.stat", "Volume.snapshot", "Volume.clone"] {
        let told = message(xapi.volume(method, json!({ "sr": sr, "key": missing })), 144);
        names(&told, &["Volume_does_not_exist", &missing]);
    }
    xapi.volume("SR.detach", json!({ "sr": sr })).unwrap();
    let told = message(xapi.volume("SR.ls", json!({ "sr": sr })), 47);
    names(&told, &["Sr_not_attached", &sr, "xe pbd-plug"]);
}

#[test]
fn sizes_that_cannot_be_are_refused_with_the_value() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let key = xapi.create_vdi(&sr, 1 << 20);
    let shrink = json!({ "sr": sr, "key": key, "new_size": 4096 });
    names(&message(xapi.volume("Volume.resize", shrink), 79), &["1048576", "4096"]);
    let create = |size: i64| {
        let params =
            json!({ "sr": sr, "name": "", "description": "", "size": size, "sharable": false });
        xapi.volume("Volume.create", params)
    };
    names(&message(create(-1), 79), &["-1"]);
    names(&message(create(i64::MAX), 79), &["9223372036854775807"]);
}

#[test]
fn device_config_is_checked_as_a_whole() {
    let xapi = Xapi::new();
    let create = |configuration: Value| {
        let params = json!({
            "uuid": "0f0e0d0c-0000-4000-8000-000000000001",
            "configuration": configuration, "name": "", "description": "",
        });
        xapi.volume("SR.create", params)
    };
    let wrong = create(json!({ "sise": "1GiB", "path": "/p", "size": "1 furlong" })).unwrap_err();
    names(&wrong.params[1], &["sise", "path", "1 furlong", "size", "uri"]);
    let huge = message(create(json!({ "size": "1000TiB" })), 44);
    names(&huge, &["does not fit", "device-config:size="]);
    // xapi-storage-script tests itself with this, and no size.
    create(json!({ "uri": "file:///dev/null" })).unwrap();
}

#[test]
fn an_sr_of_another_host_is_refused_by_name() {
    let xapi = Xapi::new();
    let mut configuration = xapi.create_sr_only("64MiB");
    configuration["host"] = json!("aaaaaaaa-0000-4000-8000-00000000000b");
    let told = xapi.volume("SR.attach", json!({ "configuration": configuration })).unwrap_err();
    names(&told.params.join(" "), &["aaaaaaaa-0000-4000-8000-00000000000b"]);
}

#[test]
fn every_wrong_parameter_is_named_at_once() {
    let xapi = Xapi::new();
    let params = json!({ "sr": 5, "nmae": "x", "description": "d", "size": "big", "sharable": 1 });
    let told = message(xapi.volume("Volume.create", params), 143);
    names(&told, &["sr", "nmae", "name", "size", "sharable"]);
}

#[test]
fn what_is_no_request_gets_an_answer_all_the_same() {
    let xapi = Xapi::new();
    for bad in ["", "{", "[]", "null", "{\"dbg\":\"x\"} trailing", "\u{0}", "{\"dbg\":1e999}"] {
        for side in [Side::Volume, Side::Datapath] {
            let output = xapi.raw(side, "Plugin.query", bad.as_bytes());
            assert_eq!(output.status.code(), Some(1), "{bad:?}");
            let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert!(answer["params"][1].as_str().is_some_and(|it| !it.is_empty()), "{answer}");
            assert!(answer["backtrace"]["files"].is_array(), "{answer}");
        }
    }
    // The caller fails when it writes to a pipe that is not read: this is more than a pipe holds.
    let long = format!("{{\"dbg\":\"{}\"}}", "x".repeat(1 << 20));
    assert!(xapi.raw(Side::Volume, "Plugin.query", long.as_bytes()).status.success());
}

/// Where descriptors run out, in the process or on the host, what cannot be looked at is not taken for missing:
/// an SR that is not seen would be made anew, a disk that is not seen to be active be destroyed.
#[test]
fn a_call_that_runs_out_of_descriptors_says_so_and_loses_nothing() {
    let xapi = Xapi::new();
    let configuration = xapi.create_sr_only("64MiB");
    let sr = xapi.volume("SR.attach", json!({ "configuration": configuration })).unwrap();
    let sr = sr.as_str().unwrap();
    let key = xapi.create_vdi(sr, 1 << 20);
    let disk = xapi.plug(sr, &key, "1");
    disk.connect().write(0, b"here").unwrap();
    let calls = [
        ("SR.attach", json!({ "dbg": "", "configuration": configuration })),
        ("SR.ls", json!({ "dbg": "", "sr": sr })),
        ("Volume.stat", json!({ "dbg": "", "sr": sr, "key": key })),
        ("SR.detach", json!({ "dbg": "", "sr": sr })),
        ("SR.destroy", json!({ "dbg": "", "sr": sr })),
        ("Volume.destroy", json!({ "dbg": "", "sr": sr, "key": key })),
    ];
    for limit in 3..40 {
        for (method, params) in &calls {
            let program = programs::path("volume-plugin");
            let mut shell = xapi.command("/bin/sh".as_ref());
            let script = format!("ulimit -n {limit}; exec \"$0\" {method} --json");
            shell.args(["-c", &script]).arg(program).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = shell.spawn().unwrap();
            // A program whose loader cannot open a library ends before it reads.
            let _unread = child.stdin.take().unwrap().write_all(params.to_string().as_bytes());
            let output = child.wait_with_output().unwrap();
            if output.stdout.is_empty() && limit < 6 {
                continue;
            }
            let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
            let what = format!("{method} with {limit} descriptors: {answer}");
            if output.status.success() {
                assert!(["SR.attach", "SR.ls", "Volume.stat"].contains(method), "{what}");
                continue;
            }
            let in_use = ["SR_BACKEND_FAILURE_16", "SR_BACKEND_FAILURE_24"];
            let code = answer["code"].as_str().unwrap();
            let says = answer["params"][1].as_str().unwrap();
            let lacks = code == "SR_BACKEND_FAILURE_200" && says.contains("Too many open files");
            assert!(in_use.contains(&code) || lacks, "{what}");
        }
    }
    assert_eq!(disk.connect().read(0, 4).unwrap(), b"here");
    disk.unplug();
    assert_sound(&xapi, sr);
}

#[test]
fn a_damaged_sr_says_where() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let key = xapi.create_vdi(&sr, 1 << 20);
    let record = xapi.sr_dir(&sr).join("meta/volume").join(&key);
    std::fs::write(&record, "{ half a rec").unwrap();
    let told = xapi.stat(&sr, &key).unwrap_err();
    names(&told.params[1], &[record.to_str().unwrap()]);
    maintain(&xapi, &["check", "--sr", &sr]).failure();
}
