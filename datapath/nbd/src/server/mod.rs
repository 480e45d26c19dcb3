//! The server side of one connection, for an event loop that owns it.
//!
//! Layers, top down: [`Connection`] moves bytes and decides when a turn is over; `handshake` and
//! `transmission` handle one message each; `request` decides whether a request may be carried out;
//! `turn` is the state that they work on; `session` is the result of the negotiation, `input` and `output` are the two
//! queues.
//!
//! Invariants:
//! 1. Nothing here waits. A full or empty socket ends the turn, and [`Connection::interest`] says what
//!    to wait for.
//! 2. A reply shows the disk as it was when its request was handled, however late it is sent.
//! 3. A write is applied when all of its payload has arrived, or not at all.
//! 4. Memory is bounded: one request of the largest size in, about that much out.

mod ahead;
mod connection;
mod end;
mod greeting;
mod handshake;
mod input;
mod output;
mod reply;
mod request;
mod reserve;
mod session;
mod transmission;
mod turn;

pub use connection::{Connection, Turned};
pub use end::End;
pub use reserve::ReceiveLimit;
pub use session::Export;
