//! Why a transfer cannot begin, or has ended.

use std::fmt;

/// The sort of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// No server accepts a connection there.
    Unreachable,
    /// The server does not offer what a transfer needs, or its disk does not fit.
    Unfit,
    /// The server broke the protocol.
    Protocol,
    /// The server answered a request with an error.
    Refused,
    /// The server has closed the connection.
    Closed,
    /// The server took nothing and answered nothing for too long.
    Stalled,
    /// The disk cannot be read, or has changed its size.
    Disk,
}

/// A failure: its sort, and a sentence for an administrator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    text: String,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    pub(crate) fn protocol(what: &str) -> Self {
        Self::new(ErrorKind::Protocol, format!("the NBD server of the destination {what}"))
    }

    /// The sort of the failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}
