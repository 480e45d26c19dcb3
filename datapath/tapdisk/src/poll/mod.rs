//! Waiting for events: which descriptors there are, what an event of each is about, and whether the
//! loop polls before it sleeps.

mod poller;
mod polling;
mod source;

pub(crate) use poller::{Poller, Sources, Watched};
pub(crate) use polling::Polling;
pub(crate) use source::{ClientKey, Endpoint, Source, VbdKey};
