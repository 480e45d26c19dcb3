//! The join, the filter, and the real thing over sockets.

use std::os::unix::net::UnixListener;

use super::*;
use tapctl::{Call, Reply, minors, testing::StandIn};

const TIMEOUT: Duration = Duration::from_millis(200);

fn entry(minor: i32, params: &str) -> Entry {
    let state = if params.is_empty() { 2 } else { 0 };
    Entry { minor, state, params: params.into() }
}

fn row(pid: u32, minor: i32, path: &str) -> Row {
    Row {
        pid: Some(pid),
        minor: Some(minor),
        state: Some(0),
        image: Some(("ram".into(), path.into())),
    }
}

#[test]
fn the_newest_vbd_of_a_tapdisk_comes_first() {
    let tapdisks = [(7, Some(vec![entry(0, "ram:/a"), entry(1, "ram:/b"), entry(2, "")]))];
    let closed = Row { pid: Some(7), minor: Some(2), state: Some(2), image: None };
    assert_eq!(merge(&[0, 1, 2], &tapdisks), [closed, row(7, 1, "/b"), row(7, 0, "/a")]);
}

#[test]
fn tapdisks_without_vbds_and_minors_without_tapdisks() {
    let idle = |pid| Row { pid: Some(pid), ..Row::default() };
    let orphan = |minor| Row { minor: Some(minor), ..Row::default() };
    let tapdisks = [
        (1, Some(vec![])),
        (2, None),
        (3, Some(vec![entry(5, "no colon")])),
        (4, Some(vec![entry(6, "ram:/x")])),
    ];
    assert_eq!(
        merge(&[10, 5, 6, 9], &tapdisks),
        [idle(1), idle(2), idle(3), row(4, 6, "/x"), orphan(10), orphan(5), orphan(9)]
    );
    assert!(merge(&[], &[]).is_empty());
}

#[test]
fn parameters_are_divided_at_the_first_colon() {
    assert_eq!(split_params(OsStr::new("ram:/a:b")), Some(("ram".into(), "/a:b".into())));
    assert_eq!(split_params(OsStr::new(":")), Some(("".into(), "".into())));
    assert_eq!(split_params(OsStr::new("ram")), None);
}

#[test]
fn filters() {
    let row = row(7, 1, "/b");
    let idle = Row { pid: Some(7), ..Row::default() };
    let wants = |filter: Filter| (filter.wants(&row), filter.wants(&idle));
    let none = Filter::default;
    assert_eq!(wants(none()), (true, true));
    assert_eq!(wants(Filter { pid: Some(7), ..none() }), (true, true));
    assert_eq!(wants(Filter { pid: Some(8), ..none() }), (false, false));
    assert_eq!(wants(Filter { minor: Some(1), ..none() }), (true, false));
    assert_eq!(wants(Filter { image_type: Some("ram".into()), ..none() }), (true, false));
    assert_eq!(wants(Filter { path: Some("/c".into()), ..none() }), (false, false));
}

#[test]
fn living_dead_and_hanging_tapdisks() {
    let root = tempfile::tempdir().unwrap();
    let dir = ControlDir::new(root.path());
    let minors: Vec<_> = (0..2).map(|_| minors::allocate(&dir, TIMEOUT).unwrap()).collect();
    assert_eq!(minors, [0, 1]);
    let _living = StandIn::start(&dir, 10, |request| match request.call {
        Call::List => Reply::List(vec![entry(1, "ram:/v")]),
        _ => Reply::Done,
    });
    drop(UnixListener::bind(dir.ctl(11)).unwrap());
    let _hanging = UnixListener::bind(dir.ctl(12)).unwrap();
    let hanging = Row { pid: Some(12), ..Row::default() };
    let orphan = Row { minor: Some(0), ..Row::default() };
    let rows = list(&dir, TIMEOUT).unwrap();
    assert_eq!(rows, [row(10, 1, "/v"), hanging.clone(), orphan]);
    assert_eq!(list_one(&dir, 10, TIMEOUT), [row(10, 1, "/v")]);
    assert_eq!(list_one(&dir, 12, TIMEOUT), [hanging]);
    assert!(list_one(&dir, 11, TIMEOUT).is_empty() && list_one(&dir, 99, TIMEOUT).is_empty());
}
