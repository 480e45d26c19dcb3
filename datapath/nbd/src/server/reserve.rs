//! How much memory all connections of a loop together may hold for requests that are larger than
//! their buffers: what half-sent requests of many clients must not add up to.

use std::cell::Cell;

/// Four of the largest requests at a time; beside what is received ahead, which may take a half, two.
/// Bytes.
const HELD_BYTES_MAX: usize = 128 << 20;

thread_local! {
    /// A loop is one thread, and so are its connections.
    static HELD_BYTES: Cell<usize> = const { Cell::new(0) };
}

/// A part of it, given back on drop.
#[derive(Debug, Default)]
pub(super) struct Reserve(usize);

impl Reserve {
    pub(super) fn take(bytes: usize) -> Self {
        HELD_BYTES.set(HELD_BYTES.get() + bytes);
        Self(bytes)
    }

    /// Whether so much more would leave half of it to requests that cannot do without.
    pub(super) fn has_plenty(bytes: usize) -> bool {
        HELD_BYTES.get() + bytes <= HELD_BYTES_MAX / 2
    }

    /// Whether so much could be taken in place of this.
    pub(super) fn may_become(&self, bytes: usize) -> bool {
        HELD_BYTES.get() - self.0 + bytes <= HELD_BYTES_MAX
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        HELD_BYTES.set(HELD_BYTES.get() - self.0);
    }
}
