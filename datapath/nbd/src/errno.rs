//! Errors on the wire, and the one function that maps the system's errors to them.

use std::{fmt, io};

use rustix::io::Errno as System;

/// An error value of a reply (proto.md, Error values). The numbers are Linux's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(u32);

impl Errno {
    /// Not permitted: a write to a read-only export.
    pub const EPERM: Self = Self(1);
    /// The store failed.
    pub const EIO: Self = Self(5);
    /// No memory for the request.
    pub const ENOMEM: Self = Self(12);
    /// The request makes no sense.
    pub const EINVAL: Self = Self(22);
    /// No space, or a write beyond the end.
    pub const ENOSPC: Self = Self(28);
    /// Too large for one reply.
    pub const EOVERFLOW: Self = Self(75);
    /// Zeroing would not be fast.
    pub const ENOTSUP: Self = Self(95);
    /// The server is going away.
    pub const ESHUTDOWN: Self = Self(108);

    /// The number on the wire.
    #[must_use]
    pub fn code(self) -> u32 {
        self.0
    }

    /// The error that a reply carries: `None` for success. An unknown number is `EINVAL`, as the protocol
    /// tells clients to take it.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        match code {
            0 => None,
            1 | 5 | 12 | 22 | 28 | 75 | 95 | 108 => Some(Self(code)),
            _ => Some(Self::EINVAL),
        }
    }

    /// The error on the wire for an error of the disk.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        if let Some(system) = System::from_io_error(error) {
            return match system {
                System::PERM | System::ACCESS | System::ROFS => Self::EPERM,
                System::NOMEM => Self::ENOMEM,
                System::NOSPC | System::DQUOT | System::FBIG => Self::ENOSPC,
                System::INVAL => Self::EINVAL,
                System::OVERFLOW => Self::EOVERFLOW,
                System::OPNOTSUPP => Self::ENOTSUP,
                System::SHUTDOWN => Self::ESHUTDOWN,
                _ => Self::EIO,
            };
        }
        match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::EPERM,
            io::ErrorKind::OutOfMemory => Self::ENOMEM,
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Self::ENOSPC,
            io::ErrorKind::InvalidInput => Self::EINVAL,
            io::ErrorKind::Unsupported => Self::ENOTSUP,
            _ => Self::EIO,
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::EPERM => "not permitted",
            Self::EIO => "input/output error",
            Self::ENOMEM => "out of memory",
            Self::ENOSPC => "no space",
            Self::EOVERFLOW => "too large",
            Self::ENOTSUP => "not supported",
            Self::ESHUTDOWN => "server is shutting down",
            _ => "invalid request",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_become_the_eight_of_the_protocol() {
        let of = |error: System| Errno::of(&error.into());
        assert_eq!(of(System::NOSPC), Errno::ENOSPC);
        assert_eq!(of(System::DQUOT), Errno::ENOSPC);
        assert_eq!(of(System::ROFS), Errno::EPERM);
        assert_eq!(of(System::OPNOTSUPP), Errno::ENOTSUP);
        assert_eq!(of(System::BADF), Errno::EIO);
        assert_eq!(Errno::of(&io::ErrorKind::StorageFull.into()), Errno::ENOSPC);
        assert_eq!(Errno::of(&io::Error::other("odd")), Errno::EIO);
    }

    #[test]
    fn an_unknown_number_is_an_invalid_request() {
        assert_eq!(Errno::from_code(0), None);
        assert_eq!(Errno::from_code(28), Some(Errno::ENOSPC));
        assert_eq!(Errno::from_code(4711), Some(Errno::EINVAL));
    }
}
