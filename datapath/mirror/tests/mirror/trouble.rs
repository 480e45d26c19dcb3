//! Destinations that fail: the mirror fails with them, and the disk goes on untouched.

use std::time::{Duration, Instant};

use mirror::{ErrorKind, State, Transfer};

use crate::{
    server::{Manner, Server, Trouble},
    source::{
        LIMITS, connect, contents, cut_over, mirror, run, source, until_failed, until_in_sync,
    },
};

const SIZE: u64 = 8 << 20;

#[test]
fn a_disk_that_does_not_fit_is_refused_with_both_sizes() {
    let server = Server::start(Manner { size: SIZE - 512, ..Manner::default() });
    let mut drive = source(SIZE);
    let mut transfer = mirror(&server.uri(), &mut drive);
    let error = until_failed(&mut transfer, &mut drive);
    assert_eq!(error.kind(), ErrorKind::Unfit);
    assert!(
        error.to_string().contains("8388096") && error.to_string().contains("8388608"),
        "{error}"
    );
    let flags = 0b11;
    let server = Server::start(Manner { flags, ..Manner::default() });
    let mut transfer = mirror(&server.uri(), &mut drive);
    let error = until_failed(&mut transfer, &mut drive);
    assert!(error.to_string().contains("read-only"), "{error}");
    let copy = |range| {
        let (socket, remote) = connect(&server.uri()).unwrap();
        Transfer::copy(socket, &remote, vec![range], SIZE, LIMITS, Instant::now())
    };
    assert_eq!(copy(0..SIZE + 1).unwrap_err().kind(), ErrorKind::Disk);
}

/// Before it is in sync, and after xapi was told that it is: failed, and not complete.
#[test]
fn whatever_the_server_does_is_told_and_the_disk_is_as_it_was() {
    let each = [
        // The whole disk takes 32 requests.
        (Trouble::Leave, ErrorKind::Closed, &[0, 5, 32, 40][..]),
        (Trouble::Hang, ErrorKind::Stalled, &[5, 40]),
        (Trouble::Full, ErrorKind::Refused, &[0, 5, 32, 40]),
        (Trouble::Confuse, ErrorKind::Protocol, &[0, 5, 32, 40]),
    ];
    for (trouble, kind, moments) in each {
        for &after in moments {
            let requests = Some((after, trouble));
            let server = Server::start(Manner { requests, ..Manner::default() });
            let mut drive = source(SIZE);
            let mut before = contents(&mut drive);
            let mut transfer = mirror(&server.uri(), &mut drive);
            let mut number = 0;
            run(
                &mut transfer,
                &mut drive,
                |drive| {
                    number += 1;
                    drive.write(number % 2000 * 4096, &number.to_le_bytes()).unwrap();
                    let at = (number % 2000 * 4096) as usize;
                    before[at..at + 8].copy_from_slice(&number.to_le_bytes());
                },
                |_| false,
            );
            let State::Failed(error) = transfer.state() else { panic!("{:?}", transfer.state()) };
            assert_eq!(error.kind(), kind, "{trouble:?} after {after}: {error}");
            assert!(contents(&mut drive) == before, "{trouble:?}");
            // A cut-over does not make it good.
            transfer.finish();
            cut_over(&mut transfer, &mut drive);
            assert!(transfer.status().failed && !transfer.status().complete);
        }
    }
}

/// The end of the connection is seen while there is nothing to send.
#[test]
fn a_server_that_leaves_an_idle_mirror_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let leaving = std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let (magic, style) = (nbd::wire::GREETING_MAGIC, nbd::wire::OLD_STYLE_MAGIC);
        let greeting = nbd::wire::OldGreeting { magic, style, size: 0, flags: 1 };
        std::io::Write::write_all(&mut &socket, &greeting.to_bytes()).unwrap();
        std::io::Write::write_all(&mut &socket, &[0; 124]).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    });
    let mut drive = source(0x10000);
    let (socket, remote) = connect(&format!("nbd+unix:///x?socket={}", path.display())).unwrap();
    let copy = Transfer::copy(socket, &remote, Vec::new(), 0x10000, LIMITS, Instant::now());
    let mut copy = copy.unwrap();
    let error = until_failed(&mut copy, &mut drive);
    assert_eq!(error.kind(), ErrorKind::Unfit);
    leaving.join().unwrap();
}

/// A server that is slow, and not dead: the mirror goes on, and its memory does not grow with what the
/// guest writes meanwhile.
#[test]
fn a_slow_server_is_waited_for() {
    let delay = Duration::from_millis(20);
    let server = Server::start(Manner { delay, ..Manner::default() });
    let mut drive = source(SIZE);
    let mut transfer = mirror(&server.uri(), &mut drive);
    let mut number = 0_u64;
    let write = |drive: &mut block::Drive<block::memory::Memory>| {
        number += 1;
        drive.write(number % 100 * 4096, &[number as u8; 4096]).unwrap();
    };
    run(&mut transfer, &mut drive, write, |it| it.status().complete);
    cut_over(&mut transfer, &mut drive);
    assert_eq!(transfer.state(), State::Finished);
    assert!(server.seen().bytes == contents(&mut drive));
}

/// Where the source itself cannot be read, the mirror fails and says where.
#[test]
fn a_disk_that_cannot_be_read_fails_its_mirror() {
    let server = Server::start(Manner::default());
    let mut drive = source(SIZE);
    let mut transfer = mirror(&server.uri(), &mut drive);
    until_in_sync(&mut transfer, &mut drive);
    drive.write(3 << 20, b"new").unwrap();
    drive.structure().fail_next = Some(std::io::Error::other("a bad page"));
    let error = until_failed(&mut transfer, &mut drive);
    assert_eq!(error.kind(), ErrorKind::Disk);
    assert!(error.to_string().contains("3145728: a bad page"), "{error}");
}

/// Nothing is left behind: the bitmap of a mirror that is over marks nothing any more.
#[test]
fn a_mirror_that_is_over_follows_no_changes() {
    let server = Server::start(Manner::default());
    let mut drive = source(SIZE);
    let mut transfer = mirror(&server.uri(), &mut drive);
    until_in_sync(&mut transfer, &mut drive);
    let (disk, mut attachments) = drive.detach();
    transfer.cancel(&mut attachments);
    transfer.cancel(&mut attachments);
    assert!(transfer.status().failed && transfer.due(&attachments).is_none());
    let mut drive = block::Drive::with(disk, attachments);
    let free = drive.track(block::Dirty::new());
    assert_eq!(format!("{free:?}"), "Tracker(0)", "its bitmap is gone");
}
