//! Statistics for the host's tools: files in shared memory, and the JSON that STATS answers.

mod files;
pub(crate) mod graphs;
pub(crate) mod json;
mod ring;
mod served;

pub(crate) use files::Files;
pub(crate) use ring::RingFiles;
pub(crate) use served::Served;
