//! Errors of this crate as the callers of a plugin get them: the only place that knows which code a
//! kind has on the wire, and which remedy an administrator is told.

use rustix::io::Errno;
use smapiv3::Failure;

use crate::error::{Error, ErrorKind};

const BUSY: i32 = Errno::BUSY.raw_os_error();
const NOSPC: i32 = Errno::NOSPC.raw_os_error();
const NOMEM: i32 = Errno::NOMEM.raw_os_error();

impl From<Error> for smapiv3::Error {
    fn from(error: Error) -> Self {
        let failure = match error.kind() {
            ErrorKind::Remote(BUSY) => Failure::VdiInUse,
            ErrorKind::Remote(NOSPC | NOMEM) => Failure::SrNoSpace,
            _ => Failure::TapdiskFailed,
        };
        error.with_remedy(failure, remedy(error.kind()))
    }
}

impl Error {
    /// This error for the caller of a plugin, with another code or remedy than the usual one.
    #[must_use]
    pub fn with_remedy(&self, failure: Failure, remedy: &str) -> smapiv3::Error {
        let wire = smapiv3::Error::new(failure, format!("{self}; {remedy}"));
        match std::error::Error::source(self) {
            Some(source) => wire.caused_by(source.to_string()),
            None => wire,
        }
    }
}

fn remedy(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Timeout => {
            "it hangs: look at that process, and end it (kill -9) if it does not recover; the next \
             attach or activate starts another one, and no acknowledged write is lost"
        }
        ErrorKind::Gone => {
            "if the process is dead, repeat the call, which starts another one; if it lives, its \
             control socket was removed: unplug the disk and plug it again"
        }
        ErrorKind::Failed => {
            "see the host's log for its own words; XAPI_RAM_TAPDISK names another program to start"
        }
        ErrorKind::Full => "free minors that nobody uses (tap-ctl list, tap-ctl free)",
        ErrorKind::Remote(NOSPC | NOMEM) => {
            "free memory: delete disks or snapshots, or make the SR larger"
        }
        ErrorKind::Remote(BUSY) => "another process serves it: tap-ctl list shows which",
        _ => "the host's log says more; if it persists, unplug the disk and plug it again",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_code_and_a_remedy_behind_the_sentence() {
        for (kind, number, remedy) in [
            (ErrorKind::Remote(BUSY), 24, "tap-ctl list"),
            (ErrorKind::Remote(NOSPC), 44, "free memory"),
            (ErrorKind::Remote(NOMEM), 44, "free memory"),
            (ErrorKind::Remote(Errno::IO.raw_os_error()), 453, "log"),
            (ErrorKind::Gone, 453, "unplug the disk and plug it again"),
            (ErrorKind::Timeout, 453, "kill -9"),
            (ErrorKind::Failed, 453, "XAPI_RAM_TAPDISK"),
            (ErrorKind::Full, 453, "tap-ctl free"),
        ] {
            let error = Error::io("open", "minor 3", Errno::ACCESS).of_kind(kind);
            let sentence = error.to_string();
            let wire = smapiv3::Error::from(error);
            assert_eq!(wire.code(), format!("SR_BACKEND_FAILURE_{number}"), "{kind:?}");
            let message = &wire.params()[1];
            assert!(message.starts_with(&sentence) && message.contains(remedy), "{message}");
            assert!(message.ends_with("(os error 13)"), "{message}");
        }
    }
}
