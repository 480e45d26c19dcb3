//! The records and indexes of an SR and its volumes, and the processes that serve them.

mod holder;
mod index;
mod serving;
pub(crate) mod sr;
mod volume;

pub use self::{holder::ExternalHolder, serving::Serving, sr::Attachment, volume::Damaged};
pub(crate) use self::{
    index::{Index, Pages, View, for_data, for_data_until, write_index},
    serving::{lock_or_served, served_by},
    volume::{Record, Records},
};
