//! Work that takes longer than a pass of the loop may, and makes a disk.
//!
//! Work that uses a disk, as large discards, belongs to its [`block::Drive`], which does it in steps.

mod opening;

pub(crate) use opening::{Opening, Wanted};
