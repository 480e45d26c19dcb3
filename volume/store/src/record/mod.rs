//! The records and indexes of an SR and its volumes, and the processes that serve them.

mod blocks;
mod delta;
mod holder;
mod index;
mod pages;
mod serving;
pub(crate) mod sr;
mod volume;

use std::collections::BTreeMap;

pub(crate) use self::{
    blocks::{BlockCount, SLOTS_AT, SLOTS_BYTES, Said, blocks_in, set_blocks},
    delta::{Delta, GENERATION_END, PAIRS, SLOT_BYTES, SLOT_WORDS, SlotWords, key, position},
    index::{Index, Named, View, for_data, for_data_from, for_data_until, write_index},
    pages::Pages,
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
