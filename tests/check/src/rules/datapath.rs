//! Attaching and activating: URIs, what attach answers, and the order of calls in which xapi is not strict.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Check::Once, Need, Rule, source};
use crate::{
    caller::Way,
    disk::Disk,
    host::Host,
    outcome::{Outcome, Stop},
};

/// How long a server may take to end after Datapath.detach.
const ENDING: Duration = Duration::from_secs(5);

const DATAPATH: &[Need] = &[Need::Datapath("Datapath.attach"), Need::Datapath("Datapath.activate")];

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "datapath.uri",
        title: "one of a volume's URIs has the name of a datapath plugin for its scheme",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, choose_datapath",
        consequence: "MISSING_URI: no disk of the SR can be plugged",
        needs: DATAPATH,
        check: Once(uri),
    },
    Rule {
        id: "datapath.uri-stable",
        title: "a volume's URI stays while it is attached, also when it is renamed or enlarged",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, vdi_deactivate_impl: it is asked for anew by each call",
        consequence: "a disk cannot be unplugged, or another one is",
        needs: DATAPATH,
        check: Once(uri_stable),
    },
    Rule {
        id: "datapath.implementations",
        title: "Datapath.attach answers with implementations that the daemon knows, one at least",
        reference: source::DATA,
        consequence: "the disk is plugged into nothing: no xendisk or NBD, block device or file",
        needs: DATAPATH,
        check: Once(implementations),
    },
    Rule {
        id: "datapath.nbd-uri",
        title: "the URI of an NBD server is nbd:unix:<socket>:exportname=<name>, without other colons",
        reference: "xen-api ocaml/xapi-idl/storage/storage_interface.ml, parse_nbd_uri",
        consequence: "Could not parse NBD URI returned from the storage backend",
        needs: DATAPATH,
        check: Once(nbd_uri),
    },
    Rule {
        id: "datapath.attach-again",
        title: "attaching an active volume again for its domain gives the same answer and changes nothing",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, get_nbd_server_impl and dp_attach_info_impl",
        consequence: "a migration into the SR, or an export of a disk in use, fails",
        needs: DATAPATH,
        check: Once(attach_again),
    },
    Rule {
        id: "datapath.again",
        title: "a volume can be deactivated and activated again while it is attached",
        reference: "xen-api ocaml/xapi/storage_mux.ml, VDI.deactivate and VDI.activate3: a suspend and resume",
        consequence: "a VM that was suspended or has migrated does not resume",
        needs: DATAPATH,
        check: Once(again),
    },
    Rule {
        id: "datapath.deactivate-again",
        title: "deactivating a volume that is not active succeeds",
        reference: source::DP_DESTROY,
        consequence: "xapi cannot clean up after a plug that failed half-way, and the disk stays attached",
        needs: DATAPATH,
        check: Once(deactivate_again),
    },
    Rule {
        id: "datapath.detach-again",
        title: "detaching a volume that is not attached succeeds",
        reference: source::DP_DESTROY,
        consequence: "xapi cannot clean up after a plug that failed half-way, and the VBD stays",
        needs: DATAPATH,
        check: Once(detach_again),
    },
    Rule {
        id: "datapath.never-active",
        title: "a second domain that was attached and never activated can be ended, and the first stays active",
        reference: "xen-api ocaml/xapi/storage_smapiv3_migrate.ml, send_start; main.ml, dp_destroy2",
        consequence: "a storage migration fails, or stops the disk of the running VM",
        needs: &[
            Need::Datapath("Datapath.attach"),
            Need::Datapath("Datapath.activate"),
            Need::Feature("VDI_MIRROR"),
        ],
        check: Once(never_active),
    },
    Rule {
        id: "datapath.domain",
        title: "a domain is any string: of migrations, and long ones of dom0",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, domain_of; ocaml/xapi/xapi_vm_migrate.ml, get_vdi_mirror",
        consequence: "copies, exports and migrations fail, where a VM's own disks work",
        needs: DATAPATH,
        check: Once(domain),
    },
    Rule {
        id: "datapath.two-domains",
        title: "two domains can have a volume active, and ending one leaves the other's disk as it is",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, domain_of: dom0 reads a disk beside the VM that has it",
        consequence: "the end of a backup or a copy stops the disk of the running VM",
        needs: DATAPATH,
        check: Once(two_domains),
    },
    Rule {
        id: "datapath.ends",
        title: "nothing serves a volume any more when its last domain is detached",
        reference: "xen-api ocaml/xapi-storage/generator/lib/data.ml, detach: resources are cleaned up",
        consequence: "each plug leaves a process in dom0, which holds memory and the disk's file",
        needs: DATAPATH,
        check: Once(ends),
    },
    Rule {
        id: "datapath.stat-active",
        title: "Volume.stat, SR.ls and Volume.set work on an active volume",
        reference: source::ATTACH,
        consequence: "a disk in use cannot be unplugged: each of these calls precedes it",
        needs: DATAPATH,
        check: Once(stat_active),
    },
    Rule {
        id: "datapath.snapshot-active",
        title: "Volume.snapshot works on an active volume",
        reference: source::SNAPSHOT,
        consequence: "a running VM cannot be snapshotted, so it cannot be backed up",
        needs: &[Need::Datapath("Datapath.activate"), Need::Method("Volume.snapshot")],
        check: Once(snapshot_active),
    },
    Rule {
        id: "datapath.close-again",
        title: "Datapath.open and close frame the use of a volume, and each can be repeated",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, vdi_epoch_begin_impl and vdi_epoch_end_impl",
        consequence: "a VM that was shut down twice does not start",
        needs: &[
            Need::Feature("NONPERSISTENT"),
            Need::Datapath("Datapath.open"),
            Need::Datapath("Datapath.close"),
        ],
        check: Once(close_again),
    },
    Rule {
        id: "datapath.unknown",
        title: "Datapath.attach of a volume that is not there fails",
        reference: source::DATA,
        consequence: "a VM starts on a disk that is not there",
        needs: DATAPATH,
        check: Once(unknown),
    },
];

fn uri(host: &Host) -> Outcome {
    let volume = host.volume()?;
    match host.datapath_of(&volume) {
        Err(Stop::Blocked(finding)) => Err(Stop::Fail(finding)),
        other => other.map(drop),
    }
}

fn uri_stable(host: &Host) -> Outcome {
    let (volume, domain) = (host.volume()?, host.domain());
    let before = host.stat(&volume)?["uri"].clone();
    let same = |when: &str| -> Outcome {
        let reply = host.on(&volume, "Volume.stat", json!({}))?;
        match reply.clone().prepared()?["uri"] == before {
            true => Ok(()),
            false => Err(reply.wrong(format!("uri was {before} and is another one {when}"))),
        }
    };
    for (step, when) in [("attach", "after attach"), ("activate", "after activate")] {
        host.data(&volume, step, &domain)?.prepared()?;
        same(when)?;
    }
    if host.caller.volume.script("Volume.set_name").is_some() {
        host.on(&volume, "Volume.set_name", json!({ "new_name": "renamed" }))?.prepared()?;
        same("after Volume.set_name")?;
    }
    let is_resized = host.declares_anywhere("VDI_RESIZE_ONLINE");
    if is_resized && host.caller.volume.script("Volume.resize").is_some() {
        let params = json!({ "new_size": host.options.volume_bytes() * 2 });
        host.on(&volume, "Volume.resize", params)?.prepared()?;
        same("after Volume.resize")?;
    }
    host.unplug(&volume, &domain)
}

fn implementations(host: &Host) -> Outcome {
    let (volume, domain) = (host.volume()?, host.domain());
    let reply = host.data(&volume, "attach", &domain)?;
    let backend = reply.clone().prepared()?;
    let all = backend["implementations"].as_array().cloned().unwrap_or_default();
    if all.is_empty() {
        return Err(reply.wrong("it has no implementations"));
    }
    for one in &all {
        let known = ["XenDisk", "BlockDevice", "File", "Nbd"];
        if !one[0].as_str().is_some_and(|it| known.contains(&it)) {
            return Err(reply.wrong(format!("the daemon knows {known:?}, and not {}", one[0])));
        }
    }
    Ok(())
}

fn nbd_uri(host: &Host) -> Outcome {
    let (volume, domain) = (host.volume()?, host.domain());
    let reply = host.data(&volume, "attach", &domain)?;
    let backend = reply.clone().prepared()?;
    let all = backend["implementations"].as_array().cloned().unwrap_or_default();
    let uris: Vec<&str> =
        all.iter().filter(|it| it[0] == "Nbd").filter_map(|it| it[1]["uri"].as_str()).collect();
    if uris.is_empty() {
        return Err(Stop::skip("attach lists no NBD server"));
    }
    for uri in uris {
        let parts: Vec<&str> = uri.split(':').collect();
        let is_right = matches!(
            parts[..],
            ["nbd", "unix", socket, name] if !socket.is_empty() && name.starts_with("exportname=")
        );
        if !is_right {
            return Err(reply.wrong(format!("the daemon cannot read {uri}")));
        }
    }
    Ok(())
}

fn attach_again(host: &Host) -> Outcome {
    let (volume, domain) = (host.volume()?, host.domain());
    let first = host.data(&volume, "attach", &domain)?.prepared()?;
    host.data(&volume, "attach", &domain)?.expected("for an attached volume")?;
    host.data(&volume, "activate", &domain)?.prepared()?;
    let reply = host.data(&volume, "attach", &domain)?;
    let second = reply.clone().expected("for an active volume")?;
    match first == second {
        true => Ok(()),
        false => Err(reply.wrong(format!("the first answer was {first}"))),
    }
}

fn again(host: &Host) -> Outcome {
    let (volume, domain) = (host.volume()?, host.domain());
    host.data(&volume, "attach", &domain)?.expected("")?;
    for round in ["the first time", "the second time"] {
        host.data(&volume, "activate", &domain)?.expected(round)?;
        host.data(&volume, "deactivate", &domain)?.expected(round)?;
    }
    host.data(&volume, "detach", &domain)?.expected("").map(drop)
}

fn deactivate_again(host: &Host) -> Outcome {
    let (volume, domain) = (host.volume()?, host.domain());
    host.data(&volume, "attach", &domain)?.prepared()?;
    host.data(&volume, "deactivate", &domain)?.expected("for a volume that was never active")?;
    host.data(&volume, "activate", &domain)?.prepared()?;
    host.data(&volume, "deactivate", &domain)?.prepared()?;
    host.data(&volume, "deactivate", &domain)?.expected("the second time").map(drop)
}

fn detach_again(host: &Host) -> Outcome {
    let (volume, domain) = (host.volume()?, host.domain());
    host.data(&volume, "detach", &domain)?.expected("for a volume that was never attached")?;
    host.data(&volume, "attach", &domain)?.prepared()?;
    host.data(&volume, "detach", &domain)?.prepared()?;
    host.data(&volume, "detach", &domain)?.expected("the second time").map(drop)
}

fn never_active(host: &Host) -> Outcome {
    let (volume, guest) = (host.volume()?, host.domain());
    let mut disk = host.plug(&volume, &guest)?;
    disk.write(0, &[1; 512])?;
    let migration = format!("u0_mirror_vbd_7_xvda{}", host.number());
    for step in ["attach", "deactivate", "detach"] {
        let why = "for a migration beside the guest, which is never activated";
        host.data(&volume, step, &migration)?.expected(why)?;
    }
    disk.write(512, &[2; 512])?;
    match disk.read(0, 1024)? == [[1; 512], [2; 512]].concat() {
        true => Ok(()),
        false => Err(Stop::fail("the guest's disk reads other bytes than were written")),
    }
}

fn two_domains(host: &Host) -> Outcome {
    let (volume, first, second) = (host.volume()?, host.domain(), host.domain());
    let mut disk = host.plug(&volume, &first)?;
    disk.write(0, &[1; 512])?;
    host.data(&volume, "attach", &second)?.expected("for a second domain")?;
    let reply = host.data(&volume, "activate", &second)?;
    if let Err(failure) = &reply.result
        && Host::names_use(failure)
    {
        return Err(Stop::skip(format!("the plugin refuses it: {failure}")));
    }
    reply.expected("for a second domain")?;
    for step in ["deactivate", "detach"] {
        host.data(&volume, step, &second)?.expected("for the second of two domains")?;
    }
    disk.write(512, &[2; 512])?;
    match disk.read(0, 1024)? == [[1; 512], [2; 512]].concat() {
        true => Ok(()),
        false => Err(Stop::fail("the first domain's disk reads other bytes than were written")),
    }
}

fn ends(host: &Host) -> Outcome {
    let (volume, domain) = (host.volume()?, host.domain());
    let backend = host.data(&volume, "attach", &domain)?.prepared()?;
    host.data(&volume, "activate", &domain)?.prepared()?;
    if !matches!(Disk::open(&backend)?, Disk::Nbd(_)) {
        return Err(Stop::skip("attach lists no NBD server"));
    }
    let reply = host.data(&volume, "deactivate", &domain)?;
    reply.prepared()?;
    let reply = host.data(&volume, "detach", &domain)?;
    reply.clone().prepared()?;
    let begun = Instant::now();
    while Disk::open(&backend).is_ok() {
        if begun.elapsed() > ENDING {
            return Err(reply.wrong(format!("the server still answers after {ENDING:?}")));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn domain(host: &Host) -> Outcome {
    let volume = host.volume()?;
    // The last is a halted VM's in a migration: mirror_vbd/<UUID of the VM>/<UUID of the disk>.
    let id = "0f0e0d0c_0000_4000_8000_000000000001";
    let long = format!("u0_mirror_vbd_{id}_{id}");
    for domain in ["MIR0a1b2c", "CP0a1b2c", long.as_str()] {
        for step in ["attach", "activate", "deactivate", "detach"] {
            host.data(&volume, step, domain)?.expected(&format!("for the domain {domain}"))?;
        }
    }
    Ok(())
}

fn stat_active(host: &Host) -> Outcome {
    let (volume, domain) = (host.volume()?, host.domain());
    for step in ["attach", "activate"] {
        host.data(&volume, step, &domain)?.prepared()?;
    }
    host.on(&volume, "Volume.stat", json!({}))?.expected("for an active volume")?;
    if host.caller.volume.script("Volume.set").is_some() {
        let set = json!({ "k": "_sm_config_x", "v": "y" });
        host.on(&volume, "Volume.set", set)?.expected("for an active volume")?;
    }
    let reply = host.on_sr("SR.ls", json!({}))?;
    let all = reply.clone().expected("beside an active volume")?;
    let is_listed = |it: &Value| it["key"] == volume.key.as_str();
    match all.as_array().is_some_and(|all| all.iter().any(is_listed)) {
        true => Ok(()),
        false => Err(reply.wrong("an active volume is not listed")),
    }
}

fn snapshot_active(host: &Host) -> Outcome {
    let (volume, domain) = (host.volume()?, host.domain());
    for step in ["attach", "activate"] {
        host.data(&volume, step, &domain)?.prepared()?;
    }
    let reply = host.on(&volume, "Volume.snapshot", json!({}))?;
    host.note(&reply);
    if let Err(failure) = &reply.result
        && Host::names_use(failure)
    {
        return Err(Stop::skip(format!("the plugin refuses it: {failure}")));
    }
    reply.expected("for an active volume")?;
    host.unplug(&volume, &domain)
}

fn close_again(host: &Host) -> Outcome {
    let (volume, domain) = (host.volume()?, host.domain());
    let (side, uri) = host.datapath_of(&volume)?;
    let open = |persistent: bool, why: &str| {
        let params = json!({ "uri": uri, "persistent": persistent });
        host.call_so(&side, "Datapath.open", params, Way::default())?.expected(why)
    };
    let close = |why: &str| {
        host.call_so(&side, "Datapath.close", json!({ "uri": uri }), Way::default())?.expected(why)
    };
    close("for a volume that was never opened")?;
    for persistent in [true, false] {
        open(persistent, "for a volume that is not in use")?;
        open(persistent, "the second time")?;
        for step in ["attach", "activate", "deactivate", "detach"] {
            host.data(&volume, step, &domain)?.expected("between Datapath.open and close")?;
        }
        close("after detach")?;
        close("the second time")?;
    }
    Ok(())
}

fn unknown(host: &Host) -> Outcome {
    let volume = host.volume()?;
    let (side, uri) = host.datapath_of(&volume)?;
    host.on(&volume, "Volume.destroy", json!({}))?.prepared()?;
    let way = Way { must_fail: true, ..Way::default() };
    let params = json!({ "uri": uri, "domain": host.domain() });
    let attached = host.call_so(&side, "Datapath.attach", params.clone(), way)?;
    if attached.result.is_err() {
        return Ok(());
    }
    // Some look at the volume when it is activated.
    let activated = host.call_so(&side, "Datapath.activate", params.clone(), way)?;
    for step in ["Datapath.deactivate", "Datapath.detach"] {
        let _cleaned = host.call_so(&side, step, params.clone(), way)?;
    }
    activated.refused("for a volume that was destroyed").map(drop)
}
