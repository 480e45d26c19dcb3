//! SR.*

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{
    faults::has,
    state::{Error, Sr},
    volume,
};

/// Bytes that the SR says that it has.
const TOTAL: u64 = 1 << 40;

pub(crate) fn answer(name: &str, params: &Value) -> Result<Value, Error> {
    let text = |name: &str| params[name].as_str().unwrap_or_default().to_owned();
    match name {
        "create" => create(params),
        "probe" => probe(&params["configuration"]),
        "attach" => attach(&directory(&params["configuration"])),
        "stat" => stat(&text("sr"), params),
        "ls" => ls(&text("sr")),
        "detach" => detach(&text("sr")),
        "destroy" => destroy(&text("sr")),
        "set_name" | "set_description" => {
            let mut sr = Sr::open(&text("sr"))?;
            let (field, new) = match name {
                "set_name" => ("name", text("new_name")),
                _ => ("description", text("new_description")),
            };
            if !has("sr.rename") {
                sr.record[field] = json!(new);
            }
            sr.store().map(|()| Value::Null)
        }
        other => Err(Error::new("Unimplemented", format!("SR.{other}"))),
    }
}

fn directory(configuration: &Value) -> String {
    configuration["dir"].as_str().unwrap_or_default().to_owned()
}

fn create(params: &Value) -> Result<Value, Error> {
    let configuration = &params["configuration"];
    let place = directory(configuration);
    if place.is_empty() {
        return Err(Error::new("SR_BACKEND_FAILURE_115", "give device-config:dir=<a directory>"));
    }
    let description = if has("sr.name") { &json!("") } else { &params["description"] };
    let record = json!({
        "uuid": params["uuid"], "name": params["name"], "description": description,
        "attached": false, "volumes": {}, "paths": {}, "destroyed": {}, "operations": 0, "sockets": 0,
    });
    Sr::create(Path::new(&place), record)?;
    Ok(configuration.clone())
}

fn attach(handle: &str) -> Result<Value, Error> {
    let mut sr = Sr::open(handle)?;
    if has("sr.attach-again") && sr.record["attached"] == true {
        return Err(Error::new("SR_BACKEND_FAILURE_16", "the SR is attached already"));
    }
    sr.record["attached"] = json!(true);
    sr.store()?;
    Ok(json!(handle))
}

fn detach(handle: &str) -> Result<Value, Error> {
    let mut sr = Sr::open(handle)?;
    if has("sr.detach-again") && sr.record["attached"] == false {
        return Err(Error::new("SR_BACKEND_FAILURE_47", "the SR is not attached"));
    }
    if has("sr.reattach")
        && let Some(volumes) = sr.record["volumes"].as_object_mut()
    {
        volumes
            .values_mut()
            .for_each(|it| it["keys"] = json!({ "content_id": it["keys"]["content_id"] }));
    }
    sr.record["attached"] = json!(false);
    sr.store().map(|()| Value::Null)
}

fn destroy(handle: &str) -> Result<Value, Error> {
    let sr = Sr::open(handle)?;
    if has("sr.destroy") && sr.record["attached"] == true {
        return Err(Error::new("SR_BACKEND_FAILURE_16", "the SR is attached"));
    }
    for entry in fs::read_dir(&sr.directory)?.flatten() {
        fs::remove_file(entry.path())?;
    }
    Ok(Value::Null)
}

fn stat(handle: &str, params: &Value) -> Result<Value, Error> {
    if has("call.unknown-field") && params.as_object().is_some_and(|it| it.len() > 2) {
        return Err(Error::new("SR_BACKEND_FAILURE_143", "the request is wrong"));
    }
    let sr = Sr::open(handle);
    let record = match sr {
        Err(_) if has("sr.unknown") => json!({ "uuid": "", "name": "", "description": "" }),
        other => other?.record,
    };
    let free = if has("sr.space") { TOTAL + 1 } else { TOTAL / 2 };
    let mut stat = json!({
        "sr": handle, "name": record["name"], "description": record["description"],
        "uuid": if has("sr.uuid") { json!("another") } else { record["uuid"].clone() },
        "free_space": free, "total_space": TOTAL, "datasources": [], "clustered": false,
        "health": [if has("sr.new") { "Recovering" } else { "Healthy" }, ""],
    });
    if has("form.integers") {
        stat["free_space"] = json!(free as f64);
    }
    Ok(stat)
}

fn ls(handle: &str) -> Result<Value, Error> {
    let mut sr = Sr::open(handle)?;
    let keys = sr.record["volumes"].as_object().cloned().unwrap_or_default();
    let mut all = Vec::new();
    for key in keys.keys() {
        let mut record = volume::shown(&mut sr, key)?;
        if has("sr.list") {
            record["name"] = json!("disk");
        }
        if has("call.long-answer") {
            let text: String = record["description"].as_str().unwrap_or_default().into();
            record["description"] = json!(text.chars().take(1000).collect::<String>());
        }
        all.push(record);
    }
    Ok(Value::Array(all))
}

fn probe(configuration: &Value) -> Result<Value, Error> {
    let handle = directory(configuration);
    let Ok(sr) = Sr::open(&handle) else { return Ok(json!([])) };
    let mut found = configuration.clone();
    if !has("sr.probe") {
        found["sr_uuid"] = sr.record["uuid"].clone();
    }
    drop(sr);
    let stat = stat(&handle, &json!({}))?;
    Ok(json!([{ "configuration": found, "complete": true, "sr": stat, "extra_info": {} }]))
}
