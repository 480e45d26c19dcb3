//! What can go wrong: a kind to match on, a sentence for an administrator, and the cause.

use std::{fmt, io};

/// The result of every fallible operation of the store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The SR is known to nobody, or is not attached on this host.
    SrNotAttached,
    /// There is no such SR on this host.
    SrMissing,
    /// An SR with this UUID exists already.
    SrExists,
    /// The SR has active disks.
    SrInUse,
    /// The memory of the SR belongs to another host.
    OtherHost,
    /// No volume has this key.
    VolumeMissing,
    /// The volume existed before the host restarted.
    VolumeLost,
    /// The volume's data was destroyed; only what changed can be told.
    NoData,
    /// The volume is active.
    VolumeInUse,
    /// The volume cannot be written.
    ReadOnly,
    /// Neither the SR nor the host has room.
    NoSpace,
    /// A size that cannot be.
    BadSize,
    /// A parameter or a device-config key that cannot be.
    BadArgument,
    /// What lies in the SR contradicts itself.
    Corrupt,
    /// Another operation keeps what is needed.
    Busy,
    /// A process that had to answer did not.
    Unresponsive,
    /// The operating system refused.
    Io,
}

/// An error of the store.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    source: Option<io::Error>,
}

impl Error {
    /// An error with a sentence that says what was wrong, with which value, and what to do.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// An error of the operating system while `doing` something.
    pub fn io(doing: impl Into<String>, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::NoSpace,
            _ => Kind::Io,
        };
        Self { kind, message: doing.into(), source: Some(source) }
    }

    /// What sort of error it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether what lies in the SR is to blame: something that has to be there is not, or makes no
    /// sense.
    pub(crate) fn tells_damage(&self) -> bool {
        let lacks = |source: &io::Error| {
            matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
        };
        self.kind == Kind::Corrupt || self.source.as_ref().is_some_and(lacks)
    }

    /// The error and its cause in one sentence.
    #[must_use]
    pub fn chain(&self) -> String {
        match &self.source {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }

    /// The error number to answer a client of a disk with.
    #[must_use]
    pub fn errno(&self) -> rustix::io::Errno {
        use rustix::io::Errno;
        match (self.kind, &self.source) {
            (Kind::NoSpace, _) => Errno::NOSPC,
            (Kind::ReadOnly, _) => Errno::PERM,
            (Kind::BadSize | Kind::BadArgument, _) => Errno::INVAL,
            (Kind::VolumeInUse, _) => Errno::BUSY,
            (Kind::VolumeMissing | Kind::VolumeLost | Kind::NoData | Kind::SrMissing, _) => {
                Errno::NOENT
            }
            (_, Some(source)) => Errno::from_io_error(source).unwrap_or(Errno::IO),
            (_, None) => Errno::IO,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        error.errno().into()
    }
}

/// Adds what was being done to an error of the operating system.
pub(crate) trait Context<T> {
    /// Wraps the error; `doing` is evaluated only where there is one.
    fn while_doing<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn while_doing<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| Error::io(doing(), error.into()))
    }
}
