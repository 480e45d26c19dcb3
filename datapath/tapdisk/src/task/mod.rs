//! Work that ends in a disk and takes longer than a pass of the loop may.
//!
//! Work that uses a disk, as large discards, belongs to its [`block::Drive`], which does it in steps.

mod opening;

pub(crate) use opening::{Opening, Wanted};
