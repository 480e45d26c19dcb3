//! The bytes that the caller really sends, and what it makes of our features.

use std::os::unix::net::UnixDatagram;

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
        let features = query["features"].as_array().unwrap();
        for never in host::features::NEVER {
            assert!(!features.contains(&json!(never)), "{never} is declared: {features:?}");
        }
        // xapi looks for it in the volume plugin's answer, and xapi-storage-script in the other one.
        for migration in ["VDI_MIRROR", "VDI_MIRROR_IN"] {
            assert!(features.contains(&json!(migration)), "{migration} {side:?}");
        }
    }
}

/// Whatever is installed works: each method is called once with what it needs, and its answer held
/// against its schema. A method that is installed and not in here fails the test.
#[test]
fn every_installed_method_does_what_it_is_for() {
    let xapi = Xapi::new();
    let mut called: Vec<String> = Vec::new();
    let mut call = |side: Side, method: &str, params: Value| {
        called.push(format!("{}/{method}", side.directory()));
        xapi.call(side, method, params).unwrap_or_else(|failure| panic!("{method}: {failure}"))
    };
    let (volume, datapath) = (Side::Volume, Side::Datapath);
    call(volume, "Plugin.query", json!({}));
    call(datapath, "Plugin.query", json!({}));
    let new = json!({
        "uuid": "0f0e0d0c-0000-4000-8000-000000000002",
        "configuration": { "size": "64MiB" }, "name": "n", "description": "d",
    });
    let configuration = call(volume, "SR.create", new);
    let sr = call(volume, "SR.attach", json!({ "configuration": configuration }));
    assert_eq!(call(volume, "Plugin.ls", json!({})), json!([sr]));
    let found = call(volume, "SR.probe", json!({ "configuration": configuration }));
    assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
    call(volume, "SR.set_name", json!({ "sr": sr, "new_name": "x" }));
    call(volume, "SR.set_description", json!({ "sr": sr, "new_description": "y" }));
    let new =
        json!({ "sr": sr, "name": "v", "description": "", "size": 1 << 20, "sharable": false });
    let disk = call(volume, "Volume.create", new);
    let (key, uri) = (&disk["key"], &disk["uri"][0]);
    let at = |more: Value| {
        let mut params = json!({ "sr": sr, "key": key });
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        params
    };
    let diagnostics = call(volume, "Plugin.diagnostics", json!({}));
    assert!(diagnostics.as_str().is_some_and(|text| text.contains(sr.as_str().unwrap())));
    call(volume, "Volume.set", at(json!({ "k": "a", "v": "b" })));
    call(volume, "Volume.unset", at(json!({ "k": "a" })));
    call(volume, "Volume.set_name", at(json!({ "new_name": "w" })));
    call(volume, "Volume.set_description", at(json!({ "new_description": "z" })));
    call(volume, "Volume.enable_cbt", at(json!({})));
    let old = call(volume, "Volume.snapshot", at(json!({})))["key"].clone();
    call(datapath, "Datapath.open", json!({ "uri": uri, "persistent": true }));
    let place = json!({ "uri": uri, "domain": "5" });
    for step in ["attach", "activate", "import_activate"] {
        call(datapath, &format!("Datapath.{step}"), place.clone());
    }
    let used = call(datapath, "Plugin.diagnostics", json!({}));
    assert!(used.as_str().is_some_and(|text| text.contains(key.as_str().unwrap())));
    mirror_to_nowhere(uri, &mut call);
    for step in ["deactivate", "activate_readonly", "deactivate", "detach"] {
        call(datapath, &format!("Datapath.{step}"), place.clone());
    }
    call(datapath, "Datapath.close", json!({ "uri": uri }));
    let range = json!({ "sr": sr, "key": old, "key2": key, "offset": 0, "length": 65536 });
    assert_eq!(call(volume, "Volume.list_changed_blocks", range)["bitmap"], "AAAAAA==");
    call(volume, "Volume.disable_cbt", at(json!({})));
    assert_eq!(call(volume, "Volume.compare", at(json!({ "key2": old })))["ranges"], json!([]));
    assert_eq!(call(volume, "Volume.similar_content", at(json!({}))), json!([old]));
    let clone = call(volume, "Volume.clone", at(json!({})));
    let copy = call(volume, "Volume.copy", at(json!({ "dest_sr": sr })));
    call(volume, "Volume.resize", at(json!({ "new_size": 2 << 20 })));
    call(volume, "Volume.revert", at(json!({ "snapshot": old })));
    assert_eq!(call(volume, "Volume.stat", at(json!({})))["virtual_size"], 1 << 20);
    let composed = json!({ "sr": sr, "key": clone["key"], "key2": copy["key"] });
    call(volume, "Volume.compose", composed);
    call(volume, "Volume.data_destroy", json!({ "sr": sr, "key": old }));
    assert_eq!(call(volume, "SR.ls", json!({ "sr": sr })).as_array().unwrap().len(), 3);
    call(volume, "Volume.destroy", at(json!({})));
    call(volume, "SR.stat", json!({ "sr": sr }));
    call(volume, "SR.detach", json!({ "sr": sr }));
    call(volume, "SR.attach", json!({ "configuration": configuration }));
    call(volume, "SR.destroy", json!({ "sr": sr }));

    for side in [volume, datapath] {
        let any = xapi.method(side, "Plugin.query");
        let directory = std::path::Path::new(any.get_program()).parent().unwrap().to_owned();
        for entry in std::fs::read_dir(directory).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let name = format!("{}/{name}", side.directory());
            assert!(called.contains(&name), "{name} is installed, but not tried here");
        }
    }
}

/// A mirror and a copy of a disk that domain 5 has active, to a server that does not exist: every method of Data.
fn mirror_to_nowhere(uri: &Value, call: &mut dyn FnMut(Side, &str, Value) -> Value) {
    let data = Side::Datapath;
    let remote = "nbd+unix:///x?socket=/no/such/socket";
    let mirror = json!({ "uri": uri, "domain": "5", "remote": remote });
    let operation = json!({ "operation": call(data, "Data.mirror", mirror) });
    assert_eq!(call(data, "Data.ls", json!({})), json!([operation["operation"]]));
    for (method, failed) in [("stat", json!(false)), ("cancel", json!(null)), ("stat", json!(true))]
    {
        let answer = call(data, &format!("Data.{method}"), operation.clone());
        assert_eq!(answer["failed"], failed);
    }
    call(data, "Data.destroy", operation);
    let blocklist = json!({ "blocksize": 65536, "ranges": [[0, 1]] });
    let copy = json!({ "uri": uri, "domain": "5", "remote": remote, "blocklist": blocklist });
    let operation = json!({ "operation": call(data, "Data.copy", copy) });
    assert_eq!(call(data, "Data.ls", json!({})), json!([operation["operation"]]));
    call(data, "Data.cancel", operation.clone());
    assert_eq!(call(data, "Data.stat", operation)["failed"], true);
}

/// Messages for SMlog have facility local2 and name the call that they belong to.
#[test]
fn every_call_is_logged_with_what_it_was_about() {
    let xapi = Xapi::new();
    let path = xapi.root().join("log");
    let log = UnixDatagram::bind(&path).unwrap();
    // A socket holds few datagrams: they are read as they come.
    let reader = std::thread::spawn(move || {
        let (mut lines, mut buffer) = (Vec::new(), [0; 9000]);
        loop {
            let length = log.recv(&mut buffer).unwrap();
            if &buffer[..length] == b"enough" {
                return lines;
            }
            lines.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
    });
    let sr = xapi.create_sr("64MiB");
    let key = xapi.create_vdi(&sr, 4096);
    let disk = xapi.plug(&sr, &key, "u0_dom");
    let missing =
        xapi.volume("Volume.stat", json!({ "sr": sr, "key": "no-such-key" })).unwrap_err();
    disk.unplug();
    UnixDatagram::unbound().unwrap().send_to(b"enough", &path).unwrap();
    let lines = reader.join().unwrap();
    let has =
        |words: &[&str]| lines.iter().any(|line| words.iter().all(|word| line.contains(word)));
    // <150>: local2 (18 * 8), informational (6); <147>: an error (RFC 3164, 4.1.1).
    assert!(
        has(&["<150>volume-plugin[", "Volume.create", &sr, "OpaqueRef:0a1b|VDI.op"]),
        "{lines:#?}"
    );
    assert!(has(&["<150>datapath-plugin[", "Datapath.activate", &key, "u0_dom"]), "{lines:#?}");
    assert!(has(&["<150>tapdisk-ram[", "serving", &key]), "{lines:#?}");
    assert!(has(&["<147>volume-plugin[", &missing.code, "no-such-key"]), "{lines:#?}");
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
