//! Conversions from the store's types to those of the interface.

use smapiv3::{
    sr::{self, Health},
    volume::{Volume, VolumeType},
};
use store::{Name, Swap, SwapSpace, VolumeUri, human};

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
    let older = stat.restored.as_ref().and_then(|restored| restored.older.clone());
    // Where it cannot be read there is nothing to say of it.
    let has_swap = SwapSpace::now().is_ok_and(|swap| swap.size > 0);
    let swap = swapped(&stat.uuid, stat.swap_wanted, stat.swap, has_swap);
    let words: Vec<String> =
        damage.into_iter().chain(older).chain(short_of_room(stat)).chain(swap).collect();
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
/// An SR lacks memory of the host where that keeps so many bytes of its size from being written.
const LACKING_BYTES: u64 = 1 << 20;

/// What there is to say of an SR that has little room left, or less than its size promises, and what is to be
/// done.
pub(crate) fn short_of_room(stat: &store::SrStat) -> Option<String> {
    let own = stat.total.saturating_sub(stat.used + stat.metadata);
    let host_lacks = own.saturating_sub(stat.free) > LACKING_BYTES;
    let is_nearly_full = stat.free < stat.total / NEARLY_FULL_PART;
    let (state, why, remedy) = match (is_nearly_full, host_lacks) {
        (false, false) => return None,
        (true, false) => (
            "is nearly full",
            "the rest is in use".to_owned(),
            "discard what the disks do not need (fstrim)".to_owned(),
        ),
        (_, true) => (
            if is_nearly_full { "is nearly full" } else { "lacks memory of the host" },
            format!("the host has no more memory above its watermark for the {} left", human(own)),
            format!(
                "stop programs in the control domain, give it more memory, or promise less \
                 (volume-plugin resize --sr {} --size ...)",
                stat.uuid
            ),
        ),
    };
    Some(format!(
        "SR {} {state}: {} of {} can still be written, as {why} ({} of data, {} of metadata); \
         delete disks or snapshots (xe vdi-destroy), or {remedy}",
        stat.uuid,
        human(stat.free),
        human(stat.total),
        human(stat.used),
        human(stat.metadata)
    ))
}

/// What there is to say of an SR that is swapped though that was not asked for, or is not though it was.
pub(crate) fn swapped(uuid: &Name, wanted: bool, swap: Swap, has_swap: bool) -> Option<String> {
    let why = match swap {
        Swap::InAnyCase if has_swap && !wanted => {
            "may be swapped, which is slower and was not asked for: this kernel knows no tmpfs without swap, which \
             Linux 6.4 and later do; swapoff -a keeps all of the host's memory out of swap"
        }
        Swap::StillPossible if has_swap => {
            "may be swapped, as when its memory was made: device-config:swap=false holds from the next restart of \
             the host on"
        }
        Swap::NotYet => {
            "is kept out of swap, as when its memory was made: device-config:swap=true holds from the next restart \
             of the host on"
        }
        _ => return None,
    };
    Some(format!("SR {uuid} {why}"))
}

#[cfg(test)]
mod tests {
    use store::SrStat;

    use super::*;

    const GIB: u64 = 1 << 30;

    /// An SR of 8 GiB.
    fn said(used: u64, free: u64) -> Option<String> {
        short_of_room(&SrStat {
            uuid: Name::parse("sr-1").unwrap(),
            name: String::new(),
            description: String::new(),
            total: 8 * GIB,
            used,
            metadata: 0,
            free,
            attached: true,
            save_dir: String::new(),
            swap_wanted: false,
            swap: Swap::Never,
            restored: None,
        })
    }

    #[test]
    fn an_sr_says_that_it_is_swapped_otherwise_than_asked_for() {
        let uuid = Name::parse("sr-1").unwrap();
        let said = |swap, wanted, has_swap| swapped(&uuid, wanted, swap, has_swap);
        for (swap, wanted, word) in [
            (Swap::InAnyCase, false, "sr-1 may be swapped, which is slower"),
            (Swap::StillPossible, false, "device-config:swap=false holds from the next restart"),
            (Swap::NotYet, true, "device-config:swap=true holds from the next restart"),
        ] {
            let said = said(swap, wanted, true).unwrap();
            assert!(said.contains(word), "{word:?} is missing in {said:?}");
        }
        for (swap, wanted, has_swap) in [
            (Swap::InAnyCase, true, true),
            (Swap::InAnyCase, false, false),
            (Swap::StillPossible, false, false),
            (Swap::Wanted, true, true),
            (Swap::Never, false, true),
            (Swap::OfAnother, true, true),
        ] {
            assert_eq!(said(swap, wanted, has_swap), None, "{swap:?} {wanted} {has_swap}");
        }
    }

    #[test]
    fn an_sr_says_that_the_host_cannot_keep_its_promise() {
        assert_eq!(said(2 * GIB, 6 * GIB), None);
        assert_eq!(said(2 * GIB, 6 * GIB - 4096), None);
        let lacks = said(2 * GIB, 3 * GIB).unwrap();
        for part in
            ["sr-1 lacks memory", "3 GiB of 8 GiB", "for the 6 GiB left", "resize --sr sr-1"]
        {
            assert!(lacks.contains(part), "{part:?} is missing in {lacks:?}");
        }
        let full = said(8 * GIB - (64 << 20), 64 << 20).unwrap();
        assert!(full.contains("nearly full") && full.contains("is in use"), "{full}");
        let both = said(2 * GIB, 0).unwrap();
        assert!(both.contains("nearly full") && both.contains("watermark"), "{both}");
    }
}
