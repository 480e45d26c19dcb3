//! What the record of a volume says of its mirrors and copies: that a cut-over is owed, for one, which outlives
//! the process that mirrors.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tapctl::{Identity, Minor};

/// How many mirrors and copies that have ended are remembered for each volume.
const ENDED_MAX: usize = 8;

/// The domain that xapi names for a machine that is halted.
const HALTED: &str = "-1";
/// The beginning of dom0's datapaths that exist for a mirror of a machine (`mirror_vbd/...`,
/// `xapi_vm_migrate.ml`): attached beside the machine's and never activated.
const DATAPATH: &str = "u0_mirror";

/// How a mirror or a copy has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    /// The destination has everything.
    Finished,
    /// The destination is of no use, for this reason.
    Failed(String),
}

/// What an operation does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Purpose {
    /// It keeps the destination up to date until it is cut over.
    #[default]
    Mirror,
    /// It copies given parts of the volume, and ends.
    Copy,
}

/// A mirror or a copy that was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MirrorRecord {
    #[serde(default)]
    pub(crate) purpose: Purpose,
    /// The domain whose deactivation is the cut-over of a mirror.
    pub(crate) domain: String,
    /// The process that mirrors, and its minor. Another process knows nothing of the mirror.
    pub(crate) tapdisk: Identity,
    pub(crate) minor: Minor,
    /// Whether the mirror itself has the volume active for reading, as no domain had when it began.
    #[serde(default)]
    pub(crate) holds: bool,
    /// Whether xapi was told that the mirror is complete, and relies on it since.
    pub(crate) is_told: bool,
    /// Whether xapi has still to be told that it has failed since.
    #[serde(default)]
    pub(crate) is_owed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) end: Option<End>,
    /// Fields that a later version has written.
    #[serde(flatten)]
    unknown: BTreeMap<String, serde_json::Value>,
}

impl MirrorRecord {
    pub(crate) fn new(
        purpose: Purpose,
        domain: String,
        tapdisk: Identity,
        minor: Minor,
        holds: bool,
    ) -> Self {
        let unknown = BTreeMap::new();
        Self {
            purpose,
            domain,
            tapdisk,
            minor,
            holds,
            is_told: false,
            is_owed: false,
            end: None,
            unknown,
        }
    }

    /// Whether it may still go on.
    pub(crate) fn is_live(&self) -> bool {
        self.end.is_none()
    }

    /// It has ended. Where it has failed after xapi was told that it is complete, and the caller does not
    /// tell xapi now, that is owed.
    pub(crate) fn ended(&mut self, end: End, is_told_now: bool) {
        self.is_owed = matches!(end, End::Failed(_)) && self.is_told && !is_told_now;
        self.end = Some(end);
    }

    /// Whether the deactivation for `domain` is the cut-over.
    pub(crate) fn is_cut_over_by(&self, domain: &str) -> bool {
        self.purpose == Purpose::Mirror
            && (self.domain == domain || (self.domain == HALTED && is_mirrors(domain)))
    }

    /// Whether xapi hears of a failure when it deactivates `domain`.
    pub(crate) fn is_told_by(&self, domain: &str) -> bool {
        self.domain == domain || is_mirrors(domain)
    }

    pub(crate) fn is_of_halted(&self) -> bool {
        self.domain == HALTED
    }
}

/// Whether a domain is a datapath that exists for a mirror.
fn is_mirrors(domain: &str) -> bool {
    domain.starts_with(DATAPATH)
}

/// The mirrors and copies of a volume, by their operations.
pub(crate) type Mirrors = BTreeMap<String, MirrorRecord>;

/// Forgets mirrors and copies that ended, in any order, where there are many of them. What is owed stays.
pub(crate) fn forget_ended(mirrors: &mut Mirrors) {
    while mirrors.values().filter(|it| !it.is_live() && !it.is_owed).count() > ENDED_MAX {
        let ended = mirrors.iter().find(|(_, it)| !it.is_live() && !it.is_owed);
        let Some(operation) = ended.map(|(operation, _)| operation.clone()) else { return };
        mirrors.remove(&operation);
    }
}
