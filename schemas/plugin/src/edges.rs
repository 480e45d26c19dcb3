//! Where a call meets the process: argv, the three streams, the environment.
//!
//! The dispatcher only ever sees these fields, so that the real one runs inside a unit test.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};

/// What a plugin call has of its process.
pub struct Edges<'a> {
    /// The command line, with the name that the program was called by first
    pub argv: Vec<OsString>,
    /// Where the request comes from
    pub stdin: Box<dyn Read + 'a>,
    /// Where the answer goes to, and nothing else
    pub stdout: Box<dyn Write + 'a>,
    /// Where a person reads what went wrong
    pub stderr: Box<dyn Write + 'a>,
    /// The environment
    pub env: Env,
}

impl Edges<'static> {
    /// The edges of the process itself.
    pub fn process() -> Self {
        Self {
            argv: std::env::args_os().collect(),
            stdin: Box::new(std::io::stdin()),
            stdout: Box::new(std::io::stdout()),
            stderr: Box::new(std::io::stderr()),
            env: Env::process(),
        }
    }
}

/// The environment, or a stand-in for it.
#[derive(Debug, Clone)]
pub struct Env(Option<BTreeMap<OsString, OsString>>);

impl Env {
    /// The environment of the process.
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
