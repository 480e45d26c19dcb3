//! A disk that is mirrored while its guest writes: the messages about it, and everything that comes between.

use std::{thread, time::Duration};

use blkif::mock::{FrontendRequest, GuestDisk};
use rustix::io::Errno;
use tapctl::{Client, Copy, ErrorKind, HeldRanges, Mirror, MirrorStage, MirrorStatus, Resume};

use crate::host::{Host, PATIENCE, frontend};

const BYTES: usize = 8 << 20;
const SOURCE: u16 = 0;
const DESTINATION: u16 = 1;
const OPERATION: u64 = 7;

/// A source of `byte` and a destination of other bytes, in one process, which mirrors to itself.
fn host() -> Host {
    let host = Host::start();
    host.open(SOURCE, &host.image("source", BYTES, 0x11));
    host.open(DESTINATION, &host.image("destination", BYTES, 0x22));
    host
}

fn mirror(host: &Host) -> tapctl::Result<()> {
    let socket = host.dir.nbd(host.pid, DESTINATION);
    let remote = format!("nbd+unix:///x?socket={}", socket.display()).into();
    host.client().mirror(SOURCE, Mirror { operation: OPERATION, remote })
}

fn status(client: &Client, wait: Duration) -> MirrorStage {
    client.mirror_status(SOURCE, OPERATION, wait).unwrap().stage
}

fn until_in_sync(host: &Host) {
    while status(&host.client(), Duration::from_secs(5)) == MirrorStage::Copying {}
    assert_eq!(status(&host.client(), Duration::ZERO), MirrorStage::InSync);
}

fn assert_refused<T: std::fmt::Debug>(done: tapctl::Result<T>, errno: Errno) {
    let error = done.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote(errno.raw_os_error()), "{error}");
}

/// What a guest's ring does to its disk, and to a vector of bytes.
fn write(disk: &mut GuestDisk, model: &mut [u8], number: usize) {
    let at = number.wrapping_mul(7919) % (BYTES / 4096 - 11) * 4096;
    match number % 8 {
        0 => {
            disk.ask(&FrontendRequest::Discard(at as u64 / 512, 8)).unwrap();
            model[at..at + 4096].fill(0);
        }
        _ => {
            let bytes = vec![number as u8; 4096 * (1 + number % 8)];
            disk.write(at as u64, &bytes).unwrap();
            model[at..at + bytes.len()].copy_from_slice(&bytes);
        }
    }
}

/// Through the ring, from before the mirror begins to the moment at which the disk is closed.
#[test]
fn what_a_guest_writes_is_mirrored_until_its_disk_is_closed() {
    let host = host();
    let guest = host.guest(4);
    let (mut disk, ring) = frontend(&guest, 0);
    host.client().connect(SOURCE, ring).unwrap();
    let mut model = vec![0x11; BYTES];
    (1..100).for_each(|number| write(&mut disk, &mut model, number));
    mirror(&host).unwrap();
    (100..600).for_each(|number| write(&mut disk, &mut model, number));
    until_in_sync(&host);
    (600..1000).for_each(|number| write(&mut disk, &mut model, number));
    // An NBD client beside it.
    let mut client = host.nbd(SOURCE);
    client.write(512, b"at the last moment").unwrap();
    model[512..530].copy_from_slice(b"at the last moment");
    host.client().close(SOURCE).unwrap();
    assert_eq!(status(&host.client(), PATIENCE), MirrorStage::Finished);
    assert!(host.nbd(DESTINATION).read(0, BYTES as u32).unwrap() == model);
}

/// A pause lets other programs change the disk; the mirror goes on when it is resumed.
#[test]
fn a_pause_is_survived() {
    let host = host();
    mirror(&host).unwrap();
    host.client().pause(SOURCE).unwrap();
    thread::sleep(Duration::from_millis(50));
    let before = status(&host.client(), Duration::ZERO);
    host.client().resume(SOURCE, Resume::default()).unwrap();
    until_in_sync(&host);
    host.client().pause(SOURCE).unwrap();
    assert!(matches!(before, MirrorStage::Copying | MirrorStage::InSync), "{before:?}");
    host.client().resume(SOURCE, Resume::default()).unwrap();
    host.nbd(SOURCE).write(4096, &[9; 4096]).unwrap();
    let finished = host.client().mirror_finish(SOURCE, OPERATION).unwrap();
    assert_eq!(
        finished,
        MirrorStatus { stage: MirrorStage::Finished, progress_millionths: 1_000_000 }
    );
    let source = host.nbd(SOURCE).read(0, BYTES as u32).unwrap();
    assert!(host.nbd(DESTINATION).read(0, BYTES as u32).unwrap() == source);
    // A disk that is closed while it is paused cannot be sent any more.
    mirror(&host).unwrap();
    until_in_sync(&host);
    host.client().pause(SOURCE).unwrap();
    host.client().close(SOURCE).unwrap();
    let failed = status(&host.client(), Duration::ZERO);
    assert!(matches!(&failed, MirrorStage::Failed { reason, .. } if reason.contains("closed")));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let host = host();
    let client = host.client();
    assert_refused(client.mirror_status(SOURCE, OPERATION, PATIENCE), Errno::NOENT);
    assert_refused(client.mirror_finish(SOURCE, OPERATION), Errno::NOENT);
    assert_refused(client.mirror_cancel(SOURCE, OPERATION), Errno::NOENT);
    let nowhere = |remote: &str| Mirror { operation: 9, remote: remote.into() };
    assert_refused(client.mirror(SOURCE, nowhere("nbd://host/export")), Errno::INVAL);
    assert_refused(client.mirror(9, nowhere("nbd+unix:///?socket=/s")), Errno::NODEV);
    client.attach(2).unwrap();
    assert_refused(client.mirror(2, nowhere("nbd+unix:///?socket=/s")), Errno::BADF);
    mirror(&host).unwrap();
    assert_refused(mirror(&host), Errno::BUSY);
    client.mirror_cancel(SOURCE, OPERATION).unwrap();
    assert!(matches!(status(&client, PATIENCE), MirrorStage::Failed { .. }));
    mirror(&host).unwrap();
    until_in_sync(&host);
}

/// Parts of a disk, whose list lies with the caller: it is read before the answer, and one that is gone is refused.
#[test]
fn parts_of_a_disk_are_copied_beside_its_clients() {
    let host = host();
    let socket = host.dir.nbd(host.pid, DESTINATION);
    let remote = format!("nbd+unix:///x?socket={}", socket.display());
    let copy = |operation: u64, ranges: &HeldRanges| Copy {
        operation,
        remote: remote.clone().into(),
        ranges: ranges.list(),
    };
    let parts = [4096..12288, 1 << 20..(1 << 20) + 512];
    let held = HeldRanges::new(&parts).unwrap();
    let client = host.client();
    client.copy(SOURCE, copy(OPERATION, &held)).unwrap();
    let gone = copy(8, &held);
    drop(held);
    // It waits for the end, and ends nothing itself.
    let finished = client.mirror_finish(SOURCE, OPERATION).unwrap();
    assert_eq!(finished.stage, MirrorStage::Finished);
    let mut expected = vec![0x22; BYTES];
    for part in parts {
        expected[part.start as usize..part.end as usize].fill(0x11);
    }
    assert!(host.nbd(DESTINATION).read(0, BYTES as u32).unwrap() == expected);
    assert_refused(client.copy(SOURCE, gone), Errno::INVAL);
    // Beyond the end of the disk.
    let held = HeldRanges::new(&[0..512, 512..BYTES as u64 + 512]).unwrap();
    client.copy(SOURCE, copy(9, &held)).unwrap();
    let stage = client.mirror_status(SOURCE, 9, PATIENCE).unwrap().stage;
    assert!(
        matches!(&stage, MirrorStage::Failed { reason, .. } if reason.contains("not in a disk"))
    );
}

/// A process that is told to end answers those who wait for a mirror, and ends no later for it.
#[test]
fn a_process_that_ends_gives_mirrors_up() {
    let mut host = host();
    let remote = "nbd+unix:///x?socket=/no/such/socket".into();
    host.client().mirror(SOURCE, Mirror { operation: OPERATION, remote }).unwrap();
    let client = host.client();
    let waiting = thread::spawn(move || status(&client, PATIENCE));
    thread::sleep(Duration::from_millis(100));
    host.terminate();
    let stage = waiting.join().unwrap();
    assert!(matches!(&stage, MirrorStage::Failed { reason, .. } if reason.contains("told to end")));
    host.ends();
}
