//! Snapshots and clones, as records: what they take from their origin and what they do not.

use serde_json::json;

use super::{Check::Once, Need, Rule, source};
use crate::{
    host::{Host, Volume},
    outcome::{Outcome, Stop},
};

const SNAPSHOT: &[Need] = &[Need::Method("Volume.snapshot")];
const CLONE: &[Need] = &[Need::Method("Volume.clone")];

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "snapshot.record",
        title: "a snapshot is a volume of its own with the origin's name, description and size",
        reference: source::CONTROL,
        consequence: "xe vdi-snapshot gives a disk of another size or without a name",
        needs: SNAPSHOT,
        check: Once(snapshot_record),
    },
    Rule {
        id: "snapshot.read-only",
        title: "read_write of a snapshot is false",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, vdi_of_volume: read_only is its opposite",
        consequence: "a snapshot is shown as a disk that can be written, and a VM changes the backup",
        needs: SNAPSHOT,
        check: Once(read_only),
    },
    Rule {
        id: "snapshot.keys",
        title: "the keys that xapi sets on a snapshot stay with it, and with it alone",
        reference: source::SNAPSHOT,
        consequence: "after a scan the snapshot is an ordinary disk, or the disk is a snapshot",
        needs: &[Need::Method("Volume.snapshot"), Need::Method("Volume.set")],
        check: Once(snapshot_keys),
    },
    Rule {
        id: "snapshot.outlives",
        title: "a snapshot stays when its origin is destroyed, and the other way round",
        reference: "xen-api ocaml/xapi/xapi_vm_snapshot.ml: a VM is deleted and its snapshots are kept",
        consequence: "deleting a VM destroys its snapshots",
        needs: SNAPSHOT,
        check: Once(outlives),
    },
    Rule {
        id: "clone.record",
        title: "a clone is a writable volume with the origin's name, description and size",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, vdi_clone_impl",
        consequence: "xe vm-clone gives a VM whose disk it cannot use",
        needs: CLONE,
        check: Once(clone_record),
    },
    Rule {
        id: "clone.keys",
        title: "a clone of a snapshot has no key that says it is one",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, vdi_clone_impl: no Volume.unset follows",
        consequence: "a VM made of a snapshot has a disk that xapi takes for a snapshot and hides",
        needs: &[
            Need::Method("Volume.clone"),
            Need::Method("Volume.snapshot"),
            Need::Method("Volume.set"),
        ],
        check: Once(clone_keys),
    },
    Rule {
        id: "clone.on-boot",
        title: "the disk of a VM that forgets its writes is cloned at each start and the clone destroyed",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, vdi_epoch_begin_impl and vdi_epoch_end_impl",
        consequence: "a VM whose disk is reset on boot does not start a second time",
        needs: &[
            Need::Method("Volume.clone"),
            Need::Method("Volume.set"),
            Need::Method("Volume.unset"),
        ],
        check: Once(clone_on_boot),
    },
];

/// A volume with a name and description of its own.
fn named(host: &Host) -> Result<Volume, Stop> {
    let params = json!({
        "name": "origin", "description": "of copies", "size": host.options.volume_bytes(),
        "sharable": false,
    });
    let reply = host.on_sr("Volume.create", params)?;
    host.note(&reply);
    Volume::of(reply.prepared()?)
}

fn same_record(host: &Host, method: &str) -> Result<(Volume, serde_json::Value), Stop> {
    let origin = named(host)?;
    let reply = host.on(&origin, method, json!({}))?;
    host.note(&reply);
    let made = Volume::of(reply.clone().expected("for a volume that is not in use")?)?;
    if made.key == origin.key {
        return Err(reply.wrong("it has the key of its origin"));
    }
    let stat = host.stat(&made)?;
    for field in ["name", "description", "virtual_size"] {
        if stat[field] != origin.value[field] {
            let (one, other) = (&origin.value[field], &stat[field]);
            return Err(reply.wrong(format!("{field} is {one} in the origin and {other} in it")));
        }
    }
    if !host.listed()?.contains(&made.key) {
        return Err(reply.wrong("SR.ls does not list it"));
    }
    Ok((made, stat))
}

fn snapshot_record(host: &Host) -> Outcome {
    same_record(host, "Volume.snapshot").map(drop)
}

fn read_only(host: &Host) -> Outcome {
    let origin = host.volume()?;
    let snapshot = host.derive(&origin, "Volume.snapshot")?;
    let reply = host.on(&snapshot, "Volume.stat", json!({}))?;
    match reply.clone().prepared()?["read_write"] == false {
        true => Ok(()),
        false => Err(reply.wrong("read_write is not false")),
    }
}

/// What the daemon sets on a new snapshot, beside `content_id`.
fn mark(host: &Host, snapshot: &Volume, origin: &Volume) -> Outcome {
    let keys = [
        ("snapshot_time", "20261122T13:08:25Z"),
        ("is_a_snapshot", "true"),
        ("snapshot_of", origin.key.as_str()),
        ("vdi-type", "user"),
    ];
    for (k, v) in keys {
        host.on(snapshot, "Volume.set", json!({ "k": k, "v": v }))?.expected("on a snapshot")?;
    }
    Ok(())
}

fn snapshot_keys(host: &Host) -> Outcome {
    let origin = host.volume()?;
    let snapshot = host.derive(&origin, "Volume.snapshot")?;
    mark(host, &snapshot, &origin)?;
    let reply = host.on(&snapshot, "Volume.stat", json!({}))?;
    let keys = reply.clone().prepared()?["keys"].clone();
    let is_marked = keys["is_a_snapshot"] == "true" && keys["snapshot_of"] == origin.key.as_str();
    if !is_marked || keys["snapshot_time"] != "20261122T13:08:25Z" {
        return Err(reply.wrong("the snapshot has not kept the keys that were set"));
    }
    let reply = host.on(&origin, "Volume.stat", json!({}))?;
    match reply.clone().prepared()?["keys"].get("is_a_snapshot") {
        Some(value) if value == "true" => Err(reply.wrong("the origin has the snapshot's keys")),
        _ => Ok(()),
    }
}

fn outlives(host: &Host) -> Outcome {
    let origin = host.volume()?;
    let first = host.derive(&origin, "Volume.snapshot")?;
    let second = host.derive(&origin, "Volume.snapshot")?;
    host.on(&first, "Volume.destroy", json!({}))?.expected("for a snapshot")?;
    host.on(&origin, "Volume.stat", json!({}))?.expected("after its snapshot was destroyed")?;
    host.on(&origin, "Volume.destroy", json!({}))?.expected("for a volume with a snapshot")?;
    host.on(&second, "Volume.stat", json!({}))?.expected("after its origin was destroyed")?;
    host.on(&second, "Volume.destroy", json!({}))?
        .expected("after its origin was destroyed")
        .map(drop)
}

fn clone_record(host: &Host) -> Outcome {
    let (_, stat) = same_record(host, "Volume.clone")?;
    match &stat["read_write"] {
        it if *it == false => Err(Stop::fail("read_write of the clone is false")),
        _ => Ok(()),
    }
}

fn clone_keys(host: &Host) -> Outcome {
    let origin = host.volume()?;
    let snapshot = host.derive(&origin, "Volume.snapshot")?;
    mark(host, &snapshot, &origin)?;
    let clone = host.derive(&snapshot, "Volume.clone")?;
    let reply = host.on(&clone, "Volume.stat", json!({}))?;
    let stat = reply.clone().prepared()?;
    if stat["read_write"] == false {
        return Err(reply.wrong("a clone of a snapshot cannot be written"));
    }
    for key in ["is_a_snapshot", "snapshot_of", "snapshot_time"] {
        let value = &stat["keys"][key];
        if !value.is_null() && value != "" && value != "false" {
            return Err(reply.wrong(format!("the clone has {key} = {value}")));
        }
    }
    Ok(())
}

fn clone_on_boot(host: &Host) -> Outcome {
    let volume = host.volume()?;
    for round in ["at the first start", "at the second start"] {
        let reply = host.on(&volume, "Volume.clone", json!({}))?;
        host.note(&reply);
        let transient = Volume::of(reply.expected(round)?)?;
        let set = json!({ "k": "clone-on-boot", "v": transient.key });
        host.on(&volume, "Volume.set", set)?.expected(round)?;
        host.on(&transient, "Volume.stat", json!({}))?.expected(round)?;
        host.on(&transient, "Volume.destroy", json!({}))?.expected(round)?;
        host.on(&volume, "Volume.unset", json!({ "k": "clone-on-boot" }))?.expected(round)?;
    }
    Ok(())
}
