//! The states of a VBD. Each state holds the values that exist only in it, so that no flag beside the
//! state can contradict it.

use tapctl::{Key as ConversationKey, reply::state};

use super::image::Image;
use crate::task::Opening;

/// The state of a VBD.
#[derive(Debug)]
pub(crate) enum State {
    /// Nothing is open.
    Idle(Idle),
    /// A disk is being opened.
    Opening(Start),
    /// A disk is open.
    Open(Box<Image>),
}

/// Whether something was open before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Idle {
    /// Nothing yet.
    New,
    /// It was closed.
    Closed,
}

/// An open that is not answered yet.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) opening: Opening,
    /// The caller that waits for it.
    pub(crate) caller: ConversationKey,
    /// The state to return to where it fails.
    pub(crate) before: Idle,
}

impl State {
    /// The state as LIST tells it.
    pub(crate) fn code(&self) -> u32 {
        match self {
            Self::Idle(Idle::Closed) => state::CLOSED,
            Self::Open(image) => image.disk.code(),
            Self::Idle(Idle::New) | Self::Opening(_) => state::RUNNING,
        }
    }
}
