//! The few things that need `unsafe`: mappings of files that other processes change at the
//! same time, sending from them, and marking inherited descriptors.
//!
//! Called by `store` (maps and layers) and `nbd` (replies that point into a layer). Every other
//! crate of the workspace forbids `unsafe`, so this is the only place to audit.
//!
//! Invariant: nobody ever gets a `&[u8]` into a mapping. Its bytes may be changed by another
//! process at any moment, which a Rust reference forbids; they are copied in and out through raw
//! pointers, handed to the kernel as addresses ([`Part::Shared`]), or seen as atomics
//! ([`Map::words`]).

mod copy;
mod inherit;
mod map;
mod send;

pub use inherit::close_inherited_on_exec;
pub use map::{Access, Map, Slice};
pub use send::{PARTS_MAX, Part, send};
