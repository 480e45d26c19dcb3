//! `Plugin.*`: the properties of the plugin.

pub(crate) mod diagnostics;
pub(crate) mod ls;
pub(crate) mod query;
mod tapdisks;
