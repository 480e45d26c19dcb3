//! The exchanges of `schemas/exchanges.jsonl`, from which the JSON Schemas have their examples and SMAPIv3.md its
//! dialogues: what the programs are asked and answer, one of each method, and some errors.
//!
//! After a change of what the programs answer: `UPDATE_EXCHANGES=1 cargo nextest run -p end-to-end -E
//! 'test(exchanges)'`, then `UPDATE_SCHEMAS=1 UPDATE_PAGES=1 cargo test -p smapiv3`.

use std::{collections::BTreeMap, fs, path::Path};

use end_to_end::{Side, Xapi, tools};
use serde_json::{Value, json};

use crate::MIB;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../schemas/exchanges.jsonl");
const SR: &str = "0f0e0d0c-0b0a-4908-8706-050403020100";

/// Calls of a host, and what they were answered.
struct Recorder {
    xapi: Xapi,
    lines: Vec<Value>,
}

impl Recorder {
    fn call(&mut self, side: Side, method: &str, mut params: Value) -> Value {
        params["dbg"] = json!("OpaqueRef:0a1b|VDI.op");
        let output = self.xapi.raw(side, method, params.to_string().as_bytes());
        let answer: Value = serde_json::from_slice(&output.stdout).expect("one JSON value");
        let plugin = if side == Side::Volume { "volume" } else { "datapath" };
        let status = output.status.code();
        let mut line = json!({ "plugin": plugin, "method": method, "stdin": params });
        (line["status"], line["stdout"]) = (json!(status), answer.clone());
        self.lines.push(line);
        answer
    }

    fn volume(&mut self, method: &str, params: Value) -> Value {
        self.call(Side::Volume, method, params)
    }

    fn datapath(&mut self, method: &str, params: &Value) -> Value {
        self.call(Side::Datapath, method, params.clone())
    }
}

#[test]
fn the_committed_exchanges_are_those_of_the_programs() {
    if !tools::present(&["qemu-io"]) {
        return;
    }
    let mut host = Recorder { xapi: Xapi::new(), lines: Vec::new() };
    let configuration = sr(&mut host);
    let on = |more: Value| {
        let mut params = json!({ "sr": SR });
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        params
    };
    let new = json!({ "name": "disk", "description": "", "size": MIB, "sharable": false });
    let disk = host.volume("Volume.create", on(new));
    let (key, uri) = (disk["key"].clone(), disk["uri"][0].clone());
    let at = |more: Value| {
        let mut params = json!({ "sr": SR, "key": key });
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        params
    };
    host.volume("Volume.set", at(json!({ "k": "vdi-type", "v": "user" })));
    host.volume("Volume.set_name", at(json!({ "new_name": "root" })));
    host.volume("Volume.set_description", at(json!({ "new_description": "of a build machine" })));
    host.volume("Volume.enable_cbt", at(json!({})));
    host.volume("Volume.stat", at(json!({})));
    let place = json!({ "uri": uri, "domain": "5" });
    host.datapath("Datapath.open", &json!({ "uri": uri, "persistent": true }));
    let backend = host.datapath("Datapath.attach", &place);
    host.datapath("Datapath.activate", &place);
    let old = host.volume("Volume.snapshot", at(json!({})))["key"].clone();
    for (k, v) in [("is_a_snapshot", json!("true")), ("snapshot_of", key.clone())] {
        host.volume("Volume.set", on(json!({ "key": old, "k": k, "v": v })));
    }
    write(&backend);
    host.datapath("Datapath.import_activate", &place);
    mirrors(&mut host, &uri);
    host.datapath("Datapath.deactivate", &place);
    host.datapath("Datapath.detach", &place);
    host.datapath("Datapath.close", &json!({ "uri": uri }));
    let backup = json!({ "uri": uri, "domain": "u0_backup" });
    for step in ["attach", "activate_readonly", "deactivate", "detach"] {
        host.datapath(&format!("Datapath.{step}"), &backup);
    }
    let range = json!({ "sr": SR, "key": old, "key2": key, "offset": 0, "length": MIB });
    host.volume("Volume.list_changed_blocks", range);
    host.volume("Volume.compare", at(json!({ "key2": old })));
    host.volume("Volume.similar_content", at(json!({})));
    let clone = host.volume("Volume.clone", on(json!({ "key": old })))["key"].clone();
    let copy = host.volume("Volume.copy", at(json!({ "dest_sr": SR })))["key"].clone();
    host.volume("Volume.resize", at(json!({ "new_size": 2 * MIB })));
    host.volume("Volume.resize", at(json!({ "new_size": MIB })));
    host.volume("Volume.revert", at(json!({ "snapshot": old })));
    host.volume("Volume.compose", on(json!({ "key": clone, "key2": copy })));
    host.volume("Volume.unset", at(json!({ "k": "never-set" })));
    host.volume("Volume.disable_cbt", at(json!({})));
    host.volume("Volume.data_destroy", on(json!({ "key": old })));
    host.volume("SR.ls", on(json!({})));
    host.volume("Volume.destroy", at(json!({})));
    host.volume("Volume.destroy", at(json!({})));
    host.volume("Volume.stat", at(json!({})));
    host.volume("SR.detach", on(json!({})));
    host.volume("SR.stat", on(json!({})));
    host.volume("SR.attach", json!({ "configuration": configuration }));
    host.volume("SR.destroy", on(json!({})));
    compare(&normal(host.xapi.root(), &host.lines));
}

/// `xe sr-create`, and what is asked of an SR beside its disks.
fn sr(host: &mut Recorder) -> Value {
    host.volume("Plugin.query", json!({}));
    host.call(Side::Datapath, "Plugin.query", json!({}));
    let device_config = json!({ "size": "64MiB" });
    let new = json!({
        "uuid": SR, "configuration": device_config, "name": "scratch", "description": "for builds",
    });
    let configuration = host.volume("SR.create", new);
    host.volume("SR.attach", json!({ "configuration": configuration }));
    host.volume("SR.probe", json!({ "configuration": configuration }));
    host.volume("SR.set_name", json!({ "sr": SR, "new_name": "fast" }));
    host.volume("SR.set_description", json!({ "sr": SR, "new_description": "for tests" }));
    host.volume("SR.stat", json!({ "sr": SR }));
    host.volume("Plugin.ls", json!({}));
    host.volume("Plugin.diagnostics", json!({}));
    configuration
}

/// Changes two blocks of 64 KiB of the disk.
fn write(backend: &Value) {
    let uri = backend["implementations"].as_array().unwrap().iter().rfind(|it| it[0] == "Nbd");
    let uri = uri.unwrap()[1]["uri"].as_str().unwrap();
    let fields: Vec<&str> = uri.split(':').collect();
    let export = fields[3].strip_prefix("exportname=").unwrap();
    let uri = format!("nbd+unix:///{export}?socket={}", fields[2]);
    tools::run("qemu-io", &["-f", "raw", "-c", "write 0 4k", "-c", "write 192k 4k", &uri]);
}

/// A mirror and a copy to a server that is not there.
fn mirrors(host: &mut Recorder, uri: &Value) {
    let remote = "nbd+unix:///export?socket=/no/such/socket";
    let mut params = json!({ "uri": uri, "domain": "5", "remote": remote });
    let operation = json!({ "operation": host.datapath("Data.mirror", &params) });
    for method in ["ls", "stat", "cancel", "stat", "destroy"] {
        let params = if method == "ls" { json!({}) } else { operation.clone() };
        host.datapath(&format!("Data.{method}"), &params);
    }
    params["blocklist"] = json!({ "blocksize": 65536, "ranges": [[0, 1], [3, 1]] });
    let operation = json!({ "operation": host.datapath("Data.copy", &params) });
    host.datapath("Data.cancel", &operation);
    host.datapath("Data.destroy", &operation);
}

/// What differs between two runs is made the same: paths, UUIDs, space.
fn normal(root: &Path, lines: &[Value]) -> Vec<String> {
    let mut names = BTreeMap::new();
    let root = root.to_string_lossy();
    let mut normal = Vec::new();
    for line in lines {
        let mut line = line.clone();
        fix(&mut line);
        match line["method"].as_str() {
            Some("Plugin.diagnostics") => line["stdout"] = json!("SR fast: 1 volume, 0 MiB used\n"),
            // It has the number of a process.
            Some("Datapath.import_activate") => line["stdout"] = json!("/run/x/import.sock"),
            // In the order of their keys, which are random: snapshots first, then as they were made.
            Some("SR.ls") => {
                let made = |it: &Value| names.get(it["key"].as_str().expect("a key")).cloned();
                let list = line["stdout"].as_array_mut().expect("a list");
                list.sort_by_key(|it| (it["read_write"] == true, made(it)));
            }
            _ => {}
        }
        let text = line.to_string();
        let text = text.replace(&*format!("{root}/ctl"), "/run/blktap-control");
        let text = text.replace(&*format!("{root}/sr"), "/run/sr-mount");
        normal.push(uuids(&text, &mut names));
    }
    normal
}

fn fix(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match name.as_str() {
                    "free_space" => *value = json!(66_850_816),
                    "physical_utilisation" => *value = json!(8192),
                    "version" => *value = json!("1.0"),
                    "host" if value.as_str().is_some_and(|it| !it.contains(' ')) => {
                        *value = json!("3d1219c7c4c5404aaa1f6d2a48adfda4")
                    }
                    _ => fix(value),
                }
            }
        }
        // The key of an operation ends in a number of its own.
        Value::Array(items)
            if ["MirrorV1", "CopyV1"].iter().any(|it| items.first() == Some(&json!(it))) =>
        {
            let (volume, _) = items[1].as_str().and_then(|it| it.rsplit_once('/')).expect("a key");
            items[1] = json!(format!("{volume}/1"));
        }
        Value::Array(items) => items.iter_mut().for_each(fix),
        _ => {}
    }
}

/// UUIDs in the order in which they come.
fn uuids(text: &str, names: &mut BTreeMap<String, String>) -> String {
    let (mut made, mut at) = (String::new(), 0);
    while at < text.len() {
        let rest = &text[at..];
        let found = rest.get(..36).filter(|it| *it != SR && uuid::Uuid::try_parse(it).is_ok());
        if let Some(uuid) = found {
            let count = names.len() + 1;
            let name = || format!("{count:08x}-0000-4000-8000-{count:012x}");
            made.push_str(names.entry(uuid.to_owned()).or_insert_with(name));
            at += 36;
        } else {
            let letter = rest.chars().next().expect("the end is not reached");
            made.push(letter);
            at += letter.len_utf8();
        }
    }
    made
}

fn compare(lines: &[String]) {
    let text = lines.join("\n") + "\n";
    if std::env::var_os("UPDATE_EXCHANGES").is_some() {
        fs::write(FILE, text).unwrap();
        return;
    }
    let committed = fs::read_to_string(FILE).unwrap_or_default();
    for (number, (one, other)) in committed.lines().zip(text.lines()).enumerate() {
        assert_eq!(one, other, "{FILE}:{}: run this with UPDATE_EXCHANGES=1", number + 1);
    }
    assert_eq!(committed.lines().count(), lines.len(), "{FILE}");
}
