//! The interface `Plugin`.

pub(crate) mod diagnostics;
pub(crate) mod query;
