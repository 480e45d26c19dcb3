//! The interface `Plugin`.

pub(crate) mod query;
