//! From the errors of the tapdisk protocol and of the file system to those of the interface: the
//! sentences stay whole. Those of the store
//! are converted by the store itself, for both plugins.

use std::error::Error as _;

use schemas::{Error, Failure};
use tapctl::ErrorKind;

/// Linux' numbers, as a tapdisk answers them.
pub(crate) mod errno {
    use rustix::io::Errno;

    pub(crate) const ALREADY: i32 = Errno::ALREADY.raw_os_error();
    pub(crate) const BUSY: i32 = Errno::BUSY.raw_os_error();
    pub(crate) const EXIST: i32 = Errno::EXIST.raw_os_error();
    pub(crate) const NOMEM: i32 = Errno::NOMEM.raw_os_error();
    pub(crate) const NOSPC: i32 = Errno::NOSPC.raw_os_error();
}

/// What a tapdisk, or the way to one, could not do: it names the process and what it was asked.
#[allow(clippy::needless_pass_by_value, reason = "used as a function in map_err")]
pub(crate) fn tapdisk(error: tapctl::Error) -> Error {
    let failure = match error.kind() {
        ErrorKind::Remote(errno::BUSY) => Failure::VdiInUse,
        ErrorKind::Remote(errno::NOSPC | errno::NOMEM) => Failure::SrNoSpace,
        _ => Failure::TapdiskFailed,
    };
    let mapped = Error::new(failure, format!("{error}; {}", remedy(error.kind())));
    match error.source() {
        Some(source) => mapped.caused_by(source.to_string()),
        None => mapped,
    }
}

/// What to do about it.
fn remedy(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Timeout => {
            "it hangs: look at that process, and end it (kill -9) if it does not recover; the next \
             attach or activate starts another one, and no acknowledged write is lost"
        }
        ErrorKind::Gone => "it died: repeat the call, which starts another one",
        ErrorKind::Failed => {
            "see the host's log for its own words; XAPI_RAM_TAPDISK names another program to start"
        }
        ErrorKind::Full => "free minors that nobody uses (tap-ctl list, tap-ctl free)",
        ErrorKind::Remote(errno::NOSPC | errno::NOMEM) => {
            "free memory: delete disks or snapshots, or make the SR larger"
        }
        ErrorKind::Remote(errno::BUSY) => "another process serves it: tap-ctl list shows which",
        _ => "the host's log says more; if it persists, unplug the disk and plug it again",
    }
}

/// An error of this host's file system while `doing` something.
pub(crate) fn io(doing: impl Into<String>, source: std::io::Error) -> Error {
    let failure = match source.kind() {
        std::io::ErrorKind::StorageFull => Failure::SrNoSpace,
        _ => Failure::Eio,
    };
    Error::new(failure, doing).caused_by(source)
}
