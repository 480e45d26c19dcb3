//! The store's errors as the callers of both plugins get them: the only place that knows which code
//! a kind has on the wire.
//!
//! The store's sentence is kept whole: it is written for the administrator who reads it as the
//! second parameter of `SR_BACKEND_FAILURE_<n>`. The operating system's error follows it.

use smapiv3::{Failure, Interface};

use crate::error::{Error, ErrorKind};

impl From<Error> for smapiv3::Error {
    fn from(error: Error) -> Self {
        let (failure, name) = code(error.kind());
        let wire = match name {
            Some(name) => Self::named(failure, name, &error),
            None => Self::new(failure, error.to_string()),
        };
        match error.into_source() {
            Some(source) => wire.caused_by(source),
            None => wire,
        }
    }
}

/// The number of a kind, and the interface's own name for it where it has one.
fn code(kind: ErrorKind) -> (Failure, Option<Interface>) {
    match kind {
        ErrorKind::SrNotAttached => (Failure::SrUnavailable, Some(Interface::SrNotAttached)),
        ErrorKind::SrMissing => (Failure::SrUnavailable, Some(Interface::SrDoesNotExist)),
        ErrorKind::SrExists => (Failure::SrExists, None),
        ErrorKind::SrInUse => (Failure::SrInUse, None),
        // Not Activated_on_another_host: the caller would send the same call there.
        ErrorKind::OtherHost => (Failure::SrUnavailable, None),
        ErrorKind::VolumeMissing | ErrorKind::VolumeLost => {
            (Failure::VdiMissing, Some(Interface::VolumeDoesNotExist))
        }
        // To xapi, a snapshot without data is a VDI of type cbt_metadata.
        ErrorKind::NoData | ErrorKind::ReadOnly => (Failure::VdiType, None),
        ErrorKind::VolumeInUse => (Failure::VdiInUse, None),
        ErrorKind::NoSpace => (Failure::SrNoSpace, None),
        ErrorKind::BadSize => (Failure::VdiSize, None),
        ErrorKind::BadArgument => (Failure::InvalidArg, None),
        ErrorKind::Corrupt | ErrorKind::OtherFormat => (Failure::MetadataError, None),
        ErrorKind::Busy => (Failure::LockErr, None),
        ErrorKind::Unresponsive => (Failure::TapdiskFailed, None),
        ErrorKind::Io => (Failure::Eio, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_code_and_keeps_the_sentence() {
        for (kind, number, prefix) in [
            (ErrorKind::SrNotAttached, 47, "Sr_not_attached: "),
            (ErrorKind::SrMissing, 47, "SR_does_not_exist: "),
            (ErrorKind::SrExists, 42, ""),
            (ErrorKind::SrInUse, 16, ""),
            (ErrorKind::OtherHost, 47, ""),
            (ErrorKind::VolumeMissing, 144, "Volume_does_not_exist: "),
            (ErrorKind::VolumeLost, 144, "Volume_does_not_exist: "),
            (ErrorKind::NoData, 66, ""),
            (ErrorKind::VolumeInUse, 24, ""),
            (ErrorKind::ReadOnly, 66, ""),
            (ErrorKind::NoSpace, 44, ""),
            (ErrorKind::BadSize, 79, ""),
            (ErrorKind::BadArgument, 1, ""),
            (ErrorKind::Corrupt, 181, ""),
            (ErrorKind::OtherFormat, 181, ""),
            (ErrorKind::Busy, 37, ""),
            (ErrorKind::Unresponsive, 453, ""),
            (ErrorKind::Io, 200, ""),
        ] {
            let error = smapiv3::Error::from(Error::new(kind, "what is wrong; what to do"));
            assert_eq!(error.code(), format!("SR_BACKEND_FAILURE_{number}"), "{kind:?}");
            let message = format!("{prefix}what is wrong; what to do");
            assert_eq!(error.params(), ["", &message, ""], "{kind:?}");
        }
    }

    #[test]
    fn the_operating_systems_word_follows_the_sentence() {
        let source = std::io::Error::other("no such thing");
        let error = smapiv3::Error::from(Error::os("reading", "/x", source));
        assert_eq!(error.params()[1], "reading /x: no such thing");
        assert_eq!(error.to_string(), "reading /x");
    }
}
