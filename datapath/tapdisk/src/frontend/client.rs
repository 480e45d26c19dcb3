//! One client of a disk, and what the loop waits for on its behalf.

use std::{
    io,
    time::{Duration, Instant},
};

use block::{Frontend, Interest, Progress, Stats};

use super::ring::{Origin, RingInfo};
use crate::{
    poll::{Source, Watched},
    volume::Volume,
};

/// How long a client may take the last answers when its disk was closed.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The frontend of a client, whatever protocol it speaks.
type AnyFrontend = Watched<Box<dyn Frontend<Volume>>>;

/// A client of a VBD.
pub(crate) struct Client {
    pub(crate) frontend: AnyFrontend,
    pub(crate) origin: Origin,
    /// When it came.
    pub(crate) since: Instant,
    /// Everything that had come when its disk was about to be closed was served.
    pub(crate) is_quiesced: bool,
}

impl Client {
    pub(crate) fn new(frontend: AnyFrontend, origin: Origin) -> Self {
        Self { frontend, origin, since: Instant::now(), is_quiesced: false }
    }

    pub(crate) fn stats(&self) -> &Stats {
        self.frontend.stats()
    }

    /// Writes the files of a ring.
    pub(crate) fn write_metrics(&mut self) -> io::Result<()> {
        let Origin::Ring(ring) = &mut self.origin else { return Ok(()) };
        let RingInfo { counters, files: Some(files), .. } = &mut **ring else { return Ok(()) };
        files.write(self.frontend.stats(), &counters.get())
    }

    /// Waits for what the frontend needs next. Of a paused disk's clients only room for answers.
    pub(crate) fn rearm(&mut self, paused: bool) -> io::Result<()> {
        let Interest { readable, writable } = self.frontend.interest();
        self.frontend.wait_for(Interest { readable: readable && !paused, writable })
    }

    /// From now on it may only take answers; its disk is closed.
    pub(crate) fn into_draining(mut self, slot: usize) -> io::Result<Draining> {
        self.frontend.set_source(Source::Draining(slot));
        self.rearm(true)?;
        Ok(Draining { frontend: self.frontend, until: Instant::now() + DRAIN_TIMEOUT })
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// A client whose disk was closed, and that has still to take answers.
pub(crate) struct Draining {
    frontend: AnyFrontend,
    pub(crate) until: Instant,
}

impl Draining {
    /// Sends what the client takes. Whether it is done with.
    pub(crate) fn send(&mut self) -> bool {
        let closed = matches!(self.frontend.drain(), Progress::Closed { .. });
        closed || self.frontend.is_drained()
    }
}
