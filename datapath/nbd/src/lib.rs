//! NBD: the wire format, a server and a client.
//!
//! The server half is a [`Connection`] for a single-threaded event loop: it owns a non-blocking
//! socket, never waits, and reaches the disk through the trait [`Export`]. `tapdisk-ram` owns
//! the loop and implements the trait over its store. The client half, [`client`], is small and
//! blocking: for tests, benchmarks and copying a disk. [`memory`] is an export in memory with a
//! plain loop around it: the other side for tests of clients, and the shortest example of how to
//! drive a connection.
//!
//! Specification: `doc/proto.md` of the NetworkBlockDevice project; clauses are cited as
//! "proto.md, chapter".

pub mod client;
mod errno;
mod export;
pub mod memory;
mod server;
pub mod wire;

pub use errno::Errno;
pub use export::{Export, Extent, Stats, StatusExtent};
pub use server::{Connection, End, Identity, Interest, Loans, Progress};
