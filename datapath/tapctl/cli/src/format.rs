//! The output of `tap-ctl`, to a pipe and to a terminal, as pure functions.
//!
//! Formats are those of `control/tap-ctl.c`, which SM's and xapi's scripts parse. Bytes and not
//! strings, as a path need not be text.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

use crate::list::Row;

/// Where the output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// A program reads it.
    Pipe,
    /// A person reads it.
    Terminal,
}

/// A line of `tap-ctl list`, its end included.
pub(crate) fn list_line(row: &Row, output: Output) -> Vec<u8> {
    let mut line = match output {
        Output::Pipe => fields(row),
        Output::Terminal => columns(row),
    };
    line.push(b'\n');
    line
}

/// The output of `tap-ctl spawn`.
pub(crate) fn spawn_line(pid: u32, output: Output) -> String {
    match output {
        Output::Pipe => format!("{pid}\n"),
        Output::Terminal => format!("tapdisk spawned with pid {pid}\n"),
    }
}

/// The output of `tap-ctl stats`: one line, and an empty one.
pub(crate) fn stats(json: &str) -> String {
    format!("{json}\n\n")
}

/// A state as C's `%#x` prints it: no prefix on zero.
pub(crate) fn state(state: u32) -> String {
    if state == 0 { "0".into() } else { format!("{state:#x}") }
}

/// `pid=1 minor=2 state=0 args=ram:/p`, without absent fields.
fn fields(row: &Row) -> Vec<u8> {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    parts.extend(row.pid.map(|pid| format!("pid={pid}").into_bytes()));
    parts.extend(row.minor.map(|minor| format!("minor={minor}").into_bytes()));
    parts.extend(row.state.map(|value| format!("state={}", state(value)).into_bytes()));
    parts.extend(row.image.as_ref().map(|(image_type, path)| {
        [b"args=", image_type.as_bytes(), b":", path.as_bytes()].concat()
    }));
    parts.join(&b' ')
}

/// Columns of 8, 4, 4 and 10, aligned to the right, and the path; `-` for absent fields.
fn columns(row: &Row) -> Vec<u8> {
    let number = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let head = format!(
        "{:>8} {:>4} {:>4} ",
        number(row.pid.map(|pid| pid.to_string())),
        number(row.minor.map(|minor| minor.to_string())),
        number(row.state.map(state)),
    );
    let image = row.image.as_ref();
    let image_type = image.map_or(b"-".as_slice(), |(image_type, _)| image_type.as_bytes());
    let path = image.map_or(OsStr::new("-"), |(_, path)| path);
    let padding = vec![b' '; 10_usize.saturating_sub(image_type.len())];
    [head.as_bytes(), &padding, image_type, b" ", path.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            pid: Some(27402),
            minor: Some(0),
            state: Some(0),
            image: Some(("ram".into(), "/run/t/f64".into())),
        }
    }

    #[track_caller]
    fn check(row: &Row, pipe: &str, terminal: &str) {
        assert_eq!(String::from_utf8(list_line(row, Output::Pipe)).unwrap(), pipe);
        assert_eq!(String::from_utf8(list_line(row, Output::Terminal)).unwrap(), terminal);
    }

    #[test]
    fn lines_are_those_of_tap_ctl() {
        check(
            &row(),
            "pid=27402 minor=0 state=0 args=ram:/run/t/f64\n",
            "   27402    0    0        ram /run/t/f64\n",
        );
        let paused = Row { state: Some(0x2a), image: None, ..row() };
        check(&paused, "pid=27402 minor=0 state=0x2a\n", "   27402    0 0x2a          - -\n");
        let idle = Row { pid: Some(28045), ..Row::default() };
        check(&idle, "pid=28045\n", "   28045    -    -          - -\n");
        let orphan = Row { minor: Some(0), ..Row::default() };
        check(&orphan, "minor=0\n", "       -    0    -          - -\n");
    }

    #[test]
    fn spawn_and_stats() {
        assert_eq!(spawn_line(28045, Output::Pipe), "28045\n");
        assert_eq!(spawn_line(28030, Output::Terminal), "tapdisk spawned with pid 28030\n");
        assert_eq!(stats("{ }"), "{ }\n\n");
        assert_eq!((state(0), state(0x22a)), ("0".into(), "0x22a".into()));
    }
}
