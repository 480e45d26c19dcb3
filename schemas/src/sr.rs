//! The interface `SR`: storage repositories, from probe to destroy.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::method::interface;
use crate::volume::Volume;
use crate::wire::{StringMap, present, tagged};

interface! {
    "SR";
    /// List the SRs that a configuration matches: existing ones, and ones that could be created
    Probe = "probe" (ConfigurationParams) -> Vec<ProbeResult>;
    /// Create an empty SR; prints the configuration to attach it with
    Create = "create" (CreateParams) -> StringMap;
    /// Attach an SR to this host; prints the handle that the other methods take
    Attach = "attach" (ConfigurationParams) -> String;
    /// Detach an SR from this host and keep its volumes
    Detach = "detach" (SrParams) -> ();
    /// Destroy an attached SR with all of its volumes
    Destroy = "destroy" (SrParams) -> ();
    /// Show an SR's name, health and space
    Stat = "stat" (SrParams) -> SrStat;
    /// Rename an SR
    SetName = "set_name" (SetNameParams) -> ();
    /// Change the description of an SR
    SetDescription = "set_description" (SetDescriptionParams) -> ();
    /// List the volumes of an SR
    Ls = "ls" (SrParams) -> Vec<Volume>;
}

/// The parameters of a method on one attached SR.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SrParams {
    /// Debug context of the caller, repeated in the log
    #[schemars(extend("x-cli-default" = "cli"))]
    pub dbg: String,
    /// Handle of the SR, as SR.attach returned it
    pub sr: String,
}

/// The parameters of a method that finds an SR by its configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigurationParams {
    /// Debug context of the caller, repeated in the log
    #[schemars(extend("x-cli-default" = "cli"))]
    pub dbg: String,
    /// The device-config of the SR
    #[schemars(extend("x-cli-default" = {}))]
    pub configuration: StringMap,
}

/// The parameters of `SR.create`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateParams {
    /// Debug context of the caller, repeated in the log
    #[schemars(extend("x-cli-default" = "cli"))]
    pub dbg: String,
    /// UUID of the new SR
    pub uuid: String,
    /// The device-config of the new SR
    #[schemars(extend("x-cli-default" = {}))]
    pub configuration: StringMap,
    /// Name of the new SR
    pub name: String,
    /// Description of the new SR
    #[schemars(extend("x-cli-default" = ""))]
    pub description: String,
}

/// The parameters of `SR.set_name`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetNameParams {
    /// Debug context of the caller, repeated in the log
    #[schemars(extend("x-cli-default" = "cli"))]
    pub dbg: String,
    /// Handle of the SR, as SR.attach returned it
    pub sr: String,
    /// New name of the SR
    pub new_name: String,
}

/// The parameters of `SR.set_description`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetDescriptionParams {
    /// Debug context of the caller, repeated in the log
    #[schemars(extend("x-cli-default" = "cli"))]
    pub dbg: String,
    /// Handle of the SR, as SR.attach returned it
    pub sr: String,
    /// New description of the SR
    pub new_description: String,
}

/// One result of a probe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Probe result")]
pub struct ProbeResult {
    /// The configuration to probe, create or attach with next
    pub configuration: StringMap,
    /// Whether that configuration is enough for SR.create or SR.attach
    pub complete: bool,
    /// The SR that exists already
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schemars(with = "SrStat")]
    pub sr: Option<SrStat>,
    /// Further properties that help to choose a result
    pub extra_info: StringMap,
}

/// The state of an SR.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "SR")]
pub struct SrStat {
    /// Handle of the SR
    pub sr: String,
    /// Name of the SR
    pub name: String,
    /// UUID of the SR, where it is known
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schemars(with = "String")]
    pub uuid: Option<String>,
    /// Description of the SR
    pub description: String,
    /// Bytes that are free
    pub free_space: u64,
    /// Bytes that the SR can hold
    pub total_space: u64,
    /// URIs of the SR's performance data
    pub datasources: Vec<String>,
    /// Whether several hosts form the SR's storage together
    pub clustered: bool,
    /// Whether the SR can be used
    pub health: Health,
}

/// Healthy, without a reason.
impl Default for Health {
    fn default() -> Self {
        Self::Healthy(String::new())
    }
}

tagged! {
    /// Whether an SR can be used, with a reason where it cannot.
    pub enum Health {
        /// All is well
        Healthy(String),
        /// The storage is being repaired and works meanwhile
        Recovering(String),
        /// Unreachable until an administrator repairs it
        Unreachable(String),
        /// Lost until the host is restarted
        Unavailable(String),
    }
}
