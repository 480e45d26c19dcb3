//! NBD: the wire format, a server and a client.
//!
//! The server half is a [`Connection`] for a single-threaded event loop: a [`block::Frontend`] that owns a
//! non-blocking socket, never waits, and reaches the disk through a [`block::Drive`]. The client half,
//! [`client`], is small and blocking: for tests, benchmarks and copying a disk. [`serve`] is a plain loop
//! around connections: the other side for tests of clients, and the shortest example of how to drive them.
//!
//! Specification: `doc/proto.md` of the NetworkBlockDevice project; clauses are cited as
//! "proto.md, chapter".

pub mod client;
mod errno;
mod remote;
pub mod serve;
mod server;
pub mod wire;

pub use errno::Errno;
pub use remote::{BadRemote, Remote};
pub use server::{Connection, End, Export, ReceiveLimit, Turned};
