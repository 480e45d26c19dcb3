//! The RAM store.
