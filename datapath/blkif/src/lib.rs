//! A guest's disk: the block interface of Xen (`xen/io/blkif.h`), the backend's half.
//!
//! No I/O, no event loop, no Xen: a ring reaches its guest through [`Domain`], and its disk through a
//! drive of the crate `block`.

mod copies;
mod domain;

pub use copies::{Copies, Grant, Local, OKAY, PAGE_BYTES, Segment};
pub use domain::{Domain, Features, Update, Updating, Xen};
