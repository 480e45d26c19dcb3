//! The rows of `tap-ctl list`: minors, control sockets, and the VBDs of each tapdisk.
//!
//! [`merge`] is pure; [`list`] queries the tapdisks. As in `control/tap-ctl-list.c`: a line for each VBD, the newest of
//! a tapdisk first; a line for a tapdisk without one; a line for a minor that no tapdisk has.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    time::Duration,
};

use tapctl::{Client, ControlDir, Entry, ErrorKind, Minor, Result};

/// One line of the list; absent fields are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    /// The tapdisk.
    pub(crate) pid: Option<u32>,
    /// The minor.
    pub(crate) minor: Option<i32>,
    /// Its [`tapctl::reply::state`].
    pub(crate) state: Option<u32>,
    /// Type and path of the image.
    pub(crate) image: Option<(OsString, OsString)>,
}

/// Which rows are wanted; `None` wants all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Those of this tapdisk.
    pub(crate) pid: Option<u32>,
    /// Those of this minor.
    pub(crate) minor: Option<i32>,
    /// Those of this image type.
    pub(crate) image_type: Option<OsString>,
    /// Those of this image path.
    pub(crate) path: Option<OsString>,
}

impl Filter {
    /// Whether the row is wanted.
    pub(crate) fn wants(&self, row: &Row) -> bool {
        let image = row.image.as_ref();
        (self.pid.is_none() || self.pid == row.pid)
            && (self.minor.is_none() || self.minor == row.minor)
            && self.image_type.as_ref().is_none_or(|wanted| image.is_some_and(|it| it.0 == *wanted))
            && self.path.as_ref().is_none_or(|wanted| image.is_some_and(|it| it.1 == *wanted))
    }
}

/// Type and path in `<type>:<path>`.
pub(crate) fn split_params(params: &OsStr) -> Option<(OsString, OsString)> {
    let bytes = params.as_bytes();
    let colon = bytes.iter().position(|&byte| byte == b':')?;
    let part = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    Some((part(&bytes[..colon]), part(&bytes[colon + 1..])))
}

/// The outer join. `tapdisks` has, in order, each number with its VBDs as the tapdisk lists them
/// (oldest first), or `None` where it did not say; `minors` are those that are reserved.
pub(crate) fn merge(minors: &[Minor], tapdisks: &[(u32, Option<Vec<Entry>>)]) -> Vec<Row> {
    let mut orphans: Vec<i32> = minors.iter().copied().map(i32::from).collect();
    let mut rows = Vec::new();
    for (pid, entries) in tapdisks {
        let vbds = entries.as_deref().and_then(|entries| rows_of(*pid, entries));
        let Some(vbds) = vbds.filter(|vbds| !vbds.is_empty()) else {
            rows.push(Row { pid: Some(*pid), ..Row::default() });
            continue;
        };
        orphans.retain(|orphan| vbds.iter().all(|vbd| vbd.minor != Some(*orphan)));
        rows.extend(vbds);
    }
    rows.extend(orphans.into_iter().map(|minor| Row { minor: Some(minor), ..Row::default() }));
    rows
}

/// A tapdisk's VBDs, newest first; `None` where one has parameters without a type, which makes
/// the whole answer count for nothing, as in tap-ctl.
fn rows_of(pid: u32, entries: &[Entry]) -> Option<Vec<Row>> {
    let row = |entry: &Entry| {
        let image = match entry.params.is_empty() {
            true => None,
            false => Some(split_params(&entry.params)?),
        };
        Some(Row { pid: Some(pid), minor: Some(entry.minor), state: Some(entry.state), image })
    };
    entries.iter().rev().map(row).collect()
}

/// Queries every tapdisk of the directory. One that is dead is left out; one that hangs shows its
/// number alone, after `timeout`.
pub(crate) fn list(dir: &ControlDir, timeout: Duration) -> Result<Vec<Row>> {
    let minors = dir.reserved()?;
    let tapdisks: Vec<_> =
        dir.tapdisks()?.into_iter().filter_map(|pid| ask(dir, pid, timeout)).collect();
    Ok(merge(&minors, &tapdisks))
}

/// Queries one tapdisk; empty where there is none of that number.
pub(crate) fn list_one(dir: &ControlDir, pid: u32, timeout: Duration) -> Vec<Row> {
    merge(&[], ask(dir, pid, timeout).as_slice())
}

fn ask(dir: &ControlDir, pid: u32, timeout: Duration) -> Option<(u32, Option<Vec<Entry>>)> {
    let client = Client::new(dir, pid).timeout(timeout);
    match client.list() {
        Ok(entries) => Some((pid, Some(entries))),
        Err(error) if error.kind() == ErrorKind::Gone => None,
        Err(_) => Some((pid, None)),
    }
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
