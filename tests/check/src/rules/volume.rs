//! Volumes: their sizes, their records, and their end.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Check::Once, Need, Rule, source};
use crate::{
    host::{Host, Volume},
    outcome::{Outcome, Stop},
};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "volume.size",
        title: "virtual_size is at least what was asked for, and a multiple of 512",
        reference: "xen-api ocaml/xapi-storage/generator/lib/control.ml, Volume.create; a sector has 512 bytes",
        consequence: "a copy or an import ends with no space left on the device, or loses the last bytes",
        needs: &[],
        check: Once(size),
    },
    Rule {
        id: "volume.size-zero",
        title: "a volume of size 0 is refused or has a sector, and a negative size is refused",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, vdi_create_impl: the size is not checked",
        consequence: "a disk that no guest can use, or an error that does not say why",
        needs: &[],
        check: Once(size_zero),
    },
    Rule {
        id: "volume.stat",
        title: "Volume.stat says what Volume.create has answered",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, vdi_create_impl and vdi_stat_impl",
        consequence: "the disk changes with the first scan",
        needs: &[],
        check: Once(stat),
    },
    Rule {
        id: "volume.writable",
        title: "a new volume can be written and is as sharable as was asked for",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, vdi_of_volume: read_only",
        consequence: "xe vbd-plug refuses a disk that was just made as read-only",
        needs: &[],
        check: Once(writable),
    },
    Rule {
        id: "volume.resize",
        title: "Volume.resize enlarges, and Volume.stat says so",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, vdi_resize_impl",
        consequence: "xe vdi-resize succeeds and changes nothing",
        needs: &[Need::Method("Volume.resize")],
        check: Once(resize),
    },
    Rule {
        id: "volume.shrink",
        title: "Volume.resize to a smaller size is refused, and changes nothing",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, vdi_resize_impl: the size is not checked",
        consequence: "a wrong number in xe vdi-resize destroys the end of a disk",
        needs: &[Need::Method("Volume.resize")],
        check: Once(shrink),
    },
    Rule {
        id: "volume.destroy",
        title: "a destroyed volume is neither listed nor found",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, vdi_destroy_impl",
        consequence: "the disk comes back with the next scan",
        needs: &[],
        check: Once(destroy),
    },
    Rule {
        id: "volume.destroy-again",
        title: "destroying a destroyed volume succeeds, or says Volume_does_not_exist",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, vdi_destroy_impl: twice for a clone on boot",
        consequence: "a disk that is reset on boot cannot be deleted, with an error that nothing explains",
        needs: &[],
        check: Once(destroy_again),
    },
    Rule {
        id: "volume.unknown",
        title: "Volume.stat of a key that is not there fails with Volume_does_not_exist",
        reference: source::CONTROL,
        consequence: "xapi goes on with a disk that is lost, or shows an error that does not say so",
        needs: &[],
        check: Once(unknown),
    },
    Rule {
        id: "volume.odd-keys",
        title: "a key that looks like a path finds nothing outside of the SR",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, vdi_introduce_impl: the location of xe vdi-introduce",
        consequence: "xe vdi-introduce reaches files of the host",
        needs: &[],
        check: Once(odd_keys),
    },
];

fn number(value: &Value) -> u64 {
    let whole = value.as_f64().filter(|it| *it >= 0.0).map(|it| format!("{it:.0}"));
    whole.and_then(|it| it.parse().ok()).unwrap_or_default()
}

/// Whether a size is one that a disk can have.
fn is_sectors(size: u64) -> bool {
    size > 0 && size.is_multiple_of(512)
}

fn size(host: &Host) -> Outcome {
    let usual = host.options.volume_bytes();
    for asked in [1, 511, 513, usual, usual + 1, usual + 512] {
        let reply = host.create("size", asked)?;
        let volume = reply.clone().expected(&format!("for a size of {asked} bytes"))?;
        let is = number(&volume["virtual_size"]);
        if is < asked || !is.is_multiple_of(512) {
            return Err(reply.wrong(format!("asked for {asked} bytes, virtual_size is {is}")));
        }
    }
    Ok(())
}

fn size_zero(host: &Host) -> Outcome {
    let reply = host.create("no size", 0)?;
    if let Ok(volume) = &reply.result
        && !is_sectors(number(&volume["virtual_size"]))
    {
        return Err(
            reply.wrong(format!("asked for 0 bytes, virtual_size is {}", volume["virtual_size"]))
        );
    }
    let params = json!({ "name": "negative", "description": "", "size": -512, "sharable": false });
    let reply = host.call_wrong("Volume.create", host.with_sr(params)?)?;
    host.note(&reply);
    reply.refused("for a size of -512 bytes").map(drop)
}

fn stat(host: &Host) -> Outcome {
    let reply = host.create("named", host.options.volume_bytes())?;
    let made = Volume::of(reply.prepared()?)?;
    let reply = host.on(&made, "Volume.stat", json!({}))?;
    let stat = reply.clone().expected("for a new volume")?;
    for field in
        ["key", "uuid", "name", "description", "sharable", "read_write", "virtual_size", "uri"]
    {
        if stat[field] != made.value[field] {
            let (one, other) = (&made.value[field], &stat[field]);
            return Err(reply
                .wrong(format!("{field} is {one} in Volume.create and {other} in Volume.stat")));
        }
    }
    match stat["name"] == "named" && stat["description"] == "" {
        true => Ok(()),
        false => Err(reply.wrong("the name or description is not the one that was asked for")),
    }
}

fn writable(host: &Host) -> Outcome {
    let reply = host.create("writable", host.options.volume_bytes())?;
    let volume = reply.clone().prepared()?;
    if volume["read_write"] == false {
        return Err(reply.wrong("read_write of a new volume is false"));
    }
    match &volume["sharable"] {
        Value::Bool(true) => Err(reply.wrong("sharable is true, and was not asked for")),
        _ => Ok(()),
    }
}

fn resize(host: &Host) -> Outcome {
    let volume = host.volume()?;
    let asked = host.options.volume_bytes() * 2;
    host.on(&volume, "Volume.resize", json!({ "new_size": asked }))?
        .expected("to twice the size")?;
    let reply = host.on(&volume, "Volume.stat", json!({}))?;
    let is = number(&reply.clone().prepared()?["virtual_size"]);
    match is >= asked && is.is_multiple_of(512) {
        true => Ok(()),
        false => Err(reply.wrong(format!("resized to {asked} bytes, virtual_size is {is}"))),
    }
}

fn shrink(host: &Host) -> Outcome {
    let volume = host.volume()?;
    let before = number(&host.stat(&volume)?["virtual_size"]);
    let mut params = host.with_sr(json!({ "new_size": before / 2 }))?;
    params["key"] = json!(volume.key);
    host.call_wrong("Volume.resize", params)?
        .refused(&format!("from {before} to {} bytes", before / 2))?;
    let reply = host.on(&volume, "Volume.stat", json!({}))?;
    let after = number(&reply.clone().prepared()?["virtual_size"]);
    match after == before {
        true => Ok(()),
        false => {
            Err(reply.wrong(format!("virtual_size was {before} and is {after} after the refusal")))
        }
    }
}

fn destroy(host: &Host) -> Outcome {
    let volume = host.volume()?;
    host.on(&volume, "Volume.destroy", json!({}))?.expected("")?;
    if host.listed()?.contains(&volume.key) {
        return Err(Stop::fail(format!("SR.ls still lists {}", volume.key)));
    }
    let params = host.with_sr(json!({ "key": volume.key }))?;
    host.call_wrong("Volume.stat", params)?.refused("for a destroyed volume").map(drop)
}

fn destroy_again(host: &Host) -> Outcome {
    let volume = host.volume()?;
    host.on(&volume, "Volume.destroy", json!({}))?.prepared()?;
    let reply = host.on(&volume, "Volume.destroy", json!({}))?;
    match &reply.result {
        Err(failure) if !Host::names_missing_volume(failure) => {
            Err(reply.wrong(format!("the second Volume.destroy failed: {failure}")))
        }
        _ => Ok(()),
    }
}

fn unknown(host: &Host) -> Outcome {
    let key = Uuid::new_v4().to_string();
    let reply = host.call_wrong("Volume.stat", host.with_sr(json!({ "key": key }))?)?;
    let failure = reply.clone().refused("for a key that is not there")?;
    match Host::names_missing_volume(&failure) {
        true => Ok(()),
        false => Err(reply.wrong("the error does not say Volume_does_not_exist")),
    }
}

fn odd_keys(host: &Host) -> Outcome {
    for key in ["../../../../etc/passwd", "/etc/passwd", "..", "", "a\nb"] {
        let reply = host.call_wrong("Volume.stat", host.with_sr(json!({ "key": key }))?)?;
        reply.refused(&format!("for the key {key:?}"))?;
    }
    Ok(())
}
