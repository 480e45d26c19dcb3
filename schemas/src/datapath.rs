//! The interface `Datapath`: how a domain reaches a volume's data, from open to close.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::method::interface;
use crate::wire::{StringMap, tagged};

interface! {
    "Datapath";
    /// Decide before the first attach whether writes are kept
    Open = "open" (OpenParams) -> ();
    /// Prepare a volume for a domain; prints how to reach its data
    Attach = "attach" (DomainParams) -> Backend;
    /// Let a domain read and write an attached volume
    Activate = "activate" (DomainParams) -> ();
    /// Let a domain read an attached volume
    ActivateReadonly = "activate_readonly" (DomainParams) -> ();
    /// Print the socket that takes the connection of an incoming migration
    ImportActivate = "import_activate" (DomainParams) -> String;
    /// Stop a domain from reading and writing
    Deactivate = "deactivate" (DomainParams) -> ();
    /// Undo attach
    Detach = "detach" (DomainParams) -> ();
    /// End the use of a volume after the last detach; drops writes that were not to be kept
    Close = "close" (UriParams) -> ();
}

/// The parameters of `Datapath.open`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenParams {
    /// Debug context of the caller, repeated in the log
    #[schemars(extend("x-cli-default" = "cli"))]
    pub dbg: String,
    /// URI of the volume, as Volume.stat shows it
    pub uri: String,
    /// Whether writes outlive Datapath.close
    pub persistent: bool,
}

/// The parameters of a method on one volume that is independent of the domains that use it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UriParams {
    /// Debug context of the caller, repeated in the log
    #[schemars(extend("x-cli-default" = "cli"))]
    pub dbg: String,
    /// URI of the volume, as Volume.stat shows it
    pub uri: String,
}

/// The parameters of a method on one volume for one domain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DomainParams {
    /// Debug context of the caller, repeated in the log
    #[schemars(extend("x-cli-default" = "cli"))]
    pub dbg: String,
    /// URI of the volume, as Volume.stat shows it
    pub uri: String,
    /// The domain that uses the volume: any string, the same one in all calls
    pub domain: String,
}

/// How to reach the data of an attached volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Backend")]
pub struct Backend {
    /// All ways to reach the data; of two of the same kind the caller takes the last
    pub implementations: Vec<Implementation>,
}

tagged! {
    /// One way to reach the data of a volume.
    pub enum Implementation {
        /// A Xen block backend, for guests
        XenDisk(XenDisk),
        /// A block device, for the control domain
        BlockDevice(BlockDevice),
        /// A plain file
        File(File),
        /// An NBD server on a UNIX socket
        Nbd(Nbd),
    }
}

/// The xenstore entries of a Xen block backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Xen disk")]
pub struct XenDisk {
    /// Value of the key `params` in xenstore
    pub params: String,
    /// Keys that go below `sm-data` in xenstore
    pub extra: StringMap,
    /// Name of the backend's directory in xenstore, e.g. `vbd3`
    pub backend_type: String,
}

/// A block device of this host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Block device")]
pub struct BlockDevice {
    /// Path of the device
    pub path: String,
}

/// A plain file of this host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "File")]
pub struct File {
    /// Path of the file
    pub path: String,
}

/// An NBD server of this host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "NBD")]
pub struct Nbd {
    /// `nbd:unix:<socket>:exportname=<name>`, with no colon inside either
    pub uri: String,
}
