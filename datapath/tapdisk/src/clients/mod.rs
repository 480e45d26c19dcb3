//! The clients of disks: accepting them, giving them their turns, and letting them go.
//!
//! Invariant: a client in a VBD's slots has a disk, running or paused; one whose disk was closed is in
//! the process's `draining` slots.

mod accept;
mod close;
mod turn;

pub(crate) use close::Shutdown;
