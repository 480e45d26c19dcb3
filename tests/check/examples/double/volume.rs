//! Volume.*: a record in the SR's file, and a sparse file of bytes.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustix::fs::{SeekFrom, seek};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    faults::has,
    state::{Error, Mark, Sr},
};

const BLOCK: usize = 64 << 10;

pub(crate) fn answer(name: &str, params: &Value) -> Result<Value, Error> {
    let text = |name: &str| params[name].as_str().unwrap_or_default().to_owned();
    let (handle, key) = (text("sr"), text("key"));
    let is_careless = match name {
        "create" => has("parallel.create") && text("name") == "at once",
        "set" => has("parallel.set") && text("k").starts_with("_sm_config_"),
        "snapshot" => has("parallel.snapshot"),
        _ => false,
    };
    if name == "stat" && has("volume.odd-keys") && key == "/etc/passwd" {
        let record =
            json!({ "size": 512, "keys": {}, "name": "", "description": "", "cbt": false });
        return Ok(record_of(&key, &record, ""));
    }
    let mut sr = if is_careless { Sr::unlocked(&handle)? } else { Sr::open(&handle)? };
    let marks = has("kill.volume") && !["stat", "similar_content"].contains(&name);
    let _mark = marks.then(|| Mark::set(sr.directory.join("busy"))).transpose()?;
    match name {
        "create" => create(&mut sr, params),
        "stat" => shown(&mut sr, &key),
        "destroy" => destroy(&mut sr, &key),
        "snapshot" => copy(&mut sr, &key, true),
        "clone" => copy(&mut sr, &key, false),
        "resize" => resize(&mut sr, &key, params["new_size"].as_u64().unwrap_or_default()),
        "set" => set(&mut sr, &key, &text("k"), &text("v")),
        "unset" => unset(&mut sr, &key, &text("k")),
        "set_name" => change(&mut sr, &key, "name", json!(text("new_name"))),
        "set_description" if has("name.rename") => Ok(Value::Null),
        "set_description" => change(&mut sr, &key, "description", json!(text("new_description"))),
        "enable_cbt" => change(&mut sr, &key, "cbt", json!(true)),
        "disable_cbt" => change(&mut sr, &key, "cbt", json!(false)),
        "data_destroy" => change(&mut sr, &key, "destroyed", json!(!has("cbt.data-destroy"))),
        "revert" => revert(&mut sr, &key, &text("snapshot")),
        "compose" => compose(&mut sr, &key, &text("key2")),
        "list_changed_blocks" => changed(&mut sr, &key, &text("key2")),
        "similar_content" if has("call.works") => {
            Err(Error::new("SR_BACKEND_FAILURE_38", "this does not work today"))
        }
        "similar_content" => Ok(json!([])),
        other => Err(Error::new("Unimplemented", format!("Volume.{other}"))),
    }
}

/// A record as Volume.stat and SR.ls show it.
pub(crate) fn shown(sr: &mut Sr, key: &str) -> Result<Value, Error> {
    if has("volume.destroy")
        && let Some(record) = sr.record["destroyed"].get(key)
    {
        return Ok(record_of(key, record, &sr.directory.display().to_string()));
    }
    let place = sr.directory.display().to_string();
    let mut shown = record_of(key, sr.volume(key)?, &place);
    if has("form.schema") {
        shown.as_object_mut().expect("a record").remove("physical_utilisation");
    }
    if has("form.optional") && shown["volume_type"] == "Data" {
        shown["volume_type"] = Value::Null;
    }
    if has("volume.stat") {
        shown["sharable"] = json!(true);
    }
    Ok(shown)
}

fn record_of(key: &str, record: &Value, place: &str) -> Value {
    let scheme = if has("datapath.uri") { "other" } else { "double" };
    let mut uri = format!("{scheme}://{place}/{key}");
    if has("datapath.uri-stable") {
        uri = format!("{uri}?{}", record["name"].as_str().unwrap_or_default().len());
    }
    let is_destroyed = record["destroyed"] == true;
    let mut keys = record["keys"].clone();
    if has("migrate.content-id") {
        keys["content_id"] = json!("always the same");
    }
    json!({
        "key": key, "name": record["name"], "description": record["description"],
        "uuid": if has("migrate.uuid") { format!("{key}0") } else { key.to_owned() },
        "read_write": record["read_write"] != false, "sharable": false,
        "virtual_size": record["size"], "physical_utilisation": 0, "uri": [uri], "keys": keys,
        "cbt_enabled": record["cbt"],
        "volume_type": if is_destroyed { "CBT_Metadata" } else { "Data" },
    })
}

fn size_of(asked: i64) -> Result<u64, Error> {
    let asked = u64::try_from(asked).map_err(|_| {
        Error::new("SR_BACKEND_FAILURE_79", format!("a volume cannot have {asked} bytes"))
    })?;
    Ok(match asked {
        0 if has("volume.size-zero") => 0,
        1..512 if has("volume.size") => asked,
        _ if has("migrate.size") => asked.max(1).next_multiple_of(4096),
        _ => asked.max(1).next_multiple_of(512),
    })
}

fn create(sr: &mut Sr, params: &Value) -> Result<Value, Error> {
    let size = size_of(params["size"].as_i64().unwrap_or_default())?;
    let key = Uuid::new_v4().to_string();
    let mut name = params["name"].as_str().unwrap_or_default().to_owned();
    if has("name.text") {
        name = name.replace('\n', " ");
    }
    let volumes = sr.record["volumes"].as_object().cloned().unwrap_or_default();
    if has("name.same") && name == "one name" && volumes.values().any(|it| it["name"] == name) {
        return Err(Error::new("SR_BACKEND_FAILURE_43", format!("there is a volume {name}")));
    }
    let file = File::create(sr.file(&key))?;
    let more = if has("data.size") && size % 1024 == 512 { 4096 } else { 0 };
    file.set_len(size + more)?;
    if has("data.zeroes") && size > 4 << 20 {
        file.write_all_at(&[0xff; 512], 3 << 20)?;
    }
    let record = json!({
        "name": name, "description": params["description"], "size": size, "cbt": has("cbt.enabled"),
        "keys": { "content_id": Uuid::new_v4().to_string() }, "read_write": !has("volume.writable"),
    });
    let shown = record_of(&key, &record, &sr.directory.display().to_string());
    sr.record["volumes"][&key] = record;
    sr.store()?;
    Ok(shown)
}

fn destroy(sr: &mut Sr, key: &str) -> Result<Value, Error> {
    let Ok(record) = sr.volume(key).cloned() else {
        if has("volume.destroy-again") {
            return Err(Error::new("SR_BACKEND_FAILURE_200", "the file cannot be removed"));
        }
        return Ok(Value::Null);
    };
    let volumes = sr.record["volumes"].as_object().cloned().unwrap_or_default();
    let siblings = volumes.values().filter(|it| it["origin"] == record["origin"]).count();
    let volumes = sr.record["volumes"].as_object_mut().expect("an object");
    volumes.remove(key);
    if has("snapshot.outlives") && record["snapshot"] == true && siblings > 1 {
        volumes.remove(record["origin"].as_str().unwrap_or_default());
    }
    let snapshots: Vec<String> =
        volumes.iter().filter(|(_, it)| it["origin"] == key).map(|(key, _)| key.clone()).collect();
    if has("data.outlives") {
        for snapshot in snapshots {
            File::create(sr.file(&snapshot))?
                .set_len(record["size"].as_u64().unwrap_or_default())?;
        }
    }
    sr.record["destroyed"][key] = record;
    sr.store()?;
    let _removed = fs::remove_file(sr.file(key));
    Ok(Value::Null)
}

fn copy(sr: &mut Sr, key: &str, is_snapshot: bool) -> Result<Value, Error> {
    let origin = sr.volume(key)?.clone();
    if is_snapshot && has("datapath.snapshot-active") && sr.is_active(key) {
        return Err(Error::new("SR_BACKEND_FAILURE_82", "the snapshot failed"));
    }
    if !is_snapshot && has("clone.on-boot") && origin["was_unset"] == true {
        return Err(Error::new("SR_BACKEND_FAILURE_81", "the volume has a clone already"));
    }
    let new = Uuid::new_v4().to_string();
    if !is_snapshot && has("data.clone") {
        fs::hard_link(sr.file(key), sr.file(&new))?;
    } else {
        let file = File::create(sr.file(&new))?;
        file.set_len(fs::metadata(sr.file(key))?.len())?;
        overlay(&sr.file(key), &sr.file(&new))?;
    }
    let mut record = origin.clone();
    record["keys"] = json!({ "content_id": Uuid::new_v4().to_string() });
    record["read_write"] = json!(!is_snapshot || has("snapshot.read-only"));
    if is_snapshot {
        record["snapshot"] = json!(true);
        record["origin"] = json!(key);
        record["late"] = json!(has("data.snapshot") && sr.is_active(key));
        if has("key.is-a-snapshot") {
            record["keys"]["is_a_snapshot"] = json!("1");
        }
        if has("snapshot.record") {
            record["description"] = json!("");
        }
        if has("cbt.snapshot") {
            record["cbt"] = json!(false);
        }
    } else {
        record["cbt"] = json!(false);
        record["snapshot"] = json!(false);
        record["origin"] = Value::Null;
        if has("clone.record") {
            record["name"] = json!("");
        }
        if has("clone.keys") {
            record["keys"] = origin["keys"].clone();
        }
    }
    sr.record["volumes"][&new] = record;
    sr.store()?;
    shown(sr, &new)
}

fn resize(sr: &mut Sr, key: &str, asked: u64) -> Result<Value, Error> {
    let old = sr.volume(key)?["size"].as_u64().unwrap_or_default();
    let mut new = size_of(asked.cast_signed())?;
    if new < old && !has("volume.shrink") {
        return Err(Error::new(
            "SR_BACKEND_FAILURE_79",
            format!("the volume has {old} bytes and cannot be made smaller: {asked}"),
        ));
    }
    let file = File::options().write(true).open(sr.file(key))?;
    file.set_len(new)?;
    if has("data.resize") && new > old {
        file.write_all_at(&[0xff; 512], old)?;
    }
    if has("volume.resize") {
        new -= 1;
    }
    change(sr, key, "size", json!(new))
}

fn change(sr: &mut Sr, key: &str, field: &str, value: Value) -> Result<Value, Error> {
    sr.volume(key)?[field] = value;
    sr.store().map(|()| Value::Null)
}

fn set(sr: &mut Sr, key: &str, k: &str, v: &str) -> Result<Value, Error> {
    if has("datapath.stat-active") && sr.is_active(key) {
        return Err(Error::new("SR_BACKEND_FAILURE_24", "the volume is in use"));
    }
    let volume = sr.volume(key)?;
    if has("key.own-fields") && k == "name" {
        volume["name"] = json!(v);
    }
    let is_dropped = has("key.set") && volume["keys"].get(k).is_some()
        || has("snapshot.keys") && k == "snapshot_time";
    if !is_dropped {
        let kept = if has("key.text") { v.chars().take(1000).collect() } else { v.to_owned() };
        volume["keys"][k] = json!(kept);
    }
    sr.store().map(|()| Value::Null)
}

fn unset(sr: &mut Sr, key: &str, k: &str) -> Result<Value, Error> {
    let volume = sr.volume(key)?;
    let removed = volume["keys"].as_object_mut().and_then(|it| it.remove(k));
    if has("key.unset-absent") && removed.is_none() {
        return Err(Error::new("SR_BACKEND_FAILURE_1", format!("there is no key {k}")));
    }
    if k == "clone-on-boot" {
        volume["was_unset"] = json!(true);
    }
    sr.store()?;
    Ok(if has("form.unit") { json!({}) } else { Value::Null })
}

fn revert(sr: &mut Sr, key: &str, snapshot: &str) -> Result<Value, Error> {
    let size = sr.volume(snapshot)?["size"].clone();
    if !has("data.revert") {
        File::create(sr.file(key))?.set_len(size.as_u64().unwrap_or_default())?;
        overlay(&sr.file(snapshot), &sr.file(key))?;
    }
    change(sr, key, "size", size)
}

/// Puts what the child has written over its parent, and that in the child's place.
fn compose(sr: &mut Sr, child: &str, parent: &str) -> Result<Value, Error> {
    sr.volume(child)?;
    sr.volume(parent)?;
    overlay(&sr.file(child), &sr.file(parent))?;
    sr.record["volumes"].as_object_mut().expect("an object").remove(parent);
    sr.store()?;
    fs::rename(sr.file(parent), sr.file(child))?;
    Ok(Value::Null)
}

/// Copies what was written in a file, which is what is no hole, into another one.
fn overlay(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (File::open(from)?, File::options().write(true).open(to)?);
    let mut at = 0;
    while let Ok(begin) = seek(&from, SeekFrom::Data(at)) {
        at = seek(&from, SeekFrom::Hole(begin))?;
        let mut bytes = vec![0; usize::try_from(at - begin).expect("it fits in memory")];
        from.read_exact_at(&mut bytes, begin)?;
        if has("migrate.compose") {
            for (index, page) in bytes.chunks(512).enumerate() {
                if page.iter().any(|it| *it != 0) {
                    to.write_all_at(page, begin + index as u64 * 512)?;
                }
            }
        } else {
            to.write_all_at(&bytes, begin)?;
        }
    }
    Ok(())
}

fn changed(sr: &mut Sr, old: &str, new: &str) -> Result<Value, Error> {
    sr.volume(old)?;
    sr.volume(new)?;
    let (old, new) = (fs::read(sr.file(old))?, fs::read(sr.file(new))?);
    let length = old.len().max(new.len()).div_ceil(BLOCK);
    let mut bitmap = vec![0u8; length.div_ceil(8)];
    for block in 0..length {
        let range = |it: &[u8]| {
            it.get(block * BLOCK..).map(|rest| rest[..rest.len().min(BLOCK)].to_owned())
        };
        if range(&old) != range(&new) {
            let bit = if has("cbt.blocks") { 1 << (block % 8) } else { 0x80 >> (block % 8) };
            bitmap[block / 8] |= bit;
        }
    }
    if has("cbt.unchanged") && bitmap.iter().all(|it| *it == 0) {
        bitmap.fill(0xff);
    }
    if !has("cbt.padding") {
        bitmap.resize(bitmap.len().next_multiple_of(4), 0);
    }
    if has("cbt.length") {
        bitmap.truncate(bitmap.len() - 4);
    }
    let granularity = if has("cbt.granularity") { 4096 } else { BLOCK };
    Ok(json!({ "granularity": granularity, "bitmap": STANDARD.encode(bitmap) }))
}
