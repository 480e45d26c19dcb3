//! Errors for the callers of this plugin that no other crate converts: those of the host's own
//! tapdisk, and those of the file system.

use host::{Provider, variables::BLKTAP};
use smapiv3::{Error, Failure};

/// Error numbers, as a tapdisk answers them.
pub(crate) mod errno {
    use rustix::io::Errno;

    pub(crate) const ALREADY: i32 = Errno::ALREADY.raw_os_error();
}

/// The error for an exchange with the tapdisk of a provider. The host's own tapdisk is not killed
/// for a failure, as it may have the only copy of recent writes.
pub(crate) fn tapdisk(provider: Provider, error: tapctl::Error) -> Error {
    if provider == Provider::Ram {
        return error.into();
    }
    let remedy = match error.kind() {
        tapctl::ErrorKind::Timeout => {
            "it hangs: look at that process and repeat; end it (kill -9) only if it does not \
             recover, which gives up what was written since the disk was activated"
                .to_owned()
        }
        _ => format!("the host's log says more; {BLKTAP} names another program to start"),
    };
    let whose = "it is the host's own tapdisk (device-config:tapdisk=blktap)";
    error.with_remedy(Failure::TapdiskFailed, &format!("{whose}: {remedy}"))
}

/// An error of this host's file system while `doing` something.
pub(crate) fn io(doing: impl Into<String>, source: std::io::Error) -> Error {
    let failure = match source.kind() {
        std::io::ErrorKind::StorageFull => Failure::SrNoSpace,
        _ => Failure::Eio,
    };
    Error::new(failure, doing).caused_by(source)
}
