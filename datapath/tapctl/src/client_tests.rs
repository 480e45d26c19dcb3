//! The client against the server half over real sockets, and against tapdisks that are broken.

use std::{io::Write, os::unix::net::UnixListener, thread, time::Instant};

use super::*;
use crate::{
    connection,
    reply::{Failure, Reply, state},
    testing::StandIn,
};

const SHORT: Duration = Duration::from_millis(150);

fn dir() -> (tempfile::TempDir, ControlDir) {
    let root = tempfile::tempdir().unwrap();
    let dir = ControlDir::new(root.path());
    (root, dir)
}

fn entries() -> Vec<Entry> {
    vec![
        Entry { minor: 1, state: state::RUNNING, params: "ram:/a".into() },
        Entry { minor: 2, state: state::CLOSED, params: "".into() },
    ]
}

/// A tapdisk where all goes well.
fn obliging(request: &Request) -> Reply {
    let image = Image { sectors: 2048, sector_size: 512, info: 0 };
    match &request.call {
        Call::Pid => Reply::Pid(42),
        Call::Open(_) | Call::DiskInfo => Reply::Image(image),
        Call::List => Reply::List(entries()),
        Call::ListMinors => Reply::Minors(vec![1, 2]),
        Call::Stats => Reply::Stats(b"{ \"name\": \"ram:/a\" }".to_vec()),
        Call::Identify => Reply::Identity(Identification::ours("0.1.0")),
        Call::Serving => Reply::Serving(Serving {
            path: Some("/v".into()),
            read_only: true,
            size_bytes: 1 << 20,
        }),
        Call::Clients => Reply::Clients(Clients { count: 2, unused_for: Duration::ZERO }),
        _ => Reply::Done,
    }
}

fn ring() -> Ring {
    Ring {
        domid: 1,
        devid: 51712,
        grefs: [8; 8],
        order: 0,
        protocol: 1,
        pool: Some("".into()),
        port: 3,
        poll_duration: 0,
        poll_idle_threshold: 0,
    }
}

#[test]
fn every_call_there_and_back() {
    let (_root, dir) = dir();
    let tapdisk = StandIn::start(&dir, 42, obliging);
    let client = Client::new(&dir, 42);
    let image = Image { sectors: 2048, sector_size: 512, info: 0 };
    assert_eq!((client.number(), client.pid().unwrap()), (42, 42));
    client.attach(3).unwrap();
    assert_eq!(client.open(3, Open::new("ram:/a").flags(Flags::READ_ONLY)).unwrap(), image);
    assert_eq!(client.disk_info(3).unwrap(), image);
    client.pause(3).unwrap();
    client.resume(3, Resume { params: Some("ram:/b".into()), ..Resume::default() }).unwrap();
    assert_eq!(client.list().unwrap(), entries());
    assert_eq!(client.list_minors().unwrap(), [1, 2]);
    assert_eq!(client.stats(3).unwrap(), "{ \"name\": \"ram:/a\" }");
    client.connect(3, ring()).unwrap();
    client.disconnect(1, 51712).unwrap();
    assert_eq!(client.identify().unwrap(), Some(Identification::ours("0.1.0")));
    let serving = client.serving(3).unwrap();
    assert_eq!((serving.path, serving.read_only), (Some("/v".into()), true));
    client.switch(3, Switch { new_top: 9, index: "/c".into() }).unwrap();
    client.resize(3, 1 << 40).unwrap();
    client.sole(3).unwrap();
    assert_eq!(client.clients(3).unwrap().count, 2);
    client.close(3).unwrap();
    client.force_shutdown(3).unwrap();
    client.detach(3).unwrap();
    client.exit().unwrap();
    let requests = tapdisk.requests();
    let kinds: Vec<u16> = requests.iter().map(|request| request.call.kind()).collect();
    let expected = [
        3, 5, 7, 28, 9, 11, 19, 17, 21, 24, 26, 0x5201, 0x5203, 0x5205, 0x5207, 0x5209, 0x520d, 13,
        23, 15, 30,
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn what_the_tapdisk_refuses_keeps_its_number_and_text() {
    let (_root, dir) = dir();
    let _tapdisk =
        StandIn::start(&dir, 42, |_| Failure::new(Errno::ALREADY, "it is open already").into());
    let client = Client::new(&dir, 42);
    let error = client.open(3, Open::new("ram:/a")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote(114));
    assert_eq!((error.errno(), error.detail()), (114, "it is open already"));
    assert!(error.to_string().starts_with("cannot open minor 3 of tapdisk 42"), "{error}");
    assert_eq!(client.list().unwrap_err().kind(), ErrorKind::Remote(114));
    assert_eq!(client.stats(1).unwrap_err().kind(), ErrorKind::Remote(114));
}

#[test]
fn a_foreign_tapdisk_is_recognised_by_its_einval() {
    let (_root, dir) = dir();
    let _tapdisk = StandIn::start(&dir, 42, |_| Errno::INVAL.into());
    assert_eq!(Client::new(&dir, 42).identify().unwrap(), None);
}

#[test]
fn a_dead_tapdisk_is_gone() {
    let (_root, dir) = dir();
    let error = Client::new(&dir, 42).pid().unwrap_err();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Gone, Errno::NOENT.raw_os_error()));
    drop(UnixListener::bind(dir.ctl(42)).unwrap());
    let error = Client::new(&dir, 42).pid().unwrap_err();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Gone, Errno::CONNREFUSED.raw_os_error()));
}

#[track_caller]
fn times_out(client: &Client) {
    let begun = Instant::now();
    let error = client.clone().timeout(SHORT).pid().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(begun.elapsed() >= SHORT && begun.elapsed() < SHORT * 20);
}

#[test]
fn a_tapdisk_that_hangs_hits_the_deadline() {
    let (_root, dir) = dir();
    let _deaf = UnixListener::bind(dir.ctl(42)).unwrap();
    times_out(&Client::new(&dir, 42));
}

#[test]
fn a_queue_that_is_full_hits_the_deadline_too() {
    let (_root, dir) = dir();
    let _deaf = crate::Listener::bind(&dir, 42).unwrap();
    // A connection that was closed again keeps its place until it is accepted.
    let places = (0..1000).take_while(|_| connection::probe(&dir.ctl(42)).is_ok()).count();
    assert!((1..1000).contains(&places), "the queue has an end");
    times_out(&Client::new(&dir, 42));
}

/// A tapdisk that says just this to its first client, and then nothing.
fn saying(dir: &ControlDir, bytes: Vec<u8>, and_close: bool) -> thread::JoinHandle<()> {
    let listener = UnixListener::bind(dir.ctl(42)).unwrap();
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut request = [0; 544];
        std::io::Read::read_exact(&mut client, &mut request).unwrap();
        client.write_all(&bytes).unwrap();
        if !and_close {
            thread::sleep(SHORT * 2);
        }
    })
}

#[test]
fn half_an_answer_is_an_error() {
    for (and_close, kind) in [(true, ErrorKind::Lost), (false, ErrorKind::Timeout)] {
        let (_root, dir) = dir();
        let tapdisk = saying(&dir, vec![4; 543], and_close);
        let error = Client::new(&dir, 42).timeout(SHORT).pid().unwrap_err();
        assert_eq!(error.kind(), kind);
        tapdisk.join().unwrap();
    }
}

#[test]
fn an_answer_to_something_else_is_not_taken() {
    let (_root, dir) = dir();
    let tapdisk = saying(&dir, Raw::new(kind::ATTACH_RSP, 0).as_bytes().to_vec(), true);
    let error = Client::new(&dir, 42).pid().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(error.to_string().contains("message 6 instead of 4"), "{error}");
    tapdisk.join().unwrap();
}

#[test]
fn an_error_inside_of_a_proper_answer_is_one() {
    let (_root, dir) = dir();
    let mut raw = Raw::new(kind::PAUSE_RSP, 0);
    raw.put_i32(8, -19);
    let tapdisk = saying(&dir, raw.as_bytes().to_vec(), true);
    assert_eq!(Client::new(&dir, 42).pause(0).unwrap_err().kind(), ErrorKind::Remote(19));
    tapdisk.join().unwrap();
}

#[test]
fn statistics_beyond_measure_are_not_waited_for() {
    let (_root, dir) = dir();
    let mut raw = Raw::new(kind::STATS_RSP, 0);
    raw.put_u64(16, u64::MAX);
    let tapdisk = saying(&dir, raw.as_bytes().to_vec(), true);
    assert_eq!(Client::new(&dir, 42).stats(0).unwrap_err().kind(), ErrorKind::Protocol);
    tapdisk.join().unwrap();
}

#[test]
fn what_cannot_be_sent_is_said_before_sending() {
    let (root, dir) = dir();
    let client = Client::new(&dir, 42);
    for open in [
        Open::new("x".repeat(256)),
        Open::new("a\0b"),
        Open::new("ram:/a").flags(Flags::ADD_LOG),
        Open::new("ram:/a").flags(Flags::ENCRYPTED),
    ] {
        assert_eq!(client.open(0, open).unwrap_err().kind(), ErrorKind::Invalid);
    }
    let far = ControlDir::new(root.path().join("x".repeat(100)));
    let error = Client::new(&far, 42).pid().unwrap_err();
    assert_eq!(
        (error.kind(), error.errno()),
        (ErrorKind::Invalid, Errno::NAMETOOLONG.raw_os_error())
    );
}
