//! SRs: made, attached, looked at, detached, destroyed.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Check::Once, Need, Rule, source};
use crate::{
    host::{Host, SR_DESCRIPTION, SR_NAME},
    outcome::{Outcome, Stop},
};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "sr.new",
        title: "a new SR is Healthy, names its own handle, and is empty",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, sr_attach_impl and sr_scan2_impl",
        consequence: "xe sr-create ends with SR_UNHEALTHY, or the SR shows disks that nobody made",
        needs: &[],
        check: Once(new),
    },
    Rule {
        id: "sr.name",
        title: "SR.stat tells the name and description that the SR was created with",
        reference: "xen-api ocaml/xapi/xapi_sr.ml, scan: both are written into the database",
        consequence: "after the first xe sr-scan the SR has another name",
        needs: &[],
        check: Once(name),
    },
    Rule {
        id: "sr.uuid",
        title: "the uuid of SR.stat, where there is one, is the one that the SR was created with",
        reference: source::CONTROL,
        consequence: "xe sr-probe-ext shows an SR that xapi does not know, and xe sr-introduce makes a second one",
        needs: &[],
        check: Once(uuid),
    },
    Rule {
        id: "sr.space",
        title: "free_space lies between 0 and total_space",
        reference: "xen-api ocaml/xapi/xapi_sr.ml, update: physical_size and physical_utilisation",
        consequence: "clients show a negative use of the SR, and refuse or overfill it",
        needs: &[],
        check: Once(space),
    },
    Rule {
        id: "sr.attach-again",
        title: "attaching an attached SR succeeds and gives the same handle",
        reference: "xen-api ocaml/xapi/xapi_sr.ml, destroy: SR.attach precedes it, and so does each start of xapi",
        consequence: "after a restart of the toolstack the PBD stays unplugged",
        needs: &[],
        check: Once(attach_again),
    },
    Rule {
        id: "sr.reattach",
        title: "an SR that was detached and attached again has its volumes",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, sr_detach_impl and sr_attach_impl",
        consequence: "the disks are lost after xe pbd-unplug and pbd-plug",
        needs: &[Need::Method("SR.detach")],
        check: Once(reattach),
    },
    Rule {
        id: "sr.detach-again",
        title: "detaching a detached SR succeeds",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, sr_detach_impl: a daemon that dies after the call repeats it",
        consequence: "xe pbd-unplug fails for ever, and with it the shutdown of the host",
        needs: &[Need::Method("SR.detach")],
        check: Once(detach_again),
    },
    Rule {
        id: "sr.rename",
        title: "SR.set_name and SR.set_description are seen in SR.stat",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, sr_set_name_label_impl",
        consequence: "the next xe sr-scan puts the old name back",
        needs: &[Need::Method("SR.set_name"), Need::Method("SR.set_description")],
        check: Once(rename),
    },
    Rule {
        id: "sr.list",
        title: "SR.ls says of each volume what Volume.stat says",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, sr_scan2_impl and vdi_stat_impl",
        consequence: "sizes, names and keys of disks change back and forth between scans",
        needs: &[],
        check: Once(list),
    },
    Rule {
        id: "sr.probe",
        title: "SR.probe finds configurations in a form that the daemon takes",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, sr_probe_impl",
        consequence: "xe sr-probe-ext fails: a configuration is not attachable without a uuid, or incomplete with one",
        needs: &[Need::Method("SR.probe")],
        check: Once(probe),
    },
    Rule {
        id: "sr.unknown",
        title: "SR.stat of an SR that is not there fails",
        reference: source::CONTROL,
        consequence: "a lost SR is shown as a healthy one",
        needs: &[],
        check: Once(unknown),
    },
];

/// Ends the SR, so it comes last.
pub(super) const LAST: &[Rule] = &[Rule {
    id: "sr.destroy",
    title: "SR.destroy of an attached and empty SR succeeds, without SR.detach before it",
    reference: "xen-api ocaml/xapi/xapi_sr.ml, destroy: SR.attach, then SR.destroy",
    consequence: "xe sr-destroy fails",
    needs: &[Need::Method("SR.destroy")],
    check: Once(destroy),
}];

fn new(host: &Host) -> Outcome {
    let sr = host.sr()?;
    if sr.stat["health"][0] != "Healthy" {
        return Err(Stop::fail(format!("the health of the new SR is {}", sr.stat["health"])));
    }
    if sr.stat["sr"] != sr.handle.as_str() {
        let (told, handle) = (&sr.stat["sr"], &sr.handle);
        return Err(Stop::fail(format!(
            "SR.stat says sr is {told}, and SR.attach gave {handle:?}"
        )));
    }
    match sr.ls.as_array().map(Vec::as_slice) {
        Some([]) => Ok(()),
        _ => Err(Stop::fail(format!("SR.ls of the new SR is {}", sr.ls))),
    }
}

fn name(host: &Host) -> Outcome {
    let stat = host.sr()?.stat;
    let (name, description) = (&stat["name"], &stat["description"]);
    match name == SR_NAME && description == SR_DESCRIPTION {
        true => Ok(()),
        false => Err(Stop::fail(format!(
            "created as {SR_NAME:?}, {SR_DESCRIPTION:?}; SR.stat says {name}, {description}"
        ))),
    }
}

fn uuid(host: &Host) -> Outcome {
    let sr = host.sr()?;
    match &sr.stat["uuid"] {
        Value::Null => Err(Stop::skip("SR.stat tells no uuid")),
        told if *told == sr.uuid.as_str() => Ok(()),
        told => Err(Stop::fail(format!("created with {:?}; SR.stat says {told}", sr.uuid))),
    }
}

fn space(host: &Host) -> Outcome {
    host.volume()?;
    let reply = host.on_sr("SR.stat", json!({}))?;
    let stat = reply.clone().prepared()?;
    let bytes = |name: &str| stat[name].as_f64().unwrap_or(-1.0);
    let (free, total) = (bytes("free_space"), bytes("total_space"));
    match (0.0..=total).contains(&free) {
        true => Ok(()),
        false => Err(reply.wrong(format!("free_space {free}, total_space {total}"))),
    }
}

/// SR.attach with the configuration of the SR; later rules go on with the handle that it gives.
fn attach(host: &Host, why: &str) -> Result<String, Stop> {
    let configuration = host.sr()?.configuration;
    let reply = host.call("SR.attach", json!({ "configuration": configuration }))?;
    let handle = reply.expected(why)?;
    let handle = handle.as_str().map_or_else(|| handle.to_string(), str::to_owned);
    host.set_handle(handle.clone());
    Ok(handle)
}

fn attach_again(host: &Host) -> Outcome {
    let (sr, volume) = (host.sr()?, host.volume()?);
    let handle = attach(host, "for an SR that is attached")?;
    if handle != sr.handle {
        let first = sr.handle;
        return Err(Stop::fail(format!("the handle was {first:?} and is now {handle:?}")));
    }
    match host.listed()?.contains(&volume.key) {
        true => Ok(()),
        false => Err(Stop::fail(format!("volume {} is lost by a second SR.attach", volume.key))),
    }
}

fn reattach(host: &Host) -> Outcome {
    let volume = host.volume()?;
    let before = host.stat(&volume)?;
    host.on_sr("SR.detach", json!({}))?.expected("for an attached SR without active volumes")?;
    attach(host, "after SR.detach")?;
    let after = host.on(&volume, "Volume.stat", json!({}))?;
    let stat = after.clone().expected("after SR.detach and SR.attach")?;
    for field in ["key", "name", "virtual_size", "keys"] {
        if stat[field] != before[field] {
            let (was, is) = (&before[field], &stat[field]);
            return Err(
                after.wrong(format!("{field} was {was} and is {is} after SR.detach and SR.attach"))
            );
        }
    }
    Ok(())
}

fn detach_again(host: &Host) -> Outcome {
    host.on_sr("SR.detach", json!({}))?.prepared()?;
    let second = host.on_sr("SR.detach", json!({}))?;
    attach(host, "after SR.detach")?;
    second.expected("for an SR that is detached").map(drop)
}

fn rename(host: &Host) -> Outcome {
    host.on_sr("SR.set_name", json!({ "new_name": "other name" }))?.expected("")?;
    host.on_sr("SR.set_description", json!({ "new_description": "other text" }))?.expected("")?;
    let reply = host.on_sr("SR.stat", json!({}))?;
    let stat = reply.clone().prepared()?;
    host.on_sr("SR.set_name", json!({ "new_name": SR_NAME }))?.expected("")?;
    host.on_sr("SR.set_description", json!({ "new_description": SR_DESCRIPTION }))?.expected("")?;
    match stat["name"] == "other name" && stat["description"] == "other text" {
        true => Ok(()),
        false => Err(reply.wrong("the new name or description is not in SR.stat")),
    }
}

fn list(host: &Host) -> Outcome {
    host.volume()?;
    host.volume()?;
    let ls = host.on_sr("SR.ls", json!({}))?;
    let all = ls.clone().prepared()?;
    let all = all.as_array().cloned().unwrap_or_default();
    if all.len() < 2 {
        return Err(ls.wrong(format!("SR.ls lists {} of 2 volumes", all.len())));
    }
    for listed in all {
        let reply = host.on_sr("Volume.stat", json!({ "key": listed["key"] }))?;
        let stat = reply.clone().expected("for a volume that SR.ls lists")?;
        let fields = [
            "key",
            "uuid",
            "name",
            "description",
            "read_write",
            "sharable",
            "virtual_size",
            "uri",
            "keys",
            "volume_type",
            "cbt_enabled",
        ];
        for field in fields {
            if listed[field] != stat[field] {
                let (one, other) = (&listed[field], &stat[field]);
                return Err(
                    reply.wrong(format!("{field} is {one} in SR.ls and {other} in Volume.stat"))
                );
            }
        }
    }
    Ok(())
}

fn probe(host: &Host) -> Outcome {
    host.sr()?;
    let reply = host.call("SR.probe", json!({ "configuration": host.configuration() }))?;
    let found = reply.clone().expected("with the device-config of an SR that is there")?;
    for result in found.as_array().into_iter().flatten() {
        let has_uuid = result["configuration"].get("sr_uuid").is_some();
        let (has_sr, is_complete) = (!result["sr"].is_null(), result["complete"] == true);
        if has_uuid && !is_complete {
            return Err(reply.wrong("a configuration with sr_uuid is not complete"));
        }
        if has_sr && !has_uuid {
            return Err(reply.wrong("a result has sr, and no sr_uuid in its configuration"));
        }
    }
    Ok(())
}

fn unknown(host: &Host) -> Outcome {
    host.sr()?;
    let unknown = Uuid::new_v4().to_string();
    let reply = host.call_wrong("SR.stat", json!({ "sr": unknown }))?;
    reply.refused("for an SR that is not there").map(drop)
}

fn destroy(host: &Host) -> Outcome {
    host.sr()?;
    let reply = host.end().ok_or_else(|| Stop::blocked("the SR was destroyed before"))?;
    reply.expected("for an attached and empty SR").map(drop)
}
