//! What replies that wait for a slow client have borrowed from the export.

use std::{
    cell::RefCell,
    rc::{Rc, Weak},
};

use super::output::Output;

/// The lenders' book of one disk, shared by its connections.
///
/// A reply that the socket did not take at once may go on pointing into the export: copying a
/// megabyte that is sent a moment later would cost as much as sending it. In return every change
/// of the export recalls what is lent of that range first, and it is copied then. A connection
/// does so for the requests it obeys. **Whoever changes the disk in another way**, by switching
/// to another volume, closing it, or freeing what its map names, calls
/// [`recall_all`](Self::recall_all) before, between two turns.
#[derive(Debug, Default)]
pub struct Loans {
    queues: RefCell<Vec<Weak<RefCell<Output>>>>,
}

impl Loans {
    /// An empty book.
    #[must_use]
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// Takes everything back: afterwards no reply points into the export.
    pub fn recall_all(&self) {
        self.recall(0, u64::MAX);
    }

    /// Takes that range back from every connection but the one that is just being served.
    #[inline]
    pub(super) fn recall(&self, offset: u64, length: u64) {
        for queue in self.queues.borrow().iter().filter_map(Weak::upgrade) {
            // The one that is being served looks after itself.
            if let Ok(mut output) = queue.try_borrow_mut() {
                output.settle(offset, length);
            }
        }
    }

    /// Enters a connection's queue, and strikes out those that are gone.
    pub(super) fn enter(&self, queue: &Rc<RefCell<Output>>) {
        let mut queues = self.queues.borrow_mut();
        queues.retain(|queue| queue.strong_count() > 0);
        queues.push(Rc::downgrade(queue));
    }
}
