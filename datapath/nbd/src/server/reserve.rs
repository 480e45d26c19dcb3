//! How much memory the connections of one process may together hold for requests that are larger than
//! their buffers: bounds what half-sent requests of many clients add up to.

use std::{cell::Cell, rc::Rc};

/// Room for four 32 MiB payloads. What is received ahead may use half of it. Bytes.
const HELD_BYTES_MAX: usize = 128 << 20;

/// The bound, shared by all connections of a process. A clone is the same bound.
#[derive(Clone, Debug, Default)]
pub struct ReceiveLimit {
    held_bytes: Rc<Cell<usize>>,
}

/// Memory that counts against the bound until it is dropped.
#[derive(Debug)]
pub(super) struct Reserve {
    limit: ReceiveLimit,
    bytes: usize,
}

impl ReceiveLimit {
    /// A bound of its own.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether `bytes` more would leave half of the bound to requests that cannot do without.
    pub(super) fn has_plenty(&self, bytes: usize) -> bool {
        self.held_bytes.get() + bytes <= HELD_BYTES_MAX / 2
    }
}

impl Reserve {
    pub(super) fn none(limit: &ReceiveLimit) -> Self {
        Self { limit: limit.clone(), bytes: 0 }
    }

    /// Holds that many bytes from now on, in place of what it held.
    pub(super) fn become_bytes(&mut self, bytes: usize) {
        let held = &self.limit.held_bytes;
        held.set(held.get() - self.bytes + bytes);
        self.bytes = bytes;
    }

    /// Whether that many bytes could be held in place of what is held.
    pub(super) fn may_become(&self, bytes: usize) -> bool {
        self.limit.held_bytes.get() - self.bytes + bytes <= HELD_BYTES_MAX
    }

    pub(super) fn limit(&self) -> &ReceiveLimit {
        &self.limit
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        self.become_bytes(0);
    }
}
