//! The records and indexes of an SR and its volumes, and the processes that serve them.

mod blocks;
mod holder;
mod index;
mod serving;
pub(crate) mod sr;
mod volume;

use std::collections::BTreeMap;

pub(crate) use self::{
    blocks::{BlockCount, blocks_in, index_length, set_blocks},
    index::{Index, Pages, View, for_data, for_data_from, for_data_until, write_index},
    serving::{Served, is_unswept, lock_or_served, served_by},
    volume::{Record, Records},
};
pub use self::{
    holder::ExternalHolder,
    serving::Serving,
    sr::{AtDetach, Attachment, Restored},
    volume::Damaged,
};

/// The fields of a record that this program does not know: a later version of the same format has written
/// them. They stay when the record is rewritten, and a volume that is made of another one has them too.
pub(crate) type Unknown = BTreeMap<String, serde_json::Value>;
