//! One client of a disk, of whatever protocol, and the processes that pass on connections.

mod client;
mod receiver;
mod ring;

pub(crate) use client::{Client, DRAIN_TIMEOUT, Draining};
pub(crate) use receiver::{Passed, Receivers};
pub(crate) use ring::{Device, Origin, RingInfo};
