//! Errors of methods, and the one form in which they are sent to the caller.
//!
//! The caller passes code and parameters on to the user. Clients show three parameters of a
//! `SR_BACKEND_FAILURE_<n>` as status, stdout and stderr and read the second as the message, so
//! that form is the rule. The interface's own errors are there for the two the caller looks at,
//! `Unimplemented` and `Activated_on_another_host`; the others are named inside the message.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A boxed cause.
type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// A failed call: code and parameters for the caller, a message and its causes for a reader.
#[derive(Debug)]
pub struct Error(Box<Parts>);

#[derive(Debug)]
struct Parts {
    code: String,
    params: Vec<String>,
    message: String,
    source: Option<Source>,
    location: Option<(String, u32)>,
}

/// The numbers of `SR_BACKEND_FAILURE_<n>`, as `XE_SR_ERRORCODES.xml` of xapi-project/sm lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// A parameter's value is not allowed
    InvalidArg = 1,
    /// A device-config value holds a character that it may not
    BadCharacter = 2,
    /// The SR is in use
    SrInUse = 16,
    /// The volume is in use
    VdiInUse = 24,
    /// A lock could not be taken
    LockErr = 37,
    /// The method does not exist here
    Unimplemented = 38,
    /// The SR still holds volumes
    SrNotEmpty = 39,
    /// There is such an SR already
    SrExists = 42,
    /// There is such a volume already
    VdiExists = 43,
    /// The SR, or the host's memory, is full
    SrNoSpace = 44,
    /// The volume is there and cannot be used
    VdiUnavailable = 46,
    /// The SR is there and cannot be used
    SrUnavailable = 47,
    /// The volume's metadata cannot be read
    VdiLoad = 65,
    /// The volume is of a type that this cannot be done to
    VdiType = 66,
    /// The volume could not be created
    VdiCreate = 78,
    /// The size is not one that a volume can have
    VdiSize = 79,
    /// The volume could not be cloned
    VdiClone = 81,
    /// The volume could not be snapshotted
    VdiSnapshot = 82,
    /// There are too many snapshots behind the volume
    SnapshotChainTooLong = 109,
    /// The volume could not be resized
    VdiResize = 110,
    /// A device-config key is missing
    ConfigParamsMissing = 115,
    /// The request itself makes no sense
    BadRequest = 143,
    /// There is no such volume
    VdiMissing = 144,
    /// The SR's metadata cannot be read or written
    MetadataError = 181,
    /// The host's file system failed
    Eio = 200,
    /// Not now; worth trying again
    Eagain = 201,
    /// Any other failure, above all a bug of the plugin
    SmGeneral = 202,
    /// There is a tapdisk already
    TapdiskAlreadyRunning = 445,
    /// The tapdisk did not start, died, or refused
    TapdiskFailed = 453,
    /// Changed block tracking could not be started
    CbtActivateFailed = 457,
    /// Changed block tracking could not be stopped
    CbtDeactivateFailed = 458,
    /// The record of changed blocks is damaged
    CbtMetadataInconsistent = 459,
    /// The changed blocks cannot be determined
    CbtChangedBlocksError = 460,
}

impl Failure {
    /// The number that makes the code.
    pub const fn number(self) -> u16 {
        self as u16
    }
}

/// The errors that the interface defines itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interface {
    /// The SR has to be attached first
    SrNotAttached,
    /// There is no such SR
    SrDoesNotExist,
    /// There is no such volume in the SR
    VolumeDoesNotExist,
    /// The method does not exist here
    Unimplemented,
    /// The operation was cancelled
    Cancelled,
    /// The volume is active on another host
    ActivatedOnAnotherHost,
}

impl Interface {
    /// The error as the interface spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SrNotAttached => "Sr_not_attached",
            Self::SrDoesNotExist => "SR_does_not_exist",
            Self::VolumeDoesNotExist => "Volume_does_not_exist",
            Self::Unimplemented => "Unimplemented",
            Self::Cancelled => "Cancelled",
            Self::ActivatedOnAnotherHost => "Activated_on_another_host",
        }
    }
}

impl Error {
    /// `SR_BACKEND_FAILURE_<n>` with a message that names the fault, the value and the remedy.
    ///
    /// ```
    /// use smapiv3::{Error, Failure};
    ///
    /// let cause = std::io::Error::other("disk on fire");
    /// let error = Error::new(Failure::VdiSize, "a volume of -1 bytes: give a size of at least 1")
    ///     .caused_by(cause);
    /// let message = "a volume of -1 bytes: give a size of at least 1: disk on fire";
    /// assert_eq!((error.code(), error.params()[1].as_str()), ("SR_BACKEND_FAILURE_79", message));
    /// ```
    pub fn new(failure: Failure, message: impl Into<String>) -> Self {
        let message = message.into();
        Self::raw(
            format!("SR_BACKEND_FAILURE_{}", failure.number()),
            vec![String::new(), message.clone(), String::new()],
            message,
        )
    }

    /// The same, with the interface's own name for the error before the message.
    pub fn named(failure: Failure, interface: Interface, message: impl fmt::Display) -> Self {
        Self::new(failure, format!("{}: {message}", interface.name()))
    }

    /// An error of the interface itself, whose one parameter is not a sentence.
    pub fn interface(interface: Interface, param: impl Into<String>) -> Self {
        let param = param.into();
        let message = match interface {
            Interface::SrNotAttached => format!("SR {param} is not attached"),
            Interface::SrDoesNotExist => format!("there is no SR {param}"),
            Interface::VolumeDoesNotExist => format!("there is no volume {param}"),
            Interface::Unimplemented => format!("{param} is not implemented by this plugin"),
            Interface::Cancelled => format!("{param} was cancelled"),
            Interface::ActivatedOnAnotherHost => format!("the volume is active on host {param}"),
        };
        let message = format!("{}: {message}", interface.name());
        let params = match interface {
            // The caller recognises this one by its parameters, not by its code.
            Interface::ActivatedOnAnotherHost => vec![interface.name().to_owned(), param],
            _ => vec![param],
        };
        Self::raw(interface.name().to_owned(), params, message)
    }

    /// The SR is known, or may be, and not attached on this host.
    pub fn sr_not_attached(sr: impl fmt::Display) -> Self {
        Self::named(
            Failure::SrUnavailable,
            Interface::SrNotAttached,
            format_args!("SR {sr} is not attached on this host; plug its PBD with xe pbd-plug"),
        )
    }

    /// There is no such SR on this host.
    pub fn sr_does_not_exist(sr: impl fmt::Display) -> Self {
        Self::named(
            Failure::SrUnavailable,
            Interface::SrDoesNotExist,
            format_args!(
                "there is no SR {sr} on this host; xe sr-list shows those that xapi knows"
            ),
        )
    }

    /// There is no such volume in the SR.
    pub fn volume_does_not_exist(sr: impl fmt::Display, key: impl fmt::Display) -> Self {
        Self::named(
            Failure::VdiMissing,
            Interface::VolumeDoesNotExist,
            format_args!(
                "there is no volume {key} in SR {sr}; xe sr-scan uuid={sr} updates the list"
            ),
        )
    }

    /// The method is one of the interface and not of this plugin.
    pub fn unimplemented(method: impl Into<String>) -> Self {
        Self::interface(Interface::Unimplemented, method)
    }

    /// The operation was cancelled.
    pub fn cancelled(operation: impl Into<String>) -> Self {
        Self::interface(Interface::Cancelled, operation)
    }

    /// The volume is active on the host with that UUID: the caller sends the call there.
    ///
    /// ```
    /// let error = smapiv3::Error::activated_on_another_host("a-host");
    /// assert_eq!(error.params(), ["Activated_on_another_host", "a-host"]);
    /// ```
    pub fn activated_on_another_host(host_uuid: impl Into<String>) -> Self {
        Self::interface(Interface::ActivatedOnAnotherHost, host_uuid)
    }

    fn raw(code: String, params: Vec<String>, message: String) -> Self {
        Self(Box::new(Parts { code, params, message, source: None, location: None }))
    }

    /// Adds the cause. It shows in the log and in the backtrace, and the caller's user sees it
    /// behind the message.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        if let [_, message, _] = self.0.params.as_mut_slice() {
            *message = chain(&self.0.message, self.0.source.as_deref());
        }
        self
    }

    /// Adds where in the source it happened.
    #[must_use]
    pub fn at(mut self, file: impl Into<String>, line: u32) -> Self {
        self.0.location = Some((file.into(), line));
        self
    }

    /// The code that the caller gets.
    pub fn code(&self) -> &str {
        &self.0.code
    }

    /// The parameters that the caller gets.
    pub fn params(&self) -> &[String] {
        &self.0.params
    }

    /// The message and all of its causes, in one line.
    pub fn chain(&self) -> String {
        chain(&self.0.message, self.0.source.as_deref())
    }

    /// The form in which it goes out.
    pub fn reply(&self) -> ErrorReply {
        let location = self.0.location.as_ref();
        ErrorReply {
            code: self.0.code.clone(),
            params: self.0.params.clone(),
            backtrace: Backtrace {
                error: self.chain(),
                files: location.map(|(file, _)| file.clone()).into_iter().collect(),
                lines: location.map(|(_, line)| *line).into_iter().collect(),
            },
        }
    }
}

fn chain(
    message: &str,
    source: Option<&(dyn std::error::Error + Send + Sync + 'static)>,
) -> String {
    let mut text = message.to_owned();
    let mut cause = source.map(|source| source as &(dyn std::error::Error + 'static));
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// The answer of a failed call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorReply {
    /// Code of the error
    pub code: String,
    /// Parameters of the error
    pub params: Vec<String>,
    /// Where it comes from
    pub backtrace: Backtrace,
}

/// Where an error comes from.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Backtrace")]
pub struct Backtrace {
    /// The message with all of its causes
    pub error: String,
    /// Source files, the innermost first
    pub files: Vec<String>,
    /// The line in each of those files
    pub lines: Vec<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_failure_has_three_params_with_the_message_and_causes_in_the_middle() {
        let error = Error::new(Failure::SrNoSpace, "cannot create volume v1")
            .caused_by(std::io::Error::other("no memory"));
        assert_eq!(error.code(), "SR_BACKEND_FAILURE_44");
        assert_eq!(error.params(), ["", "cannot create volume v1: no memory", ""]);
        assert_eq!(error.to_string(), "cannot create volume v1");
        assert_eq!(error.reply().backtrace.error, "cannot create volume v1: no memory");
    }

    #[test]
    fn the_callers_special_cases_have_exactly_its_params() {
        let other = Error::activated_on_another_host("h1");
        assert_eq!(other.params(), ["Activated_on_another_host", "h1"]);
        let missing = Error::unimplemented("Volume.copy");
        assert_eq!(
            (missing.code(), missing.params()),
            ("Unimplemented", &["Volume.copy".into()][..])
        );
    }

    #[test]
    fn a_location_fills_files_and_lines_alike() {
        let reply = Error::new(Failure::SmGeneral, "bug").at("a.rs", 7).reply();
        assert_eq!((reply.backtrace.files, reply.backtrace.lines), (vec!["a.rs".into()], vec![7]));
    }
}
