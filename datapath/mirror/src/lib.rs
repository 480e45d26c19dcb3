//! Copying a live disk to an NBD server, and keeping that copy up to date: the engine below
//! Data.mirror and Data.copy.
//!
//! A [`Transfer`] is driven by an event loop. It owns a non-blocking socket, never waits, and does a
//! bounded amount of work in each turn. The disk it reads through a [`block::Drive`], which marks what
//! others change meanwhile; a granule is read when it is sent, so that no queue of writes is kept. What
//! goes wrong with the destination ends the transfer and never touches the disk.
//!
//! Invariants:
//! * One connection, and no request that the server does not offer: blktap's knows READ, WRITE and DISC.
//! * No two requests in flight touch the same granule, as a server may do them in either order.
//! * A hole of the source is skipped only where the destination says that it reads as zeroes, and only
//!   before anything was sent there.
//!
//! Layers, each using only those before it: the errors, `handshake` and `replies` (bytes
//! that were received), `survey`, `window`, `pieces`, `output`, and the transfer itself.

mod connecting;
mod error;
mod handshake;
mod limits;
mod output;
mod pieces;
mod replies;
mod survey;
mod transfer;
mod window;

pub use connecting::Connecting;
pub use error::{Error, ErrorKind};
pub use limits::Limits;
pub use transfer::{Counters, State, Status, Transfer, Turned};
