//! The base of the end-to-end tests, the demonstration and the benchmark: a private host with the
//! plugins installed, called exactly as xapi-storage-script calls them.
//!
//! * [`Xapi`]: executes the method files: same argv, same stdin, same reading of stdout; every
//!   answer is checked against its schema.
//! * [`Disk`]: a disk that is plugged as xapi plugs it, Volume.stat before each step.
//! * [`Keys`]: xenstore, for programs in dom0 and in guests of `tests/xen`.
//! * [`tools`]: programs that others wrote, which judge ours.

pub mod disk;
mod keys;
pub mod programs;
mod schema;
pub mod tools;
mod xapi;

pub use disk::{Disk, server, signal_all};
pub use keys::Keys;
pub use xapi::{Failure, INSTALLER, Side, Xapi};
