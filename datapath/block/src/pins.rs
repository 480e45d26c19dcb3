//! Replies that still point into the disk.
//!
//! A reply that a client's socket did not take at once may go on pointing into the disk: copying a
//! megabyte that is sent a moment later would cost as much as sending it. In return every change of the
//! disk first has such replies copied out. [`Drive`](crate::Drive) does that for all changes.

use std::{
    cell::RefCell,
    ops::Range,
    rc::{Rc, Weak},
};

use slab::Slab;

/// A queue of replies, some of which may point into the disk.
pub trait Pinned {
    /// Copies what points into that range of the disk, in bytes.
    fn copy_out(&mut self, range: Range<u64>);
}

/// All queues of replies that may point into one disk.
///
/// Invariant: no queue is borrowed while a [`Drive`](crate::Drive) is called, so that the drive can
/// reach each of them.
#[derive(Debug, Default)]
pub struct Pins {
    queues: RefCell<Slab<Weak<RefCell<dyn Pinned>>>>,
}

impl Pins {
    /// Registers a queue for as long as it exists.
    pub fn register(&self, queue: &Rc<RefCell<impl Pinned + 'static>>) {
        let mut queues = self.queues.borrow_mut();
        queues.retain(|_, queue| queue.strong_count() > 0);
        let queue: Weak<RefCell<dyn Pinned>> = Rc::downgrade(queue) as _;
        queues.insert(queue);
    }

    /// Copies every reply that points into that range of the disk, in bytes.
    #[inline]
    pub(crate) fn copy_out(&self, range: Range<u64>) {
        for (_, queue) in self.queues.borrow().iter() {
            if let Some(queue) = queue.upgrade() {
                queue.borrow_mut().copy_out(range.clone());
            }
        }
    }

    /// Copies every reply that points into the disk: nothing does afterwards.
    pub(crate) fn copy_out_all(&self) {
        self.copy_out(0..u64::MAX);
    }
}
