//! The state that handling a message works on, for the length of one turn.

use std::{
    cell::{RefCell, RefMut},
    os::unix::net::UnixStream,
};

use block::{Budget, Clock, Drive, Extent, Stats, StatusExtent};

use super::{
    input::Input,
    output::Output,
    session::{Export, Session},
};

/// Vectors that are kept for their capacity, so that no request allocates.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) extents: Vec<Extent>,
    pub(super) statuses: Vec<StatusExtent>,
    pub(super) descriptors: Vec<u8>,
}

/// Everything that handling a message may touch.
pub(super) struct Turn<'a, D> {
    pub(super) socket: &'a UnixStream,
    pub(super) export: &'a Export,
    pub(super) session: &'a mut Session,
    pub(super) input: &'a mut Input,
    /// Never borrowed while the drive is called: the drive has pinned replies copied out of the disk.
    pub(super) output: &'a RefCell<Output>,
    pub(super) scratch: &'a mut Scratch,
    pub(super) drive: &'a mut Drive<D>,
    pub(super) stats: &'a mut Stats,
    pub(super) clock: Clock,
    pub(super) budget: &'a mut Budget,
}

impl<D> Turn<'_, D> {
    #[inline]
    pub(super) fn output(&self) -> RefMut<'_, Output> {
        self.output.borrow_mut()
    }
}
