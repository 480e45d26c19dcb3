//! The log of one call: every message names the method and the objects of the call.

use std::fmt;

use serde::Deserialize;

use syslog::{Severity, Syslog};

/// The parameters by which a call is recognised in the log. No others are logged: a remote URI
/// holds passwords.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Subject {
    pub(crate) dbg: Option<String>,
    uuid: Option<String>,
    sr: Option<String>,
    key: Option<String>,
    uri: Option<String>,
    domain: Option<String>,
}

impl Subject {
    /// Reads them from a request, which may be anything.
    pub(crate) fn of(request: &[u8]) -> Self {
        serde_json::from_slice(request).unwrap_or_default()
    }
}

/// Writes messages to syslog, each with the method, the caller's debug context, and the SR, key,
/// URI and domain of the call.
#[derive(Debug)]
pub struct Log<'a> {
    syslog: &'a Syslog,
    prefix: String,
}

impl<'a> Log<'a> {
    pub(crate) fn new(syslog: &'a Syslog, method: &str, subject: &Subject) -> Self {
        let mut prefix = method.to_owned();
        for (name, value) in [
            ("dbg", &subject.dbg),
            ("uuid", &subject.uuid),
            ("sr", &subject.sr),
            ("key", &subject.key),
            ("uri", &subject.uri),
            ("domain", &subject.domain),
        ] {
            if let Some(value) = value {
                let plain = !value.is_empty() && !value.contains([' ', '"', '=']);
                let value = if plain { value.clone() } else { format!("{value:?}") };
                prefix.push_str(&format!(" {name}={value}"));
            }
        }
        Self { syslog, prefix }
    }

    /// Something failed.
    pub fn error(&self, message: impl fmt::Display) {
        self.send(Severity::Error, message);
    }

    /// Something is odd.
    pub fn warning(&self, message: impl fmt::Display) {
        self.send(Severity::Warning, message);
    }

    /// Something was done.
    pub fn info(&self, message: impl fmt::Display) {
        self.send(Severity::Info, message);
    }

    /// Of use to a developer.
    pub fn debug(&self, message: impl fmt::Display) {
        self.send(Severity::Debug, message);
    }

    fn send(&self, severity: Severity, message: impl fmt::Display) {
        self.syslog.send(severity, format_args!("{}: {message}", self.prefix));
    }
}
