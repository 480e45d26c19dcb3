//! The server side of one connection, for an event loop that owns it.
//!
//! Layers, top down: [`Connection`] moves bytes and decides when to stop; `handshake` and
//! `transmission` obey one message each; `request` decides whether a request may be obeyed;
//! `input` and `output` are the two queues, `loans` what queued replies borrow from the export.
//!
//! Invariants:
//! 1. Nothing here waits. A full or empty socket ends the turn, and [`Connection::interest`] says what
//!    to wait for.
//! 2. A reply shows the disk as it was when its request was obeyed, however late it is sent.
//! 3. A write is applied when all of its payload is here, or not at all.
//! 4. Memory is bounded: one request of the largest size in, about that much out.

mod ahead;
mod connection;
mod handshake;
mod input;
mod loans;
mod output;
mod request;
mod reserve;
mod transmission;

pub use connection::{Connection, End, Identity, Interest, Progress};
pub use loans::Loans;
