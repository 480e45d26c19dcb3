//! The guests of a real Xen host: their pages and events through `/dev/xen/gntdev` and `/dev/xen/evtchn`,
//! the keys of their disks through `/dev/xen/xenbus`.
//!
//! [`Host`] implements [`blkif::Xen`]. A device is opened when a ring is connected first, so a program
//! that uses this crate runs on a host without Xen too; there a connection fails with `ENOENT`.
//!
//! [`GuestPages`] is the other side: what a frontend needs that is a program in a guest, for tests.
//!
//! The numbers and layouts are those of Linux (`include/uapi/xen/{gntdev,evtchn}.h`) and of
//! `xen/io/xs_wire.h`. No library of Xen is needed.

mod devices;
mod domain;
mod evtchn;
mod gntdev;
mod guest;
mod host;
mod ioctl;
mod xenstore;

pub use devices::Devices;
pub use guest::GuestPages;
pub use host::Host;
