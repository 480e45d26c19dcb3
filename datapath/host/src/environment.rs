//! The environment of the process, or a stand-in for it, so that a test needs no real one.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
};

/// The variables that a configuration is read from.
#[derive(Clone, Debug)]
pub struct Environment(Option<BTreeMap<OsString, OsString>>);

impl Environment {
    /// The environment of the process.
    #[must_use]
    pub const fn process() -> Self {
        Self(None)
    }

    /// Exactly these variables.
    pub fn fixed<K, V>(variables: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<OsString>,
        V: Into<OsString>,
    {
        Self(Some(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect()))
    }

    /// The value of a variable; one that is set and empty counts as not set.
    pub fn get(&self, name: impl AsRef<OsStr>) -> Option<OsString> {
        match &self.0 {
            None => std::env::var_os(name),
            Some(variables) => variables.get(name.as_ref()).cloned(),
        }
        .filter(|value| !value.is_empty())
    }
}
