//! Waiting for events: the registered descriptors, the source of an event, and whether the loop polls
//! before it sleeps.

mod guests;
mod poller;
mod polling;
mod source;

pub(crate) use guests::GuestPolling;
pub(crate) use poller::{Poller, Sources, Unannounced, Watched};
pub(crate) use polling::Polling;
pub(crate) use source::{ClientKey, Endpoint, Source, VbdKey};
