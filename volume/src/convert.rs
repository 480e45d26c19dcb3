//! What the store says, in the interface's own types.

use schemas::{
    sr::{self, Health},
    volume::{Volume, VolumeType},
};
use store::{Name, VolumeUri};

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

/// The state of an SR. Memory that can be read at all is healthy.
pub(crate) fn sr_stat(stat: &store::SrStat) -> sr::SrStat {
    sr::SrStat {
        sr: stat.uuid.to_string(),
        name: stat.name.clone(),
        uuid: Some(stat.uuid.to_string()),
        description: stat.description.clone(),
        free_space: stat.free(),
        total_space: stat.total,
        datasources: Vec::new(),
        clustered: false,
        health: Health::Healthy(String::new()),
    }
}
