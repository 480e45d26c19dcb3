//! The interface `Datapath`. Every method may be repeated, and repeated after it was killed at any
//! point; those that undo something succeed where it is undone already.

pub(crate) mod activate;
pub(crate) mod activate_readonly;
pub(crate) mod attach;
pub(crate) mod close;
pub(crate) mod deactivate;
pub(crate) mod detach;
pub(crate) mod import_activate;
pub(crate) mod open;
