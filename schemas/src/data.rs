//! The interface `Data`: long-running copies and mirrors of a volume's data.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::method::interface;
use crate::wire::{Blocklist, NoParams, present, tagged};

interface! {
    "Data";
    /// Copy blocks of a volume to a remote disk; prints the operation to follow
    Copy = "copy" (CopyParams) -> Operation;
    /// Copy a volume to a remote disk and keep it up to date; prints the operation to follow
    Mirror = "mirror" (MirrorParams) -> Operation;
    /// Show the progress of an operation
    Stat = "stat" (OperationParams) -> Status;
    /// Stop an operation
    Cancel = "cancel" (OperationParams) -> ();
    /// Forget an operation that has ended
    Destroy = "destroy" (OperationParams) -> ();
    /// List the operations
    Ls = "ls" (NoParams) -> Vec<Operation>;
}

/// The parameters of `Data.copy`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CopyParams {
    /// Debug context of the caller, repeated in the log
    #[schemars(extend("x-cli-default" = "cli"))]
    pub dbg: String,
    /// URI of the volume, as Volume.stat shows it
    pub uri: String,
    /// The domain that uses the volume
    pub domain: String,
    /// URI of the disk that is written to
    pub remote: String,
    /// The blocks to copy
    pub blocklist: Blocklist,
}

/// The parameters of `Data.mirror`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MirrorParams {
    /// Debug context of the caller, repeated in the log
    #[schemars(extend("x-cli-default" = "cli"))]
    pub dbg: String,
    /// URI of the volume, as Volume.stat shows it
    pub uri: String,
    /// The domain that uses the volume
    pub domain: String,
    /// URI of the disk that is written to
    pub remote: String,
}

/// The parameters of a method on one operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OperationParams {
    /// Debug context of the caller, repeated in the log
    #[schemars(extend("x-cli-default" = "cli"))]
    pub dbg: String,
    /// The operation, as Data.copy or Data.mirror returned it
    pub operation: Operation,
}

tagged! {
    /// A long-running operation, by its key.
    pub enum Operation {
        /// A copy of given blocks
        CopyV1(String),
        /// A mirror of a whole volume
        MirrorV1(String),
    }
}

/// The progress of an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Status")]
pub struct Status {
    /// Whether it failed
    pub failed: bool,
    /// Whether it has ended, well or not; of a mirror: whether all is copied
    pub complete: bool,
    /// How much is done, from 0 to 1
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schemars(with = "f64")]
    pub progress: Option<f64>,
}
