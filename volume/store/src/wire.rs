//! The store's errors as the callers of both plugins get them: the only place that knows which code
//! a kind has on the wire.
//!
//! The store's sentence is kept whole: it is written for the administrator who reads it as the
//! second parameter of `SR_BACKEND_FAILURE_<n>`. What the operating system said follows it.

use schemas::{Failure, Interface};

use crate::error::{Error, Kind};

impl From<Error> for schemas::Error {
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
fn code(kind: Kind) -> (Failure, Option<Interface>) {
    match kind {
        Kind::SrNotAttached => (Failure::SrUnavailable, Some(Interface::SrNotAttached)),
        Kind::SrMissing => (Failure::SrUnavailable, Some(Interface::SrDoesNotExist)),
        Kind::SrExists => (Failure::SrExists, None),
        Kind::SrInUse => (Failure::SrInUse, None),
        // Not Activated_on_another_host: the caller would send the same call there.
        Kind::OtherHost => (Failure::SrUnavailable, None),
        Kind::VolumeMissing | Kind::VolumeLost => {
            (Failure::VdiMissing, Some(Interface::VolumeDoesNotExist))
        }
        // To xapi, what is left is a VDI of type cbt_metadata.
        Kind::NoData | Kind::ReadOnly => (Failure::VdiType, None),
        Kind::VolumeInUse => (Failure::VdiInUse, None),
        Kind::NoSpace => (Failure::SrNoSpace, None),
        Kind::BadSize => (Failure::VdiSize, None),
        Kind::BadArgument => (Failure::InvalidArg, None),
        Kind::Corrupt => (Failure::MetadataError, None),
        Kind::Busy => (Failure::LockErr, None),
        Kind::Unresponsive => (Failure::TapdiskFailed, None),
        Kind::Io => (Failure::Eio, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_code_and_keeps_the_sentence() {
        for (kind, number, prefix) in [
            (Kind::SrNotAttached, 47, "Sr_not_attached: "),
            (Kind::SrMissing, 47, "SR_does_not_exist: "),
            (Kind::SrExists, 42, ""),
            (Kind::SrInUse, 16, ""),
            (Kind::OtherHost, 47, ""),
            (Kind::VolumeMissing, 144, "Volume_does_not_exist: "),
            (Kind::VolumeLost, 144, "Volume_does_not_exist: "),
            (Kind::NoData, 66, ""),
            (Kind::VolumeInUse, 24, ""),
            (Kind::ReadOnly, 66, ""),
            (Kind::NoSpace, 44, ""),
            (Kind::BadSize, 79, ""),
            (Kind::BadArgument, 1, ""),
            (Kind::Corrupt, 181, ""),
            (Kind::Busy, 37, ""),
            (Kind::Unresponsive, 453, ""),
            (Kind::Io, 200, ""),
        ] {
            let error = schemas::Error::from(Error::new(kind, "what is wrong; what to do"));
            assert_eq!(error.code(), format!("SR_BACKEND_FAILURE_{number}"), "{kind:?}");
            let message = format!("{prefix}what is wrong; what to do");
            assert_eq!(error.params(), ["", &message, ""], "{kind:?}");
        }
    }

    #[test]
    fn the_operating_systems_word_follows_the_sentence() {
        let source = std::io::Error::other("no such thing");
        let error = schemas::Error::from(Error::os("reading", "/x", source));
        assert_eq!(error.params()[1], "reading /x: no such thing");
        assert_eq!(error.to_string(), "reading /x");
    }
}
