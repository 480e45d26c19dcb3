//! What a drive promises to everything that uses it at the same time: replies that wait keep their
//! contents, large changes happen in steps and in the order they were asked for, bitmaps miss nothing.

use std::{cell::RefCell, io, ops::Range, rc::Rc};

use block::{
    Budget, Completion, Dirty, Drive, Extent, GRANULE_BYTES, Pinned, Started, memory::Memory,
};

const SIZE: u64 = 64 << 20;
const BLOCK: usize = 4096;

fn drive() -> Drive<Memory> {
    Drive::new(Memory::new(SIZE).unwrap())
}

fn read(drive: &mut Drive<Memory>, offset: u64, length: u32) -> Vec<u8> {
    let mut extents = Vec::new();
    drive.read(offset, length, &mut extents).unwrap();
    extents.iter().map(bytes).collect::<Vec<_>>().concat()
}

fn bytes(extent: &Extent) -> Vec<u8> {
    let mut bytes = vec![0; extent.length()];
    if let Extent::Data(slice) = extent {
        slice.read(0, &mut bytes);
    }
    bytes
}

fn later(started: Started) -> Completion {
    match started {
        Started::Later(completion) => completion,
        Started::Done(done) => panic!("done at once: {done:?}"),
    }
}

/// A reply that waits: it points into the disk until it is copied.
struct Reply {
    at: u64,
    extents: Vec<Extent>,
    copied: Option<Vec<u8>>,
}

impl Reply {
    fn new(drive: &mut Drive<Memory>, at: u64, length: u32) -> Rc<RefCell<Self>> {
        let mut extents = Vec::new();
        drive.read(at, length, &mut extents).unwrap();
        let reply = Rc::new(RefCell::new(Self { at, extents, copied: None }));
        drive.attachments().pins().register(&reply);
        reply
    }

    fn bytes(&self) -> Vec<u8> {
        self.copied.clone().unwrap_or_else(|| self.extents.iter().flat_map(bytes).collect())
    }
}

impl Pinned for Reply {
    fn copy_out(&mut self, range: Range<u64>) {
        let length: usize = self.extents.iter().map(Extent::length).sum();
        if range.start < self.at + length as u64 && self.at < range.end && self.copied.is_none() {
            self.copied = Some(self.bytes());
            self.extents.clear();
        }
    }
}

#[test]
fn a_reply_that_waits_keeps_its_contents_whatever_changes_the_disk() {
    let changes: [fn(&mut Drive<Memory>); 5] = [
        |drive| drive.write(BLOCK as u64 + 4000, &[2]).unwrap(),
        |drive| assert!(matches!(drive.discard(0, SIZE / 32), Started::Done(Ok(())))),
        |drive| assert!(matches!(drive.write_zeroes(4096, 1, false), Started::Done(Ok(())))),
        |drive| {
            let discard = later(drive.discard(0, SIZE));
            while !drive.work(&mut Budget::turn()) {}
            discard.take().unwrap().unwrap();
        },
        // An earlier discard that a write overtakes.
        |drive| {
            let _unwatched = later(drive.discard(0, SIZE));
            drive.write(4096, &[3; BLOCK]).unwrap();
        },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut drive = drive();
        drive.write(0, &[1; 4 * BLOCK]).unwrap();
        let touched = Reply::new(&mut drive, 4096, 100);
        let apart = Reply::new(&mut drive, SIZE - 4096, 4096);
        change(&mut drive);
        assert_eq!(touched.borrow().bytes(), [1; 100], "change {number}");
        assert!(touched.borrow().copied.is_some(), "change {number}");
        drop(drive);
        assert!(apart.borrow().copied.is_some(), "the disk was let go of with a reply into it");
    }
}

#[test]
fn a_disk_that_is_taken_away_has_no_reply_pointing_into_it() {
    let mut drive = drive();
    drive.write(0, &[1; BLOCK]).unwrap();
    let reply = Reply::new(&mut drive, 0, 4096);
    let (disk, attachments) = drive.detach();
    assert!(reply.borrow().copied.is_some());
    let mut drive = Drive::with(disk, attachments);
    assert_eq!(read(&mut drive, 0, 4096), [1; BLOCK]);
}

#[test]
fn a_large_discard_happens_in_steps_and_is_answered_at_the_end() {
    let mut drive = drive();
    drive.write(0, &[1; 16 << 20]).unwrap();
    let discard = later(drive.discard(0, SIZE));
    assert!(drive.attachments().has_work());
    let before = drive.structure().changes;
    assert!(!drive.work(&mut Budget::turn()));
    assert_eq!(drive.structure().changes - before, 1, "one step for a turn's budget");
    assert!(!discard.is_ready());
    assert_eq!(read(&mut drive, 8 << 20, 4096), [1; BLOCK]);
    while !drive.work(&mut Budget::turn()) {}
    assert!(discard.take().unwrap().is_ok());
    assert!(!drive.attachments().has_work());
    assert!(read(&mut drive, 0, 16 << 20) == vec![0; 16 << 20]);
}

/// What was asked for earlier must not undo what is acknowledged later.
#[test]
fn a_write_into_a_range_that_is_being_discarded_stays() {
    let mut drive = drive();
    drive.write(0, &[1; 32 << 20]).unwrap();
    let zeroes = later(drive.write_zeroes(0, SIZE, false));
    assert!(!drive.work(&mut Budget::turn()));
    for at in [0, 20 << 20, (20 << 20) + 8192, SIZE - 1] {
        drive.write(at, &[7]).unwrap();
    }
    let mut small = drive.write_zeroes((24 << 20) + 1, 10, true);
    while !drive.work(&mut Budget::turn()) {}
    assert!(zeroes.take().unwrap().is_ok());
    assert!(matches!(&mut small, Started::Done(Ok(()))));
    let bytes = read(&mut drive, 0, SIZE as u32);
    let kept: Vec<_> = bytes.iter().enumerate().filter(|(_, byte)| **byte != 0).collect();
    let written = [0, 20 << 20, (20 << 20) + 8192, SIZE as usize - 1];
    assert_eq!(kept, written.map(|at| (at, &7)));
}

#[test]
fn two_large_changes_take_turns() {
    let mut drive = drive();
    let (first, second) = (later(drive.discard(0, SIZE)), later(drive.discard(0, 8 << 20)));
    let mut rounds = 0;
    while !second.is_ready() {
        drive.work(&mut Budget::turn());
        rounds += 1;
    }
    assert!(rounds <= 6, "{rounds} rounds for two steps beside another change");
    assert!(!first.is_ready());
}

#[test]
fn a_failure_ends_a_large_change_and_is_its_result() {
    let mut drive = drive();
    let discard = later(drive.discard(0, SIZE));
    drive.structure().fail_next = Some(io::ErrorKind::StorageFull.into());
    while !drive.work(&mut Budget::turn()) {}
    assert_eq!(discard.take().unwrap().unwrap_err().kind(), io::ErrorKind::StorageFull);
    // Also where a write meets it on its way.
    let discard = later(drive.discard(0, SIZE));
    drive.structure().fail_next = Some(io::ErrorKind::StorageFull.into());
    drive.write(4096, &[1]).unwrap();
    while !drive.work(&mut Budget::turn()) {}
    assert!(discard.take().unwrap().is_err());
}

#[test]
fn changes_under_way_outlive_a_pause_and_are_cancelled_with_the_drive() {
    let mut drive = drive();
    let discard = later(drive.discard(0, SIZE));
    let (disk, attachments) = drive.detach();
    let mut drive = Drive::with(disk, attachments);
    assert!(!drive.work(&mut Budget::turn()));
    drop(drive);
    assert!(discard.take().unwrap().is_err());
}

#[test]
fn every_change_marks_every_bitmap() {
    let mut drive = drive();
    let tracker = drive.track(Dirty::new());
    let other = drive.track(Dirty::new());
    drive.write(GRANULE_BYTES - 1, &[1, 1]).unwrap();
    assert_eq!(drive.dirty(&tracker).count(), 2);
    let _done = drive.discard(10 * GRANULE_BYTES, 1);
    let _done = drive.write_zeroes(11 * GRANULE_BYTES, GRANULE_BYTES, true);
    assert_eq!(drive.dirty(&tracker).count(), 4);
    // A write that fails may have been applied in part.
    drive.structure().fail_next = Some(io::ErrorKind::StorageFull.into());
    drive.write(20 * GRANULE_BYTES, &[1]).unwrap_err();
    assert_eq!(drive.dirty(&tracker).count(), 5);
    let _later = drive.discard(0, SIZE);
    while !drive.work(&mut Budget::turn()) {}
    assert_eq!(drive.untrack(tracker).count(), SIZE / GRANULE_BYTES);
    assert_eq!(drive.dirty(&other).count(), SIZE / GRANULE_BYTES);
}

#[test]
fn failures_are_counted_in_sectors() {
    let mut drive = drive();
    drive.structure().fail_next = Some(io::ErrorKind::StorageFull.into());
    drive.write(0, &[0; 1000]).unwrap_err();
    drive.structure().fail_next = Some(io::ErrorKind::Other.into());
    drive.read(0, 4096, &mut Vec::new()).unwrap_err();
    let failures = drive.attachments().failures();
    assert_eq!((failures.read_sectors, failures.write_sectors), (8, 2));
}
