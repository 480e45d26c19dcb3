//! Keys of a guest's device that are being written to xenstore.

use std::{
    io,
    task::Poll,
    time::{Duration, Instant},
};

use blkif::Updating;
use tapctl::Key as ConversationKey;

use crate::{
    frontend::Device,
    poll::{Source, Sources, Watched},
};

/// How long xenstore may take. tapback waits meanwhile, and with it all disks of the guest.
const TIMEOUT: Duration = Duration::from_secs(2);

/// An update that is under way.
#[derive(Debug)]
pub(crate) struct KeyUpdate {
    updating: Watched<Box<dyn Updating>>,
    pub(crate) device: Device,
    /// The caller that is answered when it is done, if one waits for it.
    pub(crate) caller: Option<ConversationKey>,
    pub(crate) until: Instant,
}

impl KeyUpdate {
    /// Waits for an update that is not done yet.
    pub(crate) fn watch(
        sources: &Sources,
        slot: usize,
        updating: Box<dyn Updating>,
        device: Device,
        caller: Option<ConversationKey>,
    ) -> io::Result<Self> {
        let interest = updating.interest();
        let updating = sources.watch(updating, Source::Update(slot), interest)?;
        Ok(Self { updating, device, caller, until: Instant::now() + TIMEOUT })
    }

    /// Goes on; whether it is done.
    pub(crate) fn turn(&mut self) -> Poll<io::Result<()>> {
        let Poll::Ready(done) = self.updating.turn() else {
            let interest = self.updating.interest();
            return match self.updating.wait_for(interest) {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            };
        };
        Poll::Ready(done)
    }
}
