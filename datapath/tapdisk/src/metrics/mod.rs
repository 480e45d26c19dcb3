//! What was served, for the host's tools: statistics files in shared memory, and JSON for STATS.

mod files;
pub(crate) mod json;
mod served;

pub(crate) use files::Files;
pub(crate) use served::Served;
