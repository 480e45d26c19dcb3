//! The tapdisk control protocol: both halves of it, the control directory, minors, and the
//! identity of the processes that serve disks.
//!
//! Called by the datapath plugin and the volume plugin (the [`Client`]), by `tapdisk-ram` (the
//! [`Listener`] and its [`Conversations`]), and by `tap-ctl-ram` (in `cli`). It knows nothing of
//! volumes.
//!
//! The protocol is blktap's (`include/tapdisk-message.h` of xapi-project/blktap, called "the
//! header" below): one request for each connection to `ctl<pid>`, every message 544 bytes in host
//! byte order. Messages of our own lie in a range of numbers that blktap never uses.
//!
//! Layers, each one using only those before it: [`message`] and `text` (layout), [`ring`],
//! [`ranges`],
//! [`request`] and [`reply`] (meaning), [`lock`], [`process`], [`metrics`], [`dir`], [`minors`]
//! (files, locks, processes), [`keeper`], [`client`], [`server`], [`spawn`].
//!
//! Invariants: nothing here waits without a deadline; no process is signalled that is known by its
//! number alone; no socket is removed on which a process listens; nothing is printed.

pub mod client;
mod connection;
mod conversation;
mod deadline;
pub mod dir;
mod error;
pub mod keeper;
pub mod lock;
pub mod message;
pub mod metrics;
pub mod minor;
pub mod minors;
pub mod process;
pub mod ranges;
pub mod reply;
pub mod request;
pub mod ring;
pub mod server;
pub mod spawn;
pub mod testing;
mod text;
mod wire;

pub use client::Client;
pub use conversation::{Conversation, Interest, Progress, STEP_TIMEOUT};
pub use deadline::TIMEOUT;
pub use dir::{CONTROL_DIR, ControlDir};
pub use error::{Error, ErrorKind, Result};
pub use metrics::MetricsDir;
pub use minor::Minor;
pub use minors::MinorLock;
pub use process::Identity;
pub use ranges::{HeldRanges, RangeList};
pub use reply::{
    Clients, Entry, Failure, Identification, Image, MirrorStage, MirrorStatus, Reply, Serving,
};
pub use request::{Call, Copy, Flags, Mirror, Open, Request, Resume, Switch};
pub use ring::Ring;
pub use server::{Conversations, Key, Listener};
pub use spawn::{Spawn, Spawned};
pub use text::{Malformed, Unsendable};
