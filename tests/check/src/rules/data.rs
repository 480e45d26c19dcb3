//! The bytes of volumes: that they are kept, and whose they are.

use serde_json::json;

use super::{Check::Once, Need, Rule};
use crate::{
    caller::Way,
    disk::Disk,
    host::{Host, Volume},
    outcome::{Outcome, Stop},
};

const DATA: &[Need] = &[Need::Datapath("Datapath.attach"), Need::Datapath("Datapath.activate")];
const ACTIVE: &str = "xen-api ocaml/xapi-storage/generator/lib/data.ml, activate";
const CONTROL: &str = "xen-api ocaml/xapi-storage/generator/lib/control.ml";

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "data.size",
        title: "an active volume is as large as virtual_size says",
        reference: "xen-api ocaml/xapi/sm_fs_ops.ml, copy_vdi",
        consequence: "copies and imports fail at the end of the disk",
        needs: DATA,
        check: Once(size),
    },
    Rule {
        id: "data.zeroes",
        title: "a new volume reads as zeroes",
        reference: "xen-api ocaml/xapi/sm_fs_ops.ml, copy_vdi: the destination is taken for blank",
        consequence: "copies of sparse disks are damaged, and a VM reads what another one has deleted",
        needs: DATA,
        check: Once(zeroes),
    },
    Rule {
        id: "data.kept",
        title: "what was written is read after the volume was deactivated and detached, and by another domain",
        reference: ACTIVE,
        consequence: "a VM loses what it wrote when it is shut down",
        needs: DATA,
        check: Once(kept),
    },
    Rule {
        id: "data.own",
        title: "two active volumes do not share bytes",
        reference: ACTIVE,
        consequence: "a VM writes into the disk of another one",
        needs: DATA,
        check: Once(own),
    },
    Rule {
        id: "data.snapshot",
        title: "a snapshot of an active volume has what was written before it, and never what comes after",
        reference: CONTROL,
        consequence: "a backup has bytes of different moments",
        needs: &[Need::Datapath("Datapath.activate"), Need::Method("Volume.snapshot")],
        check: Once(snapshot),
    },
    Rule {
        id: "data.clone",
        title: "a clone has the bytes of its origin, and each is written without the other",
        reference: CONTROL,
        consequence: "VMs from one template damage each other's disks",
        needs: &[Need::Datapath("Datapath.activate"), Need::Method("Volume.clone")],
        check: Once(clone),
    },
    Rule {
        id: "data.outlives",
        title: "a snapshot has its bytes when its origin is destroyed",
        reference: CONTROL,
        consequence: "deleting a VM destroys its snapshots",
        needs: &[Need::Datapath("Datapath.activate"), Need::Method("Volume.snapshot")],
        check: Once(outlives),
    },
    Rule {
        id: "data.revert",
        title: "Volume.revert gives a volume the bytes of its snapshot, and its key stays",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, revert_impl",
        consequence: "xe snapshot-revert succeeds, and the disk has other bytes",
        needs: &[
            Need::Feature("VDI_REVERT"),
            Need::Datapath("Datapath.activate"),
            Need::Method("Volume.snapshot"),
            Need::Method("Volume.revert"),
        ],
        check: Once(revert),
    },
    Rule {
        id: "data.resize",
        title: "an enlarged volume has its bytes, and zeroes behind them",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, vdi_resize_impl",
        consequence: "enlarging a disk damages it",
        needs: &[Need::Datapath("Datapath.activate"), Need::Method("Volume.resize")],
        check: Once(resize),
    },
    Rule {
        id: "data.read-only",
        title: "a volume that is activated for reading can be read and not written",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, vdi_activate_readonly_impl",
        consequence: "a CD or a snapshot is changed by a guest",
        needs: &[
            Need::Feature("VDI_ACTIVATE_READONLY"),
            Need::Datapath("Datapath.activate_readonly"),
        ],
        check: Once(read_only),
    },
    Rule {
        id: "data.nonpersistent",
        title: "what is written between Datapath.open with persistent=false and close is forgotten",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, vdi_epoch_begin_impl",
        consequence: "a VM whose disk is reset on boot keeps its changes",
        needs: &[Need::Feature("NONPERSISTENT"), Need::Datapath("Datapath.open")],
        check: Once(nonpersistent),
    },
];

/// Bytes that differ from those of each other seed.
pub(super) fn pattern(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8 ^ seed).collect()
}

/// Length of what is written at a place.
pub(super) const LENGTH: usize = 8192;

/// Writes a pattern at the start, in the middle and at the end.
pub(super) fn fill(host: &Host, volume: &Volume, seed: u8) -> Outcome {
    let domain = host.domain();
    let mut disk = host.plug(volume, &domain)?;
    for at in places(host) {
        disk.write(at, &pattern(seed, LENGTH))?;
    }
    drop(disk);
    host.unplug(volume, &domain)
}

/// Where patterns lie: aligned, not aligned to a page, and at the end.
pub(super) fn places(host: &Host) -> [u64; 3] {
    [0, (1 << 20) + 512, host.options.volume_bytes() - LENGTH as u64]
}

/// Whether a disk has a pattern at all places.
pub(super) fn has(host: &Host, disk: &mut Disk, seed: u8, what: &str) -> Outcome {
    for at in places(host) {
        if disk.read(at, LENGTH)? != pattern(seed, LENGTH) {
            return Err(Stop::fail(format!(
                "{what}: other bytes than were written are read at {at}"
            )));
        }
    }
    Ok(())
}

/// Plugs a volume to see whether it has a pattern.
pub(super) fn holds(host: &Host, volume: &Volume, seed: u8, what: &str) -> Outcome {
    let domain = host.domain();
    let mut disk = host.plug_to_read(volume, &domain)?;
    has(host, &mut disk, seed, what)?;
    drop(disk);
    host.unplug(volume, &domain)
}

fn size(host: &Host) -> Outcome {
    for asked in [host.options.volume_bytes(), host.options.volume_bytes() + 512] {
        let volume = Volume::of(host.create("size", asked)?.prepared()?)?;
        let told = host.stat(&volume)?["virtual_size"].as_u64();
        let domain = host.domain();
        let disk = host.plug(&volume, &domain)?;
        if let Some(is) = disk.size()
            && Some(is) != told
        {
            return Err(Stop::fail(format!("the disk has {is} bytes, virtual_size is {told:?}")));
        }
        drop(disk);
        host.unplug(&volume, &domain)?;
    }
    Ok(())
}

fn zeroes(host: &Host) -> Outcome {
    // One whose bytes a careless plugin would show again.
    let old = host.volume()?;
    fill(host, &old, 0x5a)?;
    host.on(&old, "Volume.destroy", json!({}))?.prepared()?;
    let (volume, domain) = (host.volume()?, host.domain());
    let mut disk = host.plug(&volume, &domain)?;
    for at in (0..host.options.volume_bytes()).step_by(1 << 20) {
        if disk.read(at, 1 << 20)?.iter().any(|it| *it != 0) {
            return Err(Stop::fail(format!("not only zeroes in the MiB at {at}")));
        }
    }
    drop(disk);
    host.unplug(&volume, &domain)
}

fn kept(host: &Host) -> Outcome {
    let volume = host.volume()?;
    fill(host, &volume, 0x11)?;
    holds(host, &volume, 0x11, "after deactivate and detach")?;
    // While it stays attached.
    let domain = host.domain();
    let mut disk = host.plug(&volume, &domain)?;
    places(host).into_iter().try_for_each(|at| disk.write(at, &pattern(0x22, LENGTH)))?;
    drop(disk);
    host.data(&volume, "deactivate", &domain)?.prepared()?;
    let mut disk = host.plug(&volume, &domain)?;
    has(host, &mut disk, 0x22, "after deactivate")?;
    drop(disk);
    host.unplug(&volume, &domain)
}

fn own(host: &Host) -> Outcome {
    let (one, other) = (host.volume()?, host.volume()?);
    let domains = [host.domain(), host.domain()];
    let mut first = host.plug(&one, &domains[0])?;
    let mut second = host.plug(&other, &domains[1])?;
    for at in places(host) {
        first.write(at, &pattern(0x31, LENGTH))?;
        second.write(at, &pattern(0x32, LENGTH))?;
    }
    has(host, &mut first, 0x31, "the first volume")?;
    has(host, &mut second, 0x32, "the second volume")?;
    drop((first, second));
    host.unplug(&one, &domains[0])?;
    host.unplug(&other, &domains[1])
}

fn snapshot(host: &Host) -> Outcome {
    let (volume, domain) = (host.volume()?, host.domain());
    let mut disk = host.plug(&volume, &domain)?;
    places(host).into_iter().try_for_each(|at| disk.write(at, &pattern(0x41, LENGTH)))?;
    let reply = host.on(&volume, "Volume.snapshot", json!({}))?;
    host.note(&reply);
    if let Err(failure) = &reply.result
        && Host::names_use(failure)
    {
        return Err(Stop::skip(format!("the plugin refuses it: {failure}")));
    }
    let snapshot = Volume::of(reply.prepared()?)?;
    // A server may have been paused, and a client connects anew.
    let backend = host.data(&volume, "attach", &domain)?.prepared()?;
    drop(disk);
    let mut disk = Disk::open(&backend)?;
    places(host).into_iter().try_for_each(|at| disk.write(at, &pattern(0x42, LENGTH)))?;
    has(host, &mut disk, 0x42, "the volume")?;
    holds(host, &snapshot, 0x41, "the snapshot beside its active origin")?;
    drop(disk);
    host.unplug(&volume, &domain)?;
    holds(host, &volume, 0x42, "the volume")?;
    holds(host, &snapshot, 0x41, "the snapshot")
}

fn clone(host: &Host) -> Outcome {
    let origin = host.volume()?;
    fill(host, &origin, 0x51)?;
    let clone = host.derive(&origin, "Volume.clone")?;
    holds(host, &clone, 0x51, "the clone")?;
    fill(host, &clone, 0x52)?;
    holds(host, &origin, 0x51, "the origin after the clone was written")?;
    fill(host, &origin, 0x53)?;
    holds(host, &clone, 0x52, "the clone after the origin was written")
}

fn outlives(host: &Host) -> Outcome {
    let origin = host.volume()?;
    fill(host, &origin, 0x61)?;
    let snapshot = host.derive(&origin, "Volume.snapshot")?;
    fill(host, &origin, 0x62)?;
    host.on(&origin, "Volume.destroy", json!({}))?.prepared()?;
    holds(host, &snapshot, 0x61, "the snapshot of a destroyed volume")
}

fn revert(host: &Host) -> Outcome {
    let volume = host.volume()?;
    fill(host, &volume, 0x71)?;
    let snapshot = host.derive(&volume, "Volume.snapshot")?;
    fill(host, &volume, 0x72)?;
    host.on(&volume, "Volume.revert", json!({ "snapshot": snapshot.key }))?.expected("")?;
    holds(host, &volume, 0x71, "the volume after Volume.revert")?;
    fill(host, &volume, 0x73)?;
    holds(host, &snapshot, 0x71, "the snapshot after Volume.revert to it")
}

fn resize(host: &Host) -> Outcome {
    let volume = host.volume()?;
    fill(host, &volume, 0x81)?;
    let (old, new) = (host.options.volume_bytes(), host.options.volume_bytes() * 2);
    host.on(&volume, "Volume.resize", json!({ "new_size": new }))?.prepared()?;
    let domain = host.domain();
    let mut disk = host.plug(&volume, &domain)?;
    has(host, &mut disk, 0x81, "the enlarged volume")?;
    if disk.read(old, LENGTH)?.iter().chain(&disk.read(new - 512, 512)?).any(|it| *it != 0) {
        return Err(Stop::fail("what was added does not read as zeroes"));
    }
    drop(disk);
    host.unplug(&volume, &domain)
}

fn read_only(host: &Host) -> Outcome {
    let volume = host.volume()?;
    fill(host, &volume, 0x91)?;
    let domain = host.domain();
    let backend = host.data(&volume, "attach", &domain)?.prepared()?;
    host.data(&volume, "activate_readonly", &domain)?.expected("for an attached volume")?;
    let mut disk = Disk::open(&backend)?;
    has(host, &mut disk, 0x91, "activated for reading")?;
    let was_written = disk.try_write(0, &pattern(0x92, LENGTH)).is_ok();
    drop(disk);
    host.unplug(&volume, &domain)?;
    match was_written {
        true => Err(Stop::fail("a write succeeded, though it was activated for reading")),
        false => holds(host, &volume, 0x91, "after a refused write"),
    }
}

fn nonpersistent(host: &Host) -> Outcome {
    let volume = host.volume()?;
    fill(host, &volume, 0xa1)?;
    let (side, uri) = host.datapath_of(&volume)?;
    let open = |persistent: bool| {
        let params = json!({ "uri": uri, "persistent": persistent });
        host.call_so(&side, "Datapath.open", params, Way::default())?.prepared()
    };
    let close =
        || host.call_so(&side, "Datapath.close", json!({ "uri": uri }), Way::default())?.prepared();
    open(false)?;
    fill(host, &volume, 0xa2)?;
    close()?;
    holds(host, &volume, 0xa1, "after a session with persistent=false")?;
    open(true)?;
    fill(host, &volume, 0xa3)?;
    close()?;
    holds(host, &volume, 0xa3, "after a session with persistent=true")
}
