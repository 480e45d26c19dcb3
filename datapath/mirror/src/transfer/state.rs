//! How far a transfer has got. Failed and complete exclude each other by what these types can say.

use std::time::Instant;

use crate::{error::Error, handshake::Handshake};

/// How far a transfer has got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The server has not said yet what it is.
    Starting,
    /// The destination misses a part.
    Copying,
    /// The destination is up to date but for the latest changes, and goes on being brought up to date.
    InSync,
    /// What is left is being sent.
    Finishing,
    /// The destination has everything, and the connection is closed.
    Finished,
    /// The destination is of no use.
    Failed(Error),
}

/// What Data.stat tells of a transfer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Status {
    /// It has failed. Then it is not complete.
    pub failed: bool,
    /// A mirror: it is in sync, and stays so. A copy: everything is copied.
    pub complete: bool,
    /// The part that is done, from 0 to 1; 0 where it has failed.
    pub progress: f64,
}

/// Bytes of the disk that were dealt with, by the way in which they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sent as data.
    pub data_bytes: u64,
    /// Sent as requests to write zeroes.
    pub zeroed_bytes: u64,
    /// Not sent, as the destination reads as zeroes there by itself.
    pub skipped_bytes: u64,
}

/// What happens on the connection.
#[derive(Debug)]
pub(super) enum Phase {
    Negotiating {
        handshake: Handshake,
        until: Instant,
    },
    /// Changes are sent. `is_last`: nothing changes the disk any more, and it ends when all is sent.
    Sending {
        is_in_sync: bool,
        is_last: bool,
    },
    /// Everything is answered; a flush is not yet.
    Flushing {
        is_in_sync: bool,
    },
    /// The end of the session is being sent.
    Disconnecting {
        is_in_sync: bool,
    },
    Finished,
    Failed(Error),
}

impl Phase {
    pub(super) fn state(&self) -> State {
        match self {
            Self::Negotiating { .. } => State::Starting,
            Self::Sending { is_last: true, .. }
            | Self::Flushing { .. }
            | Self::Disconnecting { .. } => State::Finishing,
            Self::Sending { is_in_sync: true, .. } => State::InSync,
            Self::Sending { .. } => State::Copying,
            Self::Finished => State::Finished,
            Self::Failed(error) => State::Failed(error.clone()),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self, Self::Finished | Self::Failed(_))
    }

    /// Whether the destination was in sync at some time and nothing has failed since.
    pub(super) fn is_in_sync(&self) -> bool {
        match *self {
            Self::Sending { is_in_sync, .. }
            | Self::Flushing { is_in_sync }
            | Self::Disconnecting { is_in_sync } => is_in_sync,
            Self::Finished => true,
            Self::Negotiating { .. } | Self::Failed(_) => false,
        }
    }
}
