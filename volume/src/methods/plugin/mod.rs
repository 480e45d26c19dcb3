//! `Plugin.*`: what the plugin says of itself.

pub(crate) mod diagnostics;
pub(crate) mod ls;
pub(crate) mod query;
