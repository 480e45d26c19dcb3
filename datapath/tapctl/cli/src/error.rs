//! A failed command: the error number that becomes the exit code, and a sentence for `--debug`.

use std::{fmt, io};

use rustix::io::Errno;
use tapctl::ErrorKind;

/// An error number, and a sentence with the details.
pub(crate) struct Error {
    pub(crate) errno: i32,
    pub(crate) text: String,
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(errno: Errno, text: impl Into<String>) -> Self {
        Self { errno: errno.raw_os_error(), text: text.into() }
    }
}

impl From<tapctl::Error> for Error {
    fn from(error: tapctl::Error) -> Self {
        Self { errno: error.errno(), text: chain(&error) }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::new(Errno::from_io_error(&error).unwrap_or(Errno::IO), error.to_string())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", strerror(self.errno), self.text)
    }
}

/// EINVAL for every refusal of an attach or a detach: tap-ctl takes a refusal there for an answer of
/// the wrong type.
pub(crate) fn refusal_is_invalid(done: tapctl::Result<()>) -> Result<()> {
    done.map_err(|error| match error.kind() {
        ErrorKind::Remote(_) => Error::new(Errno::INVAL, error.to_string()),
        _ => error.into(),
    })
}

/// The text of C's strerror; Rust's has the number behind it.
pub(crate) fn strerror(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    text.rsplit_once(" (os error").map_or(text.clone(), |(text, _)| text.to_owned())
}

fn chain(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(|cause| format!(": {}", chain(cause)));
    format!("{error}{}", cause.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_as_c_does() {
        assert_eq!(strerror(2), "No such file or directory");
        assert_eq!(strerror(114), "Operation already in progress");
    }
}
