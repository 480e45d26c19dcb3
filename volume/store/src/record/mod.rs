//! What is written down of an SR and its volumes: records, indexes, and who serves what.

mod holder;
mod index;
mod serving;
pub(crate) mod sr;
mod volume;

pub use self::{holder::ExternalHolder, serving::Serving, sr::Attachment, volume::Damaged};
pub(crate) use self::{
    index::{Index, Pages, View, for_data, for_data_until, write_index},
    serving::served_by,
    volume::{Record, Records},
};
