//! Writing keys of a disk's backend to xenstore, without ever waiting for xenstored, and reading some, for which
//! a thread of its own waits.
//!
//! The protocol is that of `xen/io/xs_wire.h` (docs/misc/xenstore.txt says what the requests do), spoken
//! through the kernel's device, which is a stream of whole messages.

mod connection;
mod read;
mod wire;
mod write;

pub(crate) use read::read;
pub(crate) use write::{BACKEND, Write};
