//! Conversions from the store's types to those of the interface.

use smapiv3::{
    sr::{self, Health},
    volume::{Volume, VolumeType},
};
use store::{Name, VolumeUri, human};

/// A volume of the SR `sr`.
pub(crate) fn volume(sr: &Name, volume: store::Volume) -> Volume {
    let uri = VolumeUri { sr: sr.clone(), key: volume.key.clone() };
    Volume {
        // Keys are UUIDs.
        uuid: Some(volume.key.to_string()),
        key: volume.key.to_string(),
        name: volume.name,
        description: volume.description,
        read_write: volume.read_write,
        sharable: volume.sharable,
        virtual_size: volume.size,
        physical_utilisation: volume.utilisation,
        uri: vec![uri.to_string()],
        keys: volume.keys,
        volume_type: Some(if volume.has_data { VolumeType::Data } else { VolumeType::CbtMetadata }),
        cbt_enabled: Some(volume.cbt_enabled),
    }
}

/// The state of an SR.
///
/// It is healthy even with damaged volumes, and the text says so: on anything else xapi fails the plug
/// of the PBD with `SR_UNHEALTHY` (`Storage_utils.transform_storage_exn`), and the disks that are sound
/// would be out of reach with those that are not. Nothing is being repaired, either, which xapi would
/// wait for if it were `Recovering`. As xapi-storage-script drops the text, it is logged too.
pub(crate) fn sr_stat(stat: &store::SrStat, damaged: &[store::Damaged]) -> sr::SrStat {
    let damage = damaged.first().map(|first| {
        format!(
            "{} of the volumes are damaged, and nothing that they may share with others is freed \
             (volume-plugin check --sr {} lists everything): {}",
            damaged.len(),
            stat.uuid,
            first.error.chain()
        )
    });
    let words: Vec<String> = damage.into_iter().chain(nearly_full(stat)).collect();
    sr::SrStat {
        sr: stat.uuid.to_string(),
        name: stat.name.clone(),
        uuid: Some(stat.uuid.to_string()),
        description: stat.description.clone(),
        free_space: stat.free,
        total_space: stat.total,
        datasources: vec![graphs::uri(stat.uuid.as_str())],
        clustered: false,
        health: Health::Healthy(words.join("; ")),
    }
}

/// An SR of which less than this part is free is nearly full: one part in...
const NEARLY_FULL_PART: u64 = 16;

/// What there is to say of an SR that has little room left, and what is to be done.
pub(crate) fn nearly_full(stat: &store::SrStat) -> Option<String> {
    if stat.free >= stat.total / NEARLY_FULL_PART {
        return None;
    }
    let own = stat.total.saturating_sub(stat.used + stat.metadata);
    let (why, remedy) = if own > stat.free {
        ("the host has no more memory above its watermark", "give the control domain more memory")
    } else {
        ("the rest is in use", "discard what the disks do not need (fstrim)")
    };
    Some(format!(
        "SR {} is nearly full: {} of {} can still be written, as {why} ({} of data, {} of metadata); \
         delete disks or snapshots (xe vdi-destroy), or {remedy}",
        stat.uuid,
        human(stat.free),
        human(stat.total),
        human(stat.used),
        human(stat.metadata)
    ))
}
