//! Names, descriptions, keys and values: what xapi and its users put into them.

use serde_json::json;

use super::{Check::Once, Need, Rule, source};
use crate::{
    host::{Host, Volume},
    outcome::{Outcome, Stop},
};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "name.text",
        title: "names and descriptions are kept as they are, with quotes, line breaks and any script",
        reference: "xen-api ocaml/idl/datamodel.ml: name_label and name_description are any UTF-8",
        consequence: "the disk's name changes with the next scan, or the disk cannot be made",
        needs: &[],
        check: Once(text),
    },
    Rule {
        id: "name.rename",
        title: "Volume.set_name and Volume.set_description are seen in Volume.stat",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, vdi_set_name_label_impl",
        consequence: "the next scan puts the old name back",
        needs: &[Need::Method("Volume.set_name"), Need::Method("Volume.set_description")],
        check: Once(rename),
    },
    Rule {
        id: "name.same",
        title: "volumes of the same name are different volumes",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, vdi_create_impl",
        consequence: "the second disk of a name cannot be made, or replaces the first",
        needs: &[],
        check: Once(same),
    },
    Rule {
        id: "key.set",
        title: "Volume.set stores a value, also in place of another one, and Volume.unset removes it",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, vdi_of_volume",
        consequence: "the disk loses its type, tags and sm_config with the next scan",
        needs: &[Need::Method("Volume.set"), Need::Method("Volume.unset")],
        check: Once(set),
    },
    Rule {
        id: "key.text",
        title: "keys and values are kept as they are",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, vdi_add_tags_impl: a tag is part of a key",
        consequence: "a tag that a user has given is lost, or is another one",
        needs: &[Need::Method("Volume.set")],
        check: Once(key_text),
    },
    Rule {
        id: "key.unset-absent",
        title: "Volume.unset of a key that is not there succeeds",
        reference: "xen-api ocaml/xapi/storage_smapiv3_migrate.ml, receive_finalize3: _sm_config_base_mirror",
        consequence: "a storage migration fails at its very end",
        needs: &[Need::Method("Volume.unset")],
        check: Once(unset_absent),
    },
    Rule {
        id: "key.is-a-snapshot",
        title: "the key is_a_snapshot, where it is, is true or false",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, vdi_of_volume: bool_of_string",
        consequence: "xe sr-scan fails as a whole",
        needs: &[],
        check: Once(is_a_snapshot),
    },
    Rule {
        id: "key.own-fields",
        title: "a key that is called as a field of the volume is kept beside the field",
        reference: source::CONTROL,
        consequence: "setting a tag or sm_config of that name destroys the volume's record",
        needs: &[Need::Method("Volume.set")],
        check: Once(own_fields),
    },
];

/// Quotes of three languages, a line break, a tab, a backslash, what a shell would expand, scripts that
/// are written from the right and in four bytes a letter.
const TEXT: &str =
    "it's \"a\" `disk` \\ $HOME %s\n\t/../ \u{5d0}\u{5d1} \u{65e5}\u{672c} \u{1f4be} <&>";

fn text(host: &Host) -> Outcome {
    let params = json!({
        "name": TEXT, "description": TEXT, "size": host.options.volume_bytes(), "sharable": false,
    });
    let reply = host.on_sr("Volume.create", params)?;
    host.note(&reply);
    let volume = Volume::of(reply.expected("with an unusual name")?)?;
    let reply = host.on(&volume, "Volume.stat", json!({}))?;
    let stat = reply.clone().prepared()?;
    for field in ["name", "description"] {
        if stat[field] != TEXT {
            return Err(reply.wrong(format!("{field} was {TEXT:?} and is {}", stat[field])));
        }
    }
    Ok(())
}

fn rename(host: &Host) -> Outcome {
    let volume = host.volume()?;
    for (name, description) in [(TEXT, "other"), ("other", "")] {
        host.on(&volume, "Volume.set_name", json!({ "new_name": name }))?.expected("")?;
        let params = json!({ "new_description": description });
        host.on(&volume, "Volume.set_description", params)?.expected("")?;
        let reply = host.on(&volume, "Volume.stat", json!({}))?;
        let stat = reply.clone().prepared()?;
        if stat["name"] != name || stat["description"] != description {
            return Err(reply.wrong("the new name or description is not in Volume.stat"));
        }
    }
    Ok(())
}

fn same(host: &Host) -> Outcome {
    let mut made = Vec::new();
    for _ in 0..2 {
        let reply = host.create("one name", host.options.volume_bytes())?;
        made.push(Volume::of(reply.expected("for a name that another volume has")?)?);
    }
    let (one, other) = (&made[0], &made[1]);
    if one.key == other.key {
        return Err(Stop::fail(format!("both have the key {:?}", one.key)));
    }
    let (one, other) = (&one.value["uuid"], &other.value["uuid"]);
    match one.is_string() && one == other {
        true => Err(Stop::fail(format!("both have the uuid {one}"))),
        false => Ok(()),
    }
}

fn set(host: &Host) -> Outcome {
    let volume = host.volume()?;
    for value in ["one", "two"] {
        host.on(&volume, "Volume.set", json!({ "k": "_sm_config_a", "v": value }))?.expected("")?;
        let reply = host.on(&volume, "Volume.stat", json!({}))?;
        let is = reply.clone().prepared()?["keys"]["_sm_config_a"].clone();
        if is != value {
            return Err(reply.wrong(format!("the key was set to {value:?} and is {is}")));
        }
    }
    host.on(&volume, "Volume.unset", json!({ "k": "_sm_config_a" }))?.expected("")?;
    let reply = host.on(&volume, "Volume.stat", json!({}))?;
    let keys = reply.clone().prepared()?["keys"].clone();
    match (keys.get("_sm_config_a"), &keys["vdi-type"]) {
        (None, kept) if *kept == "user" => Ok(()),
        (Some(_), _) => Err(reply.wrong("the key is still there after Volume.unset")),
        _ => Err(reply.wrong("the key vdi-type is lost when another one is set and unset")),
    }
}

fn key_text(host: &Host) -> Outcome {
    let volume = host.volume()?;
    let key = format!("tags{TEXT}");
    let long = "v".repeat(5000);
    for (key, value) in [(key.as_str(), TEXT), ("_sm_config_long", long.as_str()), ("empty", "")] {
        host.on(&volume, "Volume.set", json!({ "k": key, "v": value }))?.expected("")?;
        let reply = host.on(&volume, "Volume.stat", json!({}))?;
        if reply.clone().prepared()?["keys"][key] != value {
            return Err(reply.wrong(format!("the key {key:?} does not have the value {value:?}")));
        }
    }
    Ok(())
}

fn unset_absent(host: &Host) -> Outcome {
    let volume = host.volume()?;
    let params = json!({ "k": "_sm_config_base_mirror" });
    host.on(&volume, "Volume.unset", params)?.expected("for a key that is not there").map(drop)
}

fn is_a_snapshot(host: &Host) -> Outcome {
    let volume = host.volume()?;
    let mut all = vec![volume.clone()];
    for method in ["Volume.snapshot", "Volume.clone"] {
        if host.caller.volume.script(method).is_some() {
            all.push(host.derive(&volume, method)?);
        }
    }
    for volume in &all {
        let reply = host.on(volume, "Volume.stat", json!({}))?;
        let value = reply.clone().prepared()?["keys"]["is_a_snapshot"].clone();
        if !value.is_null() && value != "true" && value != "false" {
            return Err(reply.wrong(format!("is_a_snapshot is {value}")));
        }
    }
    Ok(())
}

fn own_fields(host: &Host) -> Outcome {
    let volume = host.volume()?;
    let before = host.stat(&volume)?;
    for field in ["key", "name", "virtual_size"] {
        host.on(&volume, "Volume.set", json!({ "k": field, "v": "x" }))?.expected("")?;
    }
    let reply = host.on(&volume, "Volume.stat", json!({}))?;
    let after = reply.clone().expected("after Volume.set of the key virtual_size")?;
    for field in ["key", "name", "virtual_size"] {
        if after[field] != before[field] || after["keys"][field] != "x" {
            return Err(reply.wrong(format!("the key {field} is stored as the volume's {field}")));
        }
    }
    Ok(())
}
