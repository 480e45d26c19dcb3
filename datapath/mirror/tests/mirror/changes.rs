//! A disk that changes while it is copied: the destination is equal to it at the end, whatever order the
//! server does things in.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use block::{Budget, Drive, memory::Memory};
use mirror::State;
use nbd::serve::{Greeting, serve};

use crate::{
    server::{Manner, Server},
    source::{
        Random, contents, cut_over, data_bytes, mirror, run, source, until_failed, until_in_sync,
    },
};

const SIZE: u64 = 8 << 20;

/// One change of the disk, as a guest makes it.
fn change(drive: &mut Drive<Memory>, random: &mut Random) {
    let length = [512, 4096, 4096, 65536, 262_144][random.below(5) as usize];
    // Often the same few places, so that what is in flight is changed again.
    let slots = if random.below(2) == 0 { 4 } else { (SIZE - length) / 512 };
    let offset = random.below(slots) * 512;
    match random.below(8) {
        0 => drop(drive.discard(offset, length)),
        1 => drop(drive.write_zeroes(offset, length, random.below(2) == 0)),
        // Large enough to be done in steps.
        2 => drop(drive.discard(0, 6 << 20)),
        _ => drive.write(offset, &vec![random.next() as u8; length as usize]).unwrap(),
    }
    if random.below(4) == 0 {
        drive.work(&mut Budget::bytes(1 << 20));
    }
}

/// What was changed while it was in flight is sent again, and not before the answer: the server does
/// what it has in any order.
#[test]
fn whatever_changes_meanwhile_is_there_in_the_end() {
    for seed in 1..=12 {
        // One that takes its time has many requests at a time.
        let delay = Duration::from_micros(seed % 3 * 100);
        let server = Server::start(Manner { seed, delay, ..Manner::default() });
        let mut drive = source(SIZE);
        let mut random = Random(seed);
        let mut transfer = mirror(&server.uri(), &mut drive);
        let mut turns = 0;
        run(
            &mut transfer,
            &mut drive,
            |drive| {
                turns += 1;
                if turns < 3000 {
                    (0..random.below(4)).for_each(|_| change(drive, &mut random));
                }
            },
            |transfer| transfer.state() == State::InSync,
        );
        // A guest writes on after xapi was told that the mirror is complete.
        let more = Cell::new(1000);
        run(
            &mut transfer,
            &mut drive,
            |drive| {
                more.set(more.get() - 1);
                change(drive, &mut random);
            },
            |_| more.get() == 0,
        );
        while drive.work(&mut Budget::turn()) {}
        cut_over(&mut transfer, &mut drive);
        assert_eq!(transfer.state(), State::Finished, "seed {seed}");
        let seen = server.seen();
        assert!(seen.bytes == contents(&mut drive), "seed {seed}");
        assert_eq!(seen.overlaps, 0, "seed {seed}");
    }
}

/// A guest that writes without pause does not keep a migration from ending.
#[test]
fn a_guest_that_never_rests_does_not_keep_the_mirror_from_being_in_sync() {
    let server = Server::start(Manner { size: 24 << 20, ..Manner::default() });
    let mut drive = source(24 << 20);
    let mut transfer = mirror(&server.uri(), &mut drive);
    let all = |drive: &mut Drive<Memory>| {
        (0..384).for_each(|granule| drive.write(granule << 16, &[1]).unwrap());
    };
    run(&mut transfer, &mut drive, all, |transfer| transfer.status().complete);
    assert!(transfer.status().complete);
    cut_over(&mut transfer, &mut drive);
    assert!(server.seen().bytes == contents(&mut drive));
}

/// A granule that is written again and again is sent a few times, not each time.
#[test]
fn changes_of_a_granule_are_gathered() {
    let server = Server::start(Manner::default());
    let mut drive = source(SIZE);
    let mut transfer = mirror(&server.uri(), &mut drive);
    until_in_sync(&mut transfer, &mut drive);
    let before = server.seen().written_bytes;
    let begun = Instant::now();
    let mut writes = 0;
    run(
        &mut transfer,
        &mut drive,
        |drive| {
            for at in 0..16 {
                drive.write(at * 4096, &[writes as u8; 4096]).unwrap();
                writes += 1;
            }
        },
        |_| begun.elapsed() > Duration::from_millis(100),
    );
    let sent = (server.seen().written_bytes - before) / 65536;
    // A millisecond is gathered at a time.
    assert!((1..=120).contains(&sent), "{sent} times for {writes} writes");
}

/// A pause is for programs that change the disk, which no mark tells of.
#[test]
fn after_a_pause_all_is_sent_again() {
    let server = Server::start(Manner::default());
    let mut drive = source(SIZE);
    let mut transfer = mirror(&server.uri(), &mut drive);
    until_in_sync(&mut transfer, &mut drive);
    let (mut disk, attachments) = drive.detach();
    block::Disk::write(&mut disk, 5 << 20, b"behind its back").unwrap();
    let mut drive = Drive::with(disk, attachments);
    transfer.resumed(&mut drive, Instant::now());
    cut_over(&mut transfer, &mut drive);
    assert_eq!(transfer.state(), State::Finished);
    assert!(server.seen().bytes == contents(&mut drive));
}

#[test]
fn a_disk_that_changes_its_size_has_no_mirror_any_more() {
    let server = Server::start(Manner::default());
    let mut drive = source(SIZE);
    let mut transfer = mirror(&server.uri(), &mut drive);
    until_in_sync(&mut transfer, &mut drive);
    let (_, attachments) = drive.detach();
    let mut drive = Drive::with(Memory::new(SIZE + 4096).unwrap(), attachments);
    let error = until_failed(&mut transfer, &mut drive);
    assert!(error.to_string().contains("resized from 8388608 to 8392704"), "{error}");
}

/// A server of ours with a disk of `size` bytes, to which `before` was done. What `each` finds is
/// returned with the disk's own data bytes when the mirror was cut over.
fn to_our_server(
    drive: &mut Drive<Memory>,
    before: impl FnOnce(&mut Drive<Memory>) + Send,
) -> (mirror::Counters, Vec<u8>, u64) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let size = drive.size();
    thread::scope(|scope| {
        let serving = scope.spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut disk = Drive::new(Memory::new(size).unwrap());
                before(&mut disk);
                serve(&listener, Greeting::New, &mut disk, &stop).unwrap();
                assert_ne!(disk.structure().flushes, 0, "a server that can flush is told to");
                (contents(&mut disk), data_bytes(&mut disk))
            }
        });
        let mut transfer = mirror(&format!("nbd+unix:///x?socket={}", path.display()), drive);
        until_in_sync(&mut transfer, drive);
        cut_over(&mut transfer, drive);
        assert_eq!(transfer.state(), State::Finished);
        stop.store(true, Ordering::Relaxed);
        let (bytes, allocated) = serving.join().unwrap();
        (transfer.counters(), bytes, allocated)
    })
}

/// Not a byte is sent for a hole where the destination is blank, and the destination stays thin.
#[test]
fn holes_cost_nothing_where_the_destination_is_blank() {
    let mut drive = source(64 << 20);
    let data = data_bytes(&mut drive);
    let (counters, bytes, allocated) = to_our_server(&mut drive, |_| {});
    assert!(bytes == contents(&mut drive));
    assert_eq!((counters.data_bytes, counters.zeroed_bytes), (data, 0));
    assert_eq!((counters.skipped_bytes, allocated), ((64 << 20) - data, data));
}

/// A destination that is a clone of something else has data where the source has a hole.
#[test]
fn holes_are_zeroed_where_the_destination_has_anything() {
    let mut drive = source(64 << 20);
    let data = data_bytes(&mut drive);
    let (counters, bytes, allocated) = to_our_server(&mut drive, |disk| {
        let mut random = Random(7);
        for granule in 0..1024 {
            let length = [0, 4096, 65536][random.below(3) as usize];
            disk.write(granule << 16, &vec![0xaa; length]).unwrap();
        }
    });
    assert!(bytes == contents(&mut drive));
    assert_eq!(counters.data_bytes, data);
    assert_ne!(counters.zeroed_bytes, 0);
    assert_ne!(counters.skipped_bytes, 0);
    assert_eq!(allocated, data);
}

/// What becomes a hole after it was sent is no hole that may be skipped.
#[test]
fn what_is_discarded_after_it_was_sent_is_zeroed() {
    let mut drive = source(8 << 20);
    drive.write(0, &[7; 1 << 20]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| {
        let serving = scope.spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut disk = Drive::new(Memory::new(8 << 20).unwrap());
                serve(&listener, Greeting::New, &mut disk, &stop).unwrap();
                contents(&mut disk)
            }
        });
        let mut transfer = mirror(&format!("nbd+unix:///x?socket={}", path.display()), &mut drive);
        until_in_sync(&mut transfer, &mut drive);
        drop(drive.discard(0, 1 << 20));
        cut_over(&mut transfer, &mut drive);
        stop.store(true, Ordering::Relaxed);
        assert!(serving.join().unwrap() == contents(&mut drive));
    });
}
