//! One error type: kind, operation, object, and cause.
//!
//! Callers match on the kind. Display does not repeat the cause, which is the error's source.

use std::{fmt, io};

use rustix::io::Errno;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// The kind of a failure, which callers match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// No process listens on the control socket: the tapdisk is dead, or never existed.
    Gone,
    /// The connection ended before the answer did: the process that was to answer has died.
    Lost,
    /// The deadline passed: the other side hangs.
    Timeout,
    /// The tapdisk answered with this error number.
    Remote(i32),
    /// The answer is not one that the protocol allows.
    Protocol,
    /// The minor is locked by a tapdisk, or the process still lives.
    Busy,
    /// No such minor or process.
    NotFound,
    /// Every minor is taken.
    Full,
    /// The caller's own argument cannot be sent: too long, or a NUL in it.
    Invalid,
    /// The program could not be started, or ended without having become a tapdisk.
    Failed,
    /// A system call failed; the cause says which way.
    Io,
}

/// A failed operation.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    action: &'static str,
    subject: String,
    detail: String,
    cause: Option<io::Error>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, action: &'static str, subject: impl fmt::Display) -> Self {
        let subject = subject.to_string();
        Self { kind, action, subject, detail: String::new(), cause: None }
    }

    pub(crate) fn io(
        action: &'static str,
        subject: impl fmt::Display,
        cause: impl Into<io::Error>,
    ) -> Self {
        Self::new(ErrorKind::Io, action, subject).caused_by(cause)
    }

    /// The lock of a minor could not be handed to the process that keeps it for a successor.
    #[must_use]
    pub fn not_kept(minor: crate::Minor, cause: io::Error) -> Self {
        Self::io("keep the lock of minor", minor, cause)
    }

    #[must_use]
    pub(crate) fn caused_by(mut self, cause: impl Into<io::Error>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    #[must_use]
    pub(crate) fn detailed(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    #[cfg(test)]
    pub(crate) fn of_kind(self, kind: ErrorKind) -> Self {
        Self { kind, ..self }
    }

    /// The kind of failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The text of the other side: of its answer, or the output of a program.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The error number that a `tap-ctl` would exit with.
    #[must_use]
    pub fn errno(&self) -> i32 {
        let or_cause = |other: Errno| {
            self.cause
                .as_ref()
                .and_then(io::Error::raw_os_error)
                .unwrap_or_else(|| other.raw_os_error())
        };
        match self.kind {
            ErrorKind::Remote(errno) => errno,
            ErrorKind::Gone | ErrorKind::NotFound => or_cause(Errno::NOENT),
            ErrorKind::Timeout => Errno::TIMEDOUT.raw_os_error(),
            ErrorKind::Protocol => Errno::PROTO.raw_os_error(),
            ErrorKind::Busy => Errno::AGAIN.raw_os_error(),
            ErrorKind::Full => Errno::NOSPC.raw_os_error(),
            ErrorKind::Invalid => or_cause(Errno::INVAL),
            ErrorKind::Failed | ErrorKind::Io | ErrorKind::Lost => or_cause(Errno::IO),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}", self.action, self.subject)?;
        match self.kind {
            ErrorKind::Gone => write!(f, ": no tapdisk listens there")?,
            ErrorKind::Lost => write!(f, ": the connection ended before the answer did")?,
            ErrorKind::Timeout => write!(f, ": no answer in time")?,
            ErrorKind::Remote(errno) => {
                write!(f, ": the tapdisk answered: {}", io::Error::from_raw_os_error(errno))?;
            }
            ErrorKind::Protocol => write!(f, ": the answer is not valid")?,
            ErrorKind::Busy => write!(f, ": in use")?,
            ErrorKind::NotFound => write!(f, ": there is no such thing")?,
            ErrorKind::Full => write!(f, ": every number is taken")?,
            ErrorKind::Invalid => write!(f, ": not a valid argument")?,
            ErrorKind::Failed => write!(f, ": it did not become a tapdisk")?,
            ErrorKind::Io => {}
        }
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_ref().map(|cause| cause as _)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn says_what_on_what_and_keeps_the_cause_apart() {
        let error = Error::io("bind", "/run/ctl1", Errno::ACCESS);
        assert_eq!(error.to_string(), "cannot bind /run/ctl1");
        assert!(error.source().unwrap().to_string().contains("denied"));
        assert_eq!(error.errno(), Errno::ACCESS.raw_os_error());
    }

    #[test]
    fn a_remote_error_keeps_its_number_and_text() {
        let error = Error::new(ErrorKind::Remote(114), "open", "minor 3").detailed("no room");
        assert_eq!(error.errno(), 114);
        assert!(error.to_string().contains("(no room)"), "{error}");
    }
}
