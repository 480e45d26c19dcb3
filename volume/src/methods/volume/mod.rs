//! `Volume.*`: virtual disks, their snapshots, and the differences between them.

pub(crate) mod clone;
pub(crate) mod compare;
pub(crate) mod compose;
pub(crate) mod copy;
pub(crate) mod create;
pub(crate) mod data_destroy;
pub(crate) mod destroy;
pub(crate) mod disable_cbt;
pub(crate) mod enable_cbt;
pub(crate) mod list_changed_blocks;
pub(crate) mod resize;
pub(crate) mod revert;
pub(crate) mod set;
pub(crate) mod set_description;
pub(crate) mod set_name;
pub(crate) mod similar_content;
pub(crate) mod snapshot;
pub(crate) mod stat;
pub(crate) mod unset;
