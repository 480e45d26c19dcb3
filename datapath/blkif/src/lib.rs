//! A guest's disk: the block interface of Xen (`xen/io/blkif.h`), the backend's half.
//!
//! No event loop and no Xen: a [`Ring`] reaches its guest through a [`Domain`], and its disk through a
//! drive of the crate `block`. The crate `xen` implements [`Domain`] over the host's devices,
//! [`mock`] over files in memory that any process can map; [`mock::Frontend`] is the guest's half, for
//! tests and measurements.

mod batch;
mod copies;
mod counters;
mod deferred;
mod domain;
mod journal;
mod layout;
pub mod mock;
mod request;
mod ring;
mod shared;
mod steps;
mod times;

pub use copies::{Copies, Grant, Local, OKAY, PAGE_BYTES, Segment};
pub use counters::{Counters, Indices, SharedCounters};
pub use domain::{Domain, Features, Update, Updating, Xen};
pub use journal::Journal;
pub use layout::{Abi, ORDER_MAX, SECTOR_BYTES, SEGMENTS_MAX, Status};
pub use request::INDIRECT_SEGMENTS_MAX;
pub use ring::{Location, Ring};
#[cfg(feature = "testing")]
pub use steps::failpoints;
