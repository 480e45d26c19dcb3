//! What Plugin.query says, and the files that stand for methods.

use serde_json::{Value, json};

use super::{Check::Once, Rule, source};
use crate::{
    caller::Side,
    host::Host,
    outcome::{Outcome, Stop},
};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "query.version",
        title: "required_api_version is one that the daemon knows",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, check_plugin_version_compatible",
        consequence: "the daemon does not register the plugin: xe sm-list does not show its type",
        needs: &[],
        check: Once(version),
    },
    Rule {
        id: "query.plugin",
        title: "plugin, the SR's type, is not empty",
        reference: source::QUERY,
        consequence: "xe sr-create has no type to give",
        needs: &[],
        check: Once(plugin),
    },
    Rule {
        id: "query.features-known",
        title: "each feature is one that xapi knows",
        reference: "xen-api ocaml/xapi/smint.ml, Feature.string_to_capability_table",
        consequence: "xapi ignores the feature: what it is for is refused as not supported",
        needs: &[],
        check: Once(features_known),
    },
    Rule {
        id: "query.features-work",
        title: "each declared feature has the methods that it takes",
        reference: source::QUERY,
        consequence: "xapi offers the operation, which then fails with SCRIPT_MISSING",
        needs: &[],
        check: Once(features_work),
    },
    Rule {
        id: "query.features-declared",
        title: "a method that xapi calls only where a feature is declared has it declared",
        reference: source::QUERY,
        consequence: "the method is never called: xapi refuses the operation, or does it in a longer way",
        needs: &[],
        check: Once(features_declared),
    },
    Rule {
        id: "query.scripts",
        title: "the methods without which no disk can be used are there and can be executed",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, Script.path",
        consequence: "SCRIPT_MISSING or SCRIPT_NOT_EXECUTABLE when the SR or a disk is made or used",
        needs: &[],
        check: Once(scripts),
    },
];

/// Features that xapi knows, and that of SMAPIv3 which the daemon translates or uses itself.
const KNOWN: [&str; 39] = [
    "SR_CREATE",
    "SR_DELETE",
    "SR_ATTACH",
    "SR_DETACH",
    "SR_SCAN",
    "SR_PROBE",
    "SR_UPDATE",
    "SR_SUPPORTS_LOCAL_CACHING",
    "SR_METADATA",
    "SR_TRIM",
    "SR_MULTIPATH",
    "SR_CACHING",
    "SR_STATS",
    "VDI_CREATE",
    "VDI_DELETE",
    "VDI_ATTACH",
    "VDI_DETACH",
    "VDI_MIRROR",
    "VDI_MIRROR_IN",
    "VDI_RESIZE",
    "VDI_RESIZE_ONLINE",
    "VDI_CLONE",
    "VDI_SNAPSHOT",
    "VDI_ACTIVATE",
    "VDI_ACTIVATE_READONLY",
    "VDI_DEACTIVATE",
    "VDI_UPDATE",
    "VDI_INTRODUCE",
    "VDI_GENERATE_CONFIG",
    "VDI_ATTACH_OFFLINE",
    "VDI_RESET_ON_BOOT",
    "VDI_CONFIG_CBT",
    "VDI_COMPOSE",
    "LARGE_VDI",
    "THIN_PROVISIONING",
    "VDI_READ_CACHING",
    "VDI_REVERT",
    // The daemon makes VDI_DELETE of it, and looks for the other one in the datapath's answer.
    "VDI_DESTROY",
    "NONPERSISTENT",
];

/// What a feature of the volume plugin takes: in its own directory, and in a datapath's.
const TAKES: [(&str, &[&str], &[&str]); 18] = [
    ("SR_CREATE", &["SR.create"], &[]),
    ("SR_DELETE", &["SR.destroy"], &[]),
    ("SR_ATTACH", &["SR.attach"], &[]),
    ("SR_DETACH", &["SR.detach"], &[]),
    ("SR_SCAN", &["SR.ls"], &[]),
    ("SR_PROBE", &["SR.probe"], &[]),
    ("VDI_CREATE", &["Volume.create"], &[]),
    ("VDI_DELETE", &["Volume.destroy"], &[]),
    ("VDI_DESTROY", &["Volume.destroy"], &[]),
    ("VDI_CLONE", &["Volume.clone"], &[]),
    ("VDI_SNAPSHOT", &["Volume.snapshot"], &[]),
    ("VDI_RESIZE", &["Volume.resize"], &[]),
    ("VDI_RESIZE_ONLINE", &["Volume.resize"], &[]),
    ("VDI_REVERT", &["Volume.revert"], &[]),
    ("VDI_COMPOSE", &["Volume.compose"], &[]),
    (
        "VDI_CONFIG_CBT",
        &[
            "Volume.enable_cbt",
            "Volume.disable_cbt",
            "Volume.list_changed_blocks",
            "Volume.data_destroy",
        ],
        &[],
    ),
    ("VDI_ACTIVATE_READONLY", &[], &["Datapath.activate_readonly"]),
    ("VDI_MIRROR", &[], &["Data.mirror", "Data.stat"]),
];

/// What a feature of a datapath plugin takes in its directory.
const DATAPATH_TAKES: [(&str, &[&str]); 3] = [
    ("NONPERSISTENT", &["Datapath.open", "Datapath.close"]),
    ("VDI_MIRROR_IN", &["Datapath.import_activate"]),
    ("VDI_MIRROR", &["Data.mirror", "Data.stat"]),
];

/// Without these nothing works.
const NEEDED: [&str; 12] = [
    "Plugin.query",
    "SR.create",
    "SR.attach",
    "SR.detach",
    "SR.destroy",
    "SR.stat",
    "SR.ls",
    "Volume.create",
    "Volume.destroy",
    "Volume.stat",
    "Volume.set",
    "Volume.unset",
];
const NEEDED_OF_DATAPATH: [&str; 5] = [
    "Plugin.query",
    "Datapath.attach",
    "Datapath.activate",
    "Datapath.deactivate",
    "Datapath.detach",
];

fn version(host: &Host) -> Outcome {
    for side in host.sides() {
        let query = host.query(&side)?;
        let version = &query["required_api_version"];
        if version != "5.0" && version != "3.0" {
            return Err(Stop::fail(format!(
                "{side:?}: required_api_version is {version}, and the daemon knows \"5.0\" and \"3.0\""
            )));
        }
    }
    Ok(())
}

fn plugin(host: &Host) -> Outcome {
    match host.query(&Side::Volume)?["plugin"].as_str().map(str::trim) {
        None | Some("") => Err(Stop::fail("Plugin.query has no or an empty plugin")),
        Some(_) => Ok(()),
    }
}

fn features_known(host: &Host) -> Outcome {
    let mut unknown = Vec::new();
    for side in host.sides() {
        let query = host.query(&side)?;
        for feature in query["features"].as_array().into_iter().flatten() {
            let name = feature.as_str().unwrap_or_default();
            if !KNOWN.contains(&name.split('/').next().unwrap_or_default()) {
                unknown.push(format!("{feature} ({side:?})"));
            }
        }
    }
    none("unknown features", &unknown)
}

fn features_work(host: &Host) -> Outcome {
    let mut missing = Vec::new();
    for (feature, own, of_datapath) in TAKES {
        if host.declares(&Side::Volume, feature) {
            let own = own.iter().filter(|it| !host.caller.volume.is_executable(it));
            missing.extend(own.map(|method| format!("{feature} without {method}")));
            let datapaths = &host.caller.datapaths;
            let has = |method: &str| datapaths.iter().any(|it| it.is_executable(method));
            let of_datapath = of_datapath.iter().filter(|it| !datapaths.is_empty() && !has(it));
            missing.extend(of_datapath.map(|method| format!("{feature} without {method}")));
        }
    }
    for datapath in &host.caller.datapaths {
        for (feature, methods) in DATAPATH_TAKES {
            if host.declares(&Side::Datapath(datapath.name.clone()), feature) {
                let methods = methods.iter().filter(|it| !datapath.is_executable(it));
                let told = methods.map(|it| format!("{feature} of {} without {it}", datapath.name));
                missing.extend(told);
            }
        }
    }
    none("declared features whose methods are missing", &missing)
}

fn features_declared(host: &Host) -> Outcome {
    let mut missing = Vec::new();
    let volume = [
        ("Volume.revert", "VDI_REVERT"),
        ("Volume.compose", "VDI_COMPOSE"),
        ("Volume.enable_cbt", "VDI_CONFIG_CBT"),
    ];
    for (method, feature) in volume {
        let is_there = host.caller.volume.script(method).is_some();
        if is_there && !host.declares(&Side::Volume, feature) {
            missing.push(format!("{method} without {feature}"));
        }
    }
    for datapath in &host.caller.datapaths {
        let side = Side::Datapath(datapath.name.clone());
        let own = [
            ("Data.mirror", "VDI_MIRROR", Side::Volume),
            ("Datapath.activate_readonly", "VDI_ACTIVATE_READONLY", Side::Volume),
            ("Datapath.import_activate", "VDI_MIRROR_IN", side),
        ];
        for (method, feature, where_declared) in own {
            if datapath.script(method).is_some() && !host.declares(&where_declared, feature) {
                missing.push(format!("{method} without {feature} ({where_declared:?})"));
            }
        }
    }
    none("methods that are never called", &missing)
}

fn scripts(host: &Host) -> Outcome {
    let mut missing: Vec<String> = Vec::new();
    let there = host.caller.volume.methods().filter(|it| !host.caller.volume.is_executable(it));
    missing.extend(there.map(|it| format!("{it} cannot be executed")));
    let needed = NEEDED.iter().filter(|it| host.caller.volume.script(it).is_none());
    missing.extend(needed.map(|it| format!("{it} is not there")));
    for datapath in &host.caller.datapaths {
        let there = datapath.methods().filter(|it| !datapath.is_executable(it));
        missing.extend(there.map(|it| format!("{it} of {} cannot be executed", datapath.name)));
        let needed = NEEDED_OF_DATAPATH.iter().filter(|it| datapath.script(it).is_none());
        missing.extend(needed.map(|it| format!("{it} of {} is not there", datapath.name)));
    }
    none("method files", &missing)
}

fn none(what: &str, found: &[String]) -> Outcome {
    match found {
        [] => Ok(()),
        _ => Err(Stop::fail(format!(
            "{what}: {}",
            json!(found).as_array().map_or_else(String::new, |all| all
                .iter()
                .filter_map(Value::as_str)
                .collect::<Vec<_>>()
                .join(", "),)
        ))),
    }
}
