//! The methods, one file each, in a directory for each interface.

pub(crate) mod data;
pub(crate) mod datapath;
pub(crate) mod plugin;
