//! Work that takes longer than a pass of the loop may: opening a disk, mirroring it to another
//! server, and writing keys to xenstore.
//!
//! Work that uses a disk, as large discards, belongs to its [`block::Drive`], which does it in steps.

mod key_update;
mod mirror;
mod opening;

pub(crate) use key_update::KeyUpdate;
pub(crate) use mirror::Mirror;
pub(crate) use opening::{Opening, Wanted};
