//! An export, which all of its connections share, and the state of one connection's session.

use block::Completion;

use super::{request::Refusal, reserve::ReceiveLimit};
use crate::{errno::Errno, wire::STRING_BYTES_MAX};

/// How many large changes one connection may have under way; with more, its next request waits.
pub(super) const PENDING_MAX: usize = 16;

/// A disk under the name that clients see.
#[derive(Clone, Debug, Default)]
pub struct Export {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) limit: ReceiveLimit,
}

impl Export {
    /// `name` is the answer to `LIST` and `INFO`, `description` is for people. Both are cut to what the
    /// protocol allows. `limit` bounds the memory that all connections of the process hold.
    #[must_use]
    pub fn new(name: &str, description: &str, limit: &ReceiveLimit) -> Self {
        let cut = |text: &str| {
            let mut length = text.len().min(STRING_BYTES_MAX);
            while !text.is_char_boundary(length) {
                length -= 1;
            }
            text[..length].to_owned()
        };
        Self { name: cut(name), description: cut(description), limit: limit.clone() }
    }
}

/// Which messages are expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    ClientFlags,
    Options,
    Transmission,
}

/// Which times a request is counted in, in the order in which replies of several kinds that are sent together
/// count: what takes long to send are the data of reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Charged {
    Neither,
    Write,
    Read,
}

/// A large change that the drive does in steps, to be answered at its end.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) cookie: u64,
    pub(super) completion: Completion,
    /// The client also asked for a flush.
    pub(super) durable: bool,
    /// The error that a client gets where the disk does not support the change.
    pub(super) unsupported: Errno,
}

/// The result of the negotiation, and the requests that are under way.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) phase: Phase,
    /// No zeroes after `EXPORT_NAME`.
    pub(super) no_zeroes: bool,
    /// Structured replies.
    pub(super) structured: bool,
    /// The export name for which `base:allocation` was chosen.
    pub(super) allocation_of: Option<Vec<u8>>,
    /// `base:allocation` can be asked for.
    pub(super) allocation: bool,
    /// A refused write, answered when its payload was received and dropped.
    pub(super) refused: Option<(u64, Refusal)>,
    /// Large changes that are under way.
    pub(super) pending: Vec<Pending>,
    /// Requests are answered with an error.
    pub(super) stopping: bool,
    /// What the replies are of that are not sent yet.
    pub(super) replying: Charged,
    /// How much of the payload of the next message is written already: a large write that goes on in the
    /// next turn. 0: none is under way.
    pub(super) written: usize,
}

impl Session {
    pub(super) fn new(phase: Phase) -> Self {
        Self {
            phase,
            no_zeroes: false,
            structured: false,
            allocation_of: None,
            allocation: false,
            refused: None,
            pending: Vec::new(),
            stopping: false,
            replying: Charged::Neither,
            written: 0,
        }
    }
}
