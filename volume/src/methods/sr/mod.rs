//! `SR.*`: storage repositories, from probe to destroy. An SR's handle is its UUID.

pub(crate) mod attach;
pub(crate) mod create;
pub(crate) mod destroy;
pub(crate) mod detach;
pub(crate) mod ls;
pub(crate) mod probe;
pub(crate) mod set_description;
pub(crate) mod set_name;
pub(crate) mod stat;
