//! Work that takes longer than a pass of the loop may: opening a disk, and writing keys to xenstore.
//!
//! Work that uses a disk, as large discards, belongs to its [`block::Drive`], which does it in steps.

mod key_update;
mod opening;

pub(crate) use key_update::KeyUpdate;
pub(crate) use opening::{Opening, Wanted};
