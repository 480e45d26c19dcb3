//! The interface `Volume`: virtual disks, their snapshots, and the blocks that changed between them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::method::interface;
use crate::wire::{Blocklist, StringMap, present};

interface! {
    "Volume";
    /// Create an empty volume; its size is rounded up, never down
    Create = "create" (CreateParams) -> Volume;
    /// Take a read-only snapshot of a volume
    Snapshot = "snapshot" (VolumeParams) -> Volume;
    /// Make a writable volume with the contents of another
    Clone = "clone" (VolumeParams) -> Volume;
    /// Copy a volume, perhaps into another SR
    Copy = "copy" (CopyParams) -> Volume;
    /// Destroy a volume
    Destroy = "destroy" (VolumeParams) -> ();
    /// Give a volume the contents of a snapshot
    Revert = "revert" (RevertParams) -> ();
    /// Rename a volume
    SetName = "set_name" (SetNameParams) -> ();
    /// Change the description of a volume
    SetDescription = "set_description" (SetDescriptionParams) -> ();
    /// Store a key and its value with a volume
    Set = "set" (SetParams) -> ();
    /// Remove a key from a volume
    Unset = "unset" (UnsetParams) -> ();
    /// Enlarge a volume
    Resize = "resize" (ResizeParams) -> ();
    /// Show the properties of a volume
    Stat = "stat" (VolumeParams) -> Volume;
    /// List the blocks in which two volumes differ
    Compare = "compare" (CompareParams) -> Blocklist;
    /// List the volumes whose contents resemble those of a volume
    SimilarContent = "similar_content" (VolumeParams) -> Vec<String>;
    /// Start tracking the changed blocks of a volume
    EnableCbt = "enable_cbt" (VolumeParams) -> ();
    /// Stop tracking the changed blocks of a volume
    DisableCbt = "disable_cbt" (VolumeParams) -> ();
    /// Drop a snapshot's data and keep its record of changed blocks
    DataDestroy = "data_destroy" (VolumeParams) -> ();
    /// Print a bitmap of the blocks that changed between two volumes
    ListChangedBlocks = "list_changed_blocks" (ListChangedBlocksParams) -> ChangedBlocks;
    /// Apply a child's updates to its parent; the child keeps the result, the parent is destroyed
    Compose = "compose" (ComposeParams) -> ();
}

/// The parameters of a method on one volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeParams {
    /// Debug context of the caller, repeated in the log
    #[schemars(extend("x-cli-default" = "cli"))]
    pub dbg: String,
    /// Handle of the SR, as SR.attach returned it
    pub sr: String,
    /// Key of the volume
    pub key: String,
}

/// The parameters of `Volume.create`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateParams {
    /// Debug context of the caller, repeated in the log
    #[schemars(extend("x-cli-default" = "cli"))]
    pub dbg: String,
    /// Handle of the SR, as SR.attach returned it
    pub sr: String,
    /// Name of the new volume
    pub name: String,
    /// Description of the new volume
    #[schemars(extend("x-cli-default" = ""))]
    pub description: String,
    /// The least number of bytes that it has to hold
    pub size: i64,
    /// Whether several hosts may attach it at once
    #[schemars(extend("x-cli-default" = false))]
    pub sharable: bool,
}

/// The parameters of `Volume.copy`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CopyParams {
    /// Debug context of the caller, repeated in the log
    #[schemars(extend("x-cli-default" = "cli"))]
    pub dbg: String,
    /// Handle of the SR that holds the volume
    pub sr: String,
    /// Key of the volume to copy
    pub key: String,
    /// Handle of the SR that the copy goes to
    pub dest_sr: String,
}

/// The parameters of `Volume.revert`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevertParams {
    /// Debug context of the caller, repeated in the log
    #[schemars(extend("x-cli-default" = "cli"))]
    pub dbg: String,
    /// Handle of the SR, as SR.attach returned it
    pub sr: String,
    /// Key of the snapshot that has the contents
    pub snapshot: String,
    /// Key of the volume that gets them and keeps its identity
    pub key: String,
}

/// The parameters of `Volume.set_name`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetNameParams {
    /// Debug context of the caller, repeated in the log
    #[schemars(extend("x-cli-default" = "cli"))]
    pub dbg: String,
    /// Handle of the SR, as SR.attach returned it
    pub sr: String,
    /// Key of the volume
    pub key: String,
    /// New name of the volume
    pub new_name: String,
}

/// The parameters of `Volume.set_description`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetDescriptionParams {
    /// Debug context of the caller, repeated in the log
    #[schemars(extend("x-cli-default" = "cli"))]
    pub dbg: String,
    /// Handle of the SR, as SR.attach returned it
    pub sr: String,
    /// Key of the volume
    pub key: String,
    /// New description of the volume
    pub new_description: String,
}

/// The parameters of `Volume.set`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetParams {
    /// Debug context of the caller, repeated in the log
    #[schemars(extend("x-cli-default" = "cli"))]
    pub dbg: String,
    /// Handle of the SR, as SR.attach returned it
    pub sr: String,
    /// Key of the volume
    pub key: String,
    /// The key to store in the volume's metadata
    pub k: String,
    /// The value to store under it
    pub v: String,
}

/// The parameters of `Volume.unset`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnsetParams {
    /// Debug context of the caller, repeated in the log
    #[schemars(extend("x-cli-default" = "cli"))]
    pub dbg: String,
    /// Handle of the SR, as SR.attach returned it
    pub sr: String,
    /// Key of the volume
    pub key: String,
    /// The key to remove from the volume's metadata
    pub k: String,
}

/// The parameters of `Volume.resize`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResizeParams {
    /// Debug context of the caller, repeated in the log
    #[schemars(extend("x-cli-default" = "cli"))]
    pub dbg: String,
    /// Handle of the SR, as SR.attach returned it
    pub sr: String,
    /// Key of the volume
    pub key: String,
    /// The least number of bytes that the volume has to hold after the call
    pub new_size: i64,
}

/// The parameters of `Volume.compare`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CompareParams {
    /// Debug context of the caller, repeated in the log
    #[schemars(extend("x-cli-default" = "cli"))]
    pub dbg: String,
    /// Handle of the SR, as SR.attach returned it
    pub sr: String,
    /// Key of the volume whose blocks are listed
    pub key: String,
    /// Key of the volume that it is compared with
    pub key2: String,
}

/// The parameters of `Volume.list_changed_blocks`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListChangedBlocksParams {
    /// Debug context of the caller, repeated in the log
    #[schemars(extend("x-cli-default" = "cli"))]
    pub dbg: String,
    /// Handle of the SR, as SR.attach returned it
    pub sr: String,
    /// Key of the older volume
    pub key: String,
    /// Key of the newer volume
    pub key2: String,
    /// First byte of the range to compare
    #[schemars(extend("x-cli-default" = 0))]
    pub offset: i64,
    /// Length of the range to compare in bytes; -1 means all that follow
    #[schemars(extend("x-cli-default" = -1))]
    pub length: i64,
}

/// The parameters of `Volume.compose`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ComposeParams {
    /// Debug context of the caller, repeated in the log
    #[schemars(extend("x-cli-default" = "cli"))]
    pub dbg: String,
    /// Handle of the SR, as SR.attach returned it
    pub sr: String,
    /// Key of the child, which keeps its identity
    pub key: String,
    /// Key of the parent, which is destroyed
    pub key2: String,
}

/// The properties of a volume.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Volume")]
pub struct Volume {
    /// Key of the volume, unique in its SR
    pub key: String,
    /// UUID of the volume, where it has one
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schemars(with = "String")]
    pub uuid: Option<String>,
    /// Name of the volume
    pub name: String,
    /// Description of the volume
    pub description: String,
    /// Whether it may be written to
    pub read_write: bool,
    /// Whether several hosts may attach it at once
    pub sharable: bool,
    /// Bytes that a guest sees
    pub virtual_size: u64,
    /// Bytes that it takes from the SR
    pub physical_utilisation: u64,
    /// How a datapath plugin reaches the data, the best way first
    pub uri: Vec<String>,
    /// The keys and values that Volume.set has stored
    pub keys: StringMap,
    /// The contents of the volume; data where it is left out
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schemars(with = "VolumeType")]
    pub volume_type: Option<VolumeType>,
    /// Whether changed blocks are tracked; they are not where it is left out
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schemars(with = "bool")]
    pub cbt_enabled: Option<bool>,
}

/// The contents of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VolumeType {
    /// Data
    Data,
    /// Only the record of changed blocks: the data was destroyed
    #[serde(rename = "CBT_Metadata")]
    CbtMetadata,
    /// Data and the record of changed blocks
    #[serde(rename = "Data_and_CBT_Metadata")]
    DataAndCbtMetadata,
}

/// The blocks that changed between two volumes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Changed blocks")]
pub struct ChangedBlocks {
    /// Bytes per bit of the bitmap
    pub granularity: u64,
    /// The bitmap in base64: a set bit is a changed block, the first one the top bit of byte 0
    pub bitmap: String,
}
