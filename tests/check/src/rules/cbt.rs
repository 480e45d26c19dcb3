//! Changed block tracking, as a backup program uses it.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{Check::Once, Need, Rule};
use crate::{
    host::{Host, Volume},
    outcome::{Outcome, Reply, Stop},
};

const CBT: &[Need] = &[Need::Feature("VDI_CONFIG_CBT"), Need::Method("Volume.snapshot")];
const CBT_AND_DATA: &[Need] = &[
    Need::Feature("VDI_CONFIG_CBT"),
    Need::Method("Volume.snapshot"),
    Need::Datapath("Datapath.activate"),
];

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "cbt.enabled",
        title: "cbt_enabled is true from Volume.enable_cbt to Volume.disable_cbt, and not before",
        reference: "xen-api ocaml/xapi/xapi_vdi.ml, check_operation_error: a tracked disk does not migrate",
        consequence: "disks that nobody tracks cannot be migrated, or a backup is refused",
        needs: CBT,
        check: Once(enabled),
    },
    Rule {
        id: "cbt.snapshot",
        title: "a snapshot of a tracked volume is tracked",
        reference: "xen-api ocaml/xapi/xapi_vdi.ml, data_destroy: VDI_NO_CBT_METADATA",
        consequence: "a backup program cannot free the data of its last snapshot",
        needs: CBT,
        check: Once(snapshot),
    },
    Rule {
        id: "cbt.granularity",
        title: "a bit stands for 64 KiB",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, vdi_list_changed_blocks_impl: only the bitmap is passed on",
        consequence: "a backup reads other blocks than those that have changed, and is damaged",
        needs: CBT,
        check: Once(granularity),
    },
    Rule {
        id: "cbt.length",
        title: "the bitmap has a bit for each block of the volume",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, vdi_list_changed_blocks_impl: offset 0, length -1",
        consequence: "a backup lacks the end of the disk",
        needs: CBT,
        check: Once(length),
    },
    Rule {
        id: "cbt.padding",
        title: "the bitmap is a multiple of four bytes long",
        reference: "vatesfr/xen-orchestra @xen-orchestra/xapi/disks: it reads words of four bytes",
        consequence: "Xen Orchestra fails or leaves the last blocks out",
        needs: CBT,
        check: Once(padding),
    },
    Rule {
        id: "cbt.unchanged",
        title: "between two snapshots without a write no block has changed",
        reference: "xen-api ocaml/xapi-storage/generator/lib/control.ml, list_changed_blocks",
        consequence: "each backup is as large as the disk",
        needs: CBT,
        check: Once(unchanged),
    },
    Rule {
        id: "cbt.blocks",
        title: "the blocks that were written are set, the first block in the highest bit of the first byte",
        reference: "xen-api doc: XenServer Changed Block Tracking Guide, Interpret the base64-encoded bitmap",
        consequence: "a backup reads other blocks than those that have changed, and is damaged",
        needs: CBT_AND_DATA,
        check: Once(blocks),
    },
    Rule {
        id: "cbt.data-destroy",
        title: "after Volume.data_destroy a snapshot is still there and changes since it can be listed",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, vdi_data_destroy_impl: Volume.set of its type follows",
        consequence: "the next incremental backup is a full one, or fails",
        needs: CBT,
        check: Once(data_destroy),
    },
];

/// Bytes that a bit stands for.
const BLOCK: u64 = 64 << 10;

/// A tracked volume.
fn tracked(host: &Host) -> Result<Volume, Stop> {
    let volume = host.volume()?;
    host.on(&volume, "Volume.enable_cbt", json!({}))?.prepared()?;
    Ok(volume)
}

fn changed(host: &Host, old: &Volume, new: &Volume) -> Result<(Reply, Vec<u8>), Stop> {
    let params = json!({ "key2": new.key, "offset": 0, "length": -1 });
    let reply = host.on(old, "Volume.list_changed_blocks", params)?;
    let value = reply.clone().expected("between two snapshots")?;
    let bitmap = STANDARD.decode(value["bitmap"].as_str().unwrap_or_default());
    let bitmap = bitmap.map_err(|it| reply.wrong(format!("the bitmap is not base64: {it}")))?;
    Ok((reply, bitmap))
}

/// Two snapshots of a tracked volume, and the bitmap between them.
fn pair(host: &Host) -> Result<(Reply, Vec<u8>), Stop> {
    let volume = tracked(host)?;
    let old = host.derive(&volume, "Volume.snapshot")?;
    let new = host.derive(&volume, "Volume.snapshot")?;
    changed(host, &old, &new)
}

fn enabled(host: &Host) -> Outcome {
    let volume = host.volume()?;
    let expect = |is: bool, when: &str| -> Outcome {
        let reply = host.on(&volume, "Volume.stat", json!({}))?;
        match reply.clone().prepared()?["cbt_enabled"] == true {
            told if told == is => Ok(()),
            told => Err(reply.wrong(format!("cbt_enabled is {told} {when}"))),
        }
    };
    expect(false, "in a new volume")?;
    // xapi repeats both.
    for _ in 0..2 {
        host.on(&volume, "Volume.enable_cbt", json!({}))?.expected("")?;
        expect(true, "after Volume.enable_cbt")?;
    }
    for _ in 0..2 {
        host.on(&volume, "Volume.disable_cbt", json!({}))?.expected("")?;
        expect(false, "after Volume.disable_cbt")?;
    }
    Ok(())
}

fn snapshot(host: &Host) -> Outcome {
    let volume = tracked(host)?;
    let snapshot = host.derive(&volume, "Volume.snapshot")?;
    let reply = host.on(&snapshot, "Volume.stat", json!({}))?;
    match reply.clone().prepared()?["cbt_enabled"] == true {
        true => Ok(()),
        false => Err(reply.wrong("cbt_enabled of a snapshot of a tracked volume is not true")),
    }
}

fn granularity(host: &Host) -> Outcome {
    let (reply, _) = pair(host)?;
    let told = reply.clone().prepared()?["granularity"].as_f64();
    match told {
        Some(65536.0) => Ok(()),
        _ => Err(reply.wrong(format!("granularity is {told:?}"))),
    }
}

fn length(host: &Host) -> Outcome {
    let (reply, bitmap) = pair(host)?;
    let blocks = host.options.volume_bytes().div_ceil(BLOCK);
    let bits = bitmap.len() as u64 * 8;
    // As many as there are, and what fills the last words.
    match (blocks..blocks + 64).contains(&bits) {
        true => Ok(()),
        false => Err(reply.wrong(format!("{bits} bits for {blocks} blocks of 64 KiB"))),
    }
}

fn padding(host: &Host) -> Outcome {
    let volume =
        host.create("an odd number of blocks", host.options.volume_bytes() + (64 << 10))?;
    let volume = Volume::of(volume.prepared()?)?;
    host.on(&volume, "Volume.enable_cbt", json!({}))?.prepared()?;
    let old = host.derive(&volume, "Volume.snapshot")?;
    let new = host.derive(&volume, "Volume.snapshot")?;
    let (reply, bitmap) = changed(host, &old, &new)?;
    match bitmap.len() % 4 {
        0 => Ok(()),
        _ => Err(reply.wrong(format!("the bitmap is {} bytes long", bitmap.len()))),
    }
}

fn unchanged(host: &Host) -> Outcome {
    let (reply, bitmap) = pair(host)?;
    match bitmap.iter().any(|it| *it != 0) {
        false => Ok(()),
        true => Err(reply.wrong("bits are set, and nothing was written")),
    }
}

fn blocks(host: &Host) -> Outcome {
    let volume = tracked(host)?;
    let old = host.derive(&volume, "Volume.snapshot")?;
    let domain = host.domain();
    let mut disk = host.plug(&volume, &domain)?;
    let written = [0, 3, 9, 21];
    for block in written {
        disk.write(block * BLOCK + 4096, &[0xa5; 4096])?;
    }
    drop(disk);
    host.unplug(&volume, &domain)?;
    let new = host.derive(&volume, "Volume.snapshot")?;
    let (reply, bitmap) = changed(host, &old, &new)?;
    let is_set = |block: &u64| {
        let byte = usize::try_from(block / 8).ok().and_then(|at| bitmap.get(at));
        byte.is_some_and(|it| it & (0x80 >> (block % 8)) != 0)
    };
    let count = bitmap.len() as u64 * 8;
    let found: Vec<u64> = (0..count).filter(is_set).collect();
    match found == written {
        true => Ok(()),
        false => {
            Err(reply.wrong(format!("blocks {written:?} were written, the bitmap has {found:?}")))
        }
    }
}

fn data_destroy(host: &Host) -> Outcome {
    let volume = tracked(host)?;
    let old = host.derive(&volume, "Volume.snapshot")?;
    host.on(&old, "Volume.data_destroy", json!({}))?
        .expected("for a snapshot of a tracked volume")?;
    let set = json!({ "k": "vdi-type", "v": "cbt_metadata" });
    host.on(&old, "Volume.set", set)?.expected("after Volume.data_destroy")?;
    let reply = host.on(&old, "Volume.stat", json!({}))?;
    let stat = reply.clone().expected("after Volume.data_destroy")?;
    if !matches!(&stat["volume_type"], Value::String(it) if it == "CBT_Metadata") {
        return Err(reply.wrong(format!("volume_type is {}", stat["volume_type"])));
    }
    let new = host.derive(&volume, "Volume.snapshot")?;
    changed(host, &old, &new).map(drop)
}
