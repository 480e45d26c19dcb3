//! What the process keeps of a guest's ring beside the frontend itself.

use std::{fmt, rc::Rc};

use blkif::SharedCounters;

use crate::{kept::Group, metrics::RingFiles, poll::Endpoint};

/// A guest's virtual block device: it names a ring, whatever process serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) domid: u32,
    pub(crate) devid: u32,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device {} of domain {}", self.devid, self.domid)
    }
}

/// The counters of a ring, and its files.
#[derive(Debug)]
pub(crate) struct RingInfo {
    pub(crate) device: Device,
    /// Whether its requests are looked for while the loop polls.
    pub(crate) is_polled: bool,
    /// As it was connected.
    pub(crate) asked: tapctl::Ring,
    /// Its journal, as the keeper holds it.
    pub(crate) journal: Group,
    /// Whether the guest was told what the disk can do.
    pub(crate) is_told: bool,
    pub(crate) counters: Rc<SharedCounters>,
    /// `None` on a host without room for them.
    pub(crate) files: Option<RingFiles>,
}

/// How a client has come.
#[derive(Debug)]
pub(crate) enum Origin {
    /// Through a socket.
    Socket(Endpoint),
    /// A control message has connected it.
    Ring(Box<RingInfo>),
}

impl Origin {
    /// The ring, if it is one.
    pub(crate) fn ring(&self) -> Option<&RingInfo> {
        match self {
            Self::Ring(ring) => Some(ring),
            Self::Socket(_) => None,
        }
    }
}
