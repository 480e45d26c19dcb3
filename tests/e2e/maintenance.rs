//! The volume plugin's commands beside the methods, as an administrator runs them.

use assert_cmd::{Command, assert::Assert};
use end_to_end::Xapi;

/// Runs a command; what it printed is told where it does not end as it should.
pub(crate) fn maintain(xapi: &Xapi, arguments: &[&str]) -> Assert {
    Command::from_std(xapi.volume_plugin()).args(arguments).assert()
}

/// `volume-plugin check` finds nothing wrong with an SR.
#[track_caller]
pub(crate) fn assert_sound(xapi: &Xapi, sr: &str) {
    maintain(xapi, &["check", "--sr", sr]).success();
}
