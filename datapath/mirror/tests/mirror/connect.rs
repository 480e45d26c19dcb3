//! The one connection: to a socket that is not there yet, that is refused, or that is never accepted.

use std::{
    os::unix::net::UnixListener,
    thread,
    time::{Duration, Instant},
};

use mirror::{ErrorKind, Limits};

use crate::source::{LIMITS, connect, connect_with, mirror, source, until_failed};

/// Data.mirror may come before the proxy's socket exists, and before it listens.
#[test]
fn a_socket_that_comes_a_moment_later_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let uri = format!("nbd+unix:///x?socket={}", path.display());
    // A socket on which no process listens, as a proxy leaves between bind and listen.
    drop(UnixListener::bind(&path).unwrap());
    let later = thread::spawn(move || {
        thread::sleep(Duration::from_millis(100));
        std::fs::remove_file(&path).unwrap();
        thread::sleep(Duration::from_millis(100));
        let listener = UnixListener::bind(&path).unwrap();
        let accepted = listener.accept().unwrap();
        listener.set_nonblocking(true).unwrap();
        thread::sleep(Duration::from_millis(100));
        (accepted, listener.accept().map(drop))
    });
    let (_socket, _) =
        connect_with(&uri, Limits { connect: Duration::from_secs(20), ..LIMITS }).unwrap();
    let (_, second) = later.join().unwrap();
    second.unwrap_err();
}

#[test]
fn a_socket_that_never_comes_is_an_error_after_some_time() {
    let begun = Instant::now();
    let error = connect("nbd+unix:///x?socket=/nonexistent/s").unwrap_err();
    assert!(begun.elapsed() >= LIMITS.connect);
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.to_string().contains("/nonexistent/s"), "{error}");
}

/// A second connection to xapi's proxy is taken by the kernel and never served: so is a first one to a
/// proxy whose other host does not answer.
#[test]
fn a_server_that_never_greets_is_an_error_after_some_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let _listener = UnixListener::bind(&path).unwrap();
    let mut drive = source(1 << 20);
    let mut transfer = mirror(&format!("nbd+unix:///x?socket={}", path.display()), &mut drive);
    let error = until_failed(&mut transfer, &mut drive);
    assert_eq!(error.kind(), ErrorKind::Stalled);
    assert!(error.to_string().contains("negotiate"), "{error}");
}

/// Where so many wait already that the kernel takes no more, it is tried again, without waiting for it.
#[test]
fn a_full_queue_is_no_reason_to_wait() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let _listener = UnixListener::bind(&path).unwrap();
    let uri = format!("nbd+unix:///x?socket={}", path.display());
    let mut kept = Vec::new();
    let begun = Instant::now();
    let error = loop {
        match connect(&uri) {
            Ok(connected) => kept.push(connected),
            Err(error) => break error,
        }
        assert!(begun.elapsed() < Duration::from_secs(30));
    };
    assert_eq!(error.kind(), ErrorKind::Unreachable);
}
