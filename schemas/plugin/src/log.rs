//! The log of one call: every message names the method and the objects of the call.

use std::fmt;

use serde::Deserialize;

use smapiv3_syslog::{Severity, Syslog};

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
    /// A mirror or a copy: its kind, and a key that names the SR and the volume.
    operation: Option<(String, String)>,
}

impl Subject {
    /// Reads them from a request, which may be anything.
    pub(crate) fn of(request: &[u8]) -> Self {
        serde_json::from_slice(request).unwrap_or_default()
    }
}

/// The debug context of a caller that traces is followed by the W3C's traceparent of the call on a line of
/// its own (`debug_info.ml` of xapi-project/xen-api).
fn split(dbg: &str) -> (&str, Option<&str>) {
    dbg.split_once('\n').map_or((dbg, None), |(dbg, traceparent)| (dbg, Some(traceparent)))
}

/// Writes messages to syslog, each with the method, the caller's debug context, and the SR, key,
/// URI, domain and operation of the call.
#[derive(Debug)]
pub struct Log<'a> {
    syslog: &'a Syslog,
    prefix: String,
}

impl<'a> Log<'a> {
    pub(crate) fn new(syslog: &'a Syslog, method: &str, subject: &Subject) -> Self {
        let mut prefix = method.to_owned();
        let (dbg, traceparent) = subject.dbg.as_deref().map(split).unzip();
        for (name, value) in [
            ("dbg", dbg),
            ("traceparent", traceparent.flatten()),
            ("uuid", subject.uuid.as_deref()),
            ("sr", subject.sr.as_deref()),
            ("key", subject.key.as_deref()),
            ("uri", subject.uri.as_deref()),
            ("domain", subject.domain.as_deref()),
            ("operation", subject.operation.as_ref().map(|it| it.1.as_str())),
        ] {
            if let Some(value) = value {
                let is_special = |it: char| it.is_control() || [' ', '"', '='].contains(&it);
                let plain = !value.is_empty() && !value.contains(is_special);
                let value = if plain { value.to_owned() } else { format!("{value:?}") };
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
