//! What can go wrong: a kind to match on, a sentence for an administrator, and the cause.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

/// The result of every fallible operation of the store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
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
    /// The volume's data was destroyed; only its changed blocks can be listed.
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
    /// Another version of this program has made it, in a format that this one does not know.
    OtherFormat,
    /// Another operation keeps what is needed.
    Busy,
    /// A process that had to answer did not.
    Unresponsive,
    /// The operating system refused.
    Io,
}

/// The cause of an error: the error of another crate or of the operating system.
pub(crate) type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// An error of the store: its kind, what was being done, to what, and the cause.
///
/// What shows is what was being done and to what; the cause is the [source](std::error::Error::source),
/// and [`Error::chain`] says both.
#[derive(Debug)]
pub struct Error(Box<Parts>);

#[derive(Debug)]
struct Parts {
    kind: ErrorKind,
    /// What was being done: "reading". Empty where something was refused before it began.
    doing: &'static str,
    /// To what: a path. Of a refusal the whole sentence, which says what was wrong, with which
    /// value, and what to do.
    subject: String,
    source: Option<Source>,
}

impl Error {
    /// A refusal: a sentence that says what was wrong, with which value, and what to do.
    pub fn new(kind: ErrorKind, sentence: impl Into<String>) -> Self {
        Self(Box::new(Parts { kind, doing: "", subject: sentence.into(), source: None }))
    }

    /// An error of the operating system while `doing` something to `subject`.
    pub fn os(doing: &'static str, subject: impl Into<Subject>, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            _ if source.get_ref().is_some_and(|inner| inner.is::<Misplaced>()) => {
                ErrorKind::Corrupt
            }
            _ => ErrorKind::Io,
        };
        let Subject(subject) = subject.into();
        Self(Box::new(Parts { kind, doing, subject, source: Some(source.into()) }))
    }

    /// With what caused it.
    #[must_use]
    pub(crate) fn caused_by(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What sort of error it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether what lies in the SR is to blame: something that has to be there is not, or makes no
    /// sense.
    pub(crate) fn tells_damage(&self) -> bool {
        let lacks = |source: &io::Error| {
            matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
        };
        self.kind() == ErrorKind::Corrupt || self.io_source().is_some_and(lacks)
    }

    /// Whether what was to be opened is not there.
    pub(crate) fn is_missing_file(&self) -> bool {
        self.io_source().is_some_and(|source| source.kind() == io::ErrorKind::NotFound)
    }

    /// What caused it, for an error of another sort that takes its place.
    pub(crate) fn into_source(self) -> Option<Source> {
        self.0.source
    }

    /// What the operating system said.
    fn io_source(&self) -> Option<&io::Error> {
        self.0.source.as_ref()?.downcast_ref()
    }

    /// The error and its causes in one sentence.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(source) = next {
            text = format!("{text}: {source}");
            next = source.source();
        }
        text
    }

    /// The error number to answer a client of a disk with.
    #[must_use]
    pub fn errno(&self) -> rustix::io::Errno {
        use rustix::io::Errno;
        match (self.kind(), self.io_source()) {
            (ErrorKind::NoSpace, _) => Errno::NOSPC,
            (ErrorKind::ReadOnly, _) => Errno::PERM,
            (ErrorKind::BadSize | ErrorKind::BadArgument, _) => Errno::INVAL,
            (ErrorKind::VolumeInUse, _) => Errno::BUSY,
            // A later request was obeyed already.
            (ErrorKind::Busy, _) => Errno::ALREADY,
            (
                ErrorKind::VolumeMissing
                | ErrorKind::VolumeLost
                | ErrorKind::NoData
                | ErrorKind::SrMissing,
                _,
            ) => Errno::NOENT,
            (_, Some(source)) => Errno::from_io_error(source).unwrap_or(Errno::IO),
            (_, None) => Errno::IO,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.doing.is_empty() {
            write!(f, "{} ", self.0.doing)?;
        }
        f.write_str(&self.0.subject)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| &**source as _)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        error.errno().into()
    }
}

/// What something was being done to, as the error shows it.
#[derive(Debug)]
pub struct Subject(String);

impl From<String> for Subject {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Subject {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<&Path> for Subject {
    fn from(path: &Path) -> Self {
        Self(path.display().to_string())
    }
}

impl From<PathBuf> for Subject {
    fn from(path: PathBuf) -> Self {
        path.as_path().into()
    }
}

/// Something else lies where a file or a directory of an SR should: a link, a FIFO, a device.
#[derive(Debug)]
pub(crate) struct Misplaced(pub(crate) &'static str);

impl fmt::Display for Misplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it is not a {}", self.0)
    }
}

impl std::error::Error for Misplaced {}

impl From<Misplaced> for io::Error {
    fn from(error: Misplaced) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// Adds what was being done, and to what, to an error of the operating system.
pub(crate) trait Context<T> {
    /// Wraps the error; `subject` is evaluated only where there is one.
    fn doing<S: Into<Subject>>(self, doing: &'static str, subject: impl FnOnce() -> S)
    -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn doing<S: Into<Subject>>(
        self,
        doing: &'static str,
        subject: impl FnOnce() -> S,
    ) -> Result<T> {
        self.map_err(|error| Error::os(doing, subject(), error.into()))
    }
}
