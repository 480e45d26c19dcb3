//! Mapped memory: windows of files that other processes read and change at the same time, sending
//! from them without a copy, and the other things that need `unsafe`: marking inherited descriptors, and
//! giving freed memory back to the host.
//!
//! `store` maps the maps and the data of its layers, `nbd` sends replies that point into a layer.
//! Every other crate of the workspace forbids `unsafe`, except `xen`, which needs it for the system calls
//! on Xen's devices, so these are the only places to audit.
//!
//! Invariants:
//! * No `&[u8]` into a mapping ever exists. Another process may change the bytes at any moment, which
//!   a Rust reference forbids. They are copied in and out by instructions that the compiler cannot
//!   see through (module `copy`), handed to the kernel as addresses ([`Part::Shared`]), or seen as
//!   atomics ([`Words`], [`WriteMap::words`]).
//! * What was mapped for reading cannot be stored to: [`ReadMap`] and [`Slice`] have no method that does,
//!   and a [`WriteSlice`] is made of a [`WriteMap`] alone.

mod copy;
mod heap;
mod inherit;
mod map;
mod send;
mod slice;
mod words;

pub use copy::Reuse;
pub use heap::{return_freed, return_large_blocks};
pub use inherit::close_inherited_on_exec;
pub use map::{ReadMap, SharedWords, WriteMap};
pub use send::{PARTS_MAX, Part, send};
pub use slice::{Copying, Slice, WriteSlice};
pub use words::Words;
