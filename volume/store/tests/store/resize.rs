//! The size of an SR changes in place, while its disks are used, or not at all.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use store::{
    Attachment, Disk, ErrorKind, Inactive, Sr,
    testing::{Fixture, at_limit, attachment, counted},
};

const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;

fn resize(fixture: &Fixture, mib: u64) -> store::Result<store::Resized> {
    fixture.host.resize_sr(fixture.sr.uuid(), mib * MIB)
}

/// Writes until there is no room; how many blocks were written.
fn fill(disk: &mut Disk, from: u64) -> u64 {
    let refused = |at: &u64| match disk.write((from + at) * BLOCK, &[1; 4096]) {
        Ok(()) => false,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
            true
        }
    };
    (0..).find(refused).unwrap()
}

#[test]
fn an_open_disk_writes_on_when_its_full_sr_has_grown() {
    let fixture = Fixture::new(4 * MIB);
    let key = fixture.create(64 << 20);
    let mut disk = fixture.open(&key, false).unwrap();
    let written = fill(&mut disk, 0);
    assert!((1020..1024).contains(&written), "{written}");
    let done = resize(&fixture, 8).unwrap();
    assert_eq!((done.before, done.size, done.configured), (4 * MIB, 8 * MIB, 4 * MIB));
    let more = fill(&mut disk, written);
    assert!((1022..=1024).contains(&more), "{more}");
    let stat = fixture.sr.stat().unwrap();
    assert!(stat.total == 8 * MIB && stat.free < 2 * BLOCK, "{stat:?}");
    assert_eq!(fixture.lock().check().unwrap(), [""; 0]);
}

#[test]
fn an_open_disk_keeps_to_the_size_of_an_sr_that_has_shrunk() {
    let fixture = Fixture::new(16 * MIB);
    let key = fixture.create(64 << 20);
    let mut disk = fixture.open(&key, false).unwrap();
    disk.write(0, &vec![1; 2 << 20]).unwrap();
    resize(&fixture, 4).unwrap();
    assert_eq!(fixture.sr.stat().unwrap().total, 4 * MIB);
    let written = fill(&mut disk, 512);
    assert!((500..512).contains(&written), "{written}");
    let (used, real) = counted(&fixture.sr);
    assert!(used == real && real <= 4 * MIB, "{used} are counted, {real} are in use");
}

/// The error has the numbers, and the size that it names is accepted.
#[test]
fn an_sr_does_not_shrink_below_what_is_in_use() {
    let fixture = Fixture::new(64 * MIB);
    let key = fixture.create(64 << 20);
    let mut disk = fixture.open(&key, false).unwrap();
    disk.write(0, &vec![1; 20 << 20]).unwrap();
    let error = resize(&fixture, 10).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    let text = error.to_string();
    for part in ["(10 MiB)", "20 MiB of data", "of metadata", "xe vdi-destroy", "fstrim"] {
        assert!(text.contains(part), "{part:?} is missing in {text:?}");
    }
    let (_, rest) = text.split_once("at least size=").unwrap();
    let least: u64 = rest.split_once(' ').unwrap().0.parse().unwrap();
    assert_eq!(fixture.sr.stat().unwrap().total, 64 * MIB);
    disk.write(20 * MIB, &vec![1; 20 << 20]).unwrap();
    disk.discard(20 * MIB, 20 * MIB).unwrap();
    fixture.host.resize_sr(fixture.sr.uuid(), least).unwrap();
    assert_eq!(fixture.sr.stat().unwrap().total, least);
}

/// What a disk takes after it was seen that everything fits, and before it is told of the smaller size, counts: the SR
/// keeps its size, and disks find room up to it.
#[test]
fn an_sr_does_not_shrink_below_what_a_disk_takes_meanwhile() {
    let fixture = Fixture::new(32 * MIB);
    let key = fixture.create(64 << 20);
    let mut disk = fixture.open(&key, false).unwrap();
    at_limit(move || disk.write(0, &vec![1; 16 << 20]).unwrap());
    let error = resize(&fixture, 8).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(error.to_string().contains("16 MiB of data"), "{error}");
    assert_eq!(fixture.sr.stat().unwrap().total, 32 * MIB);
    // No operation under the SR's lock has come in between, which would mend the limit.
    let free = fixture.sr.stat().unwrap().free;
    assert!((15 * MIB..=16 * MIB).contains(&free), "a disk finds room for {free}");
    let mut disk = fixture.open(&key, false).unwrap();
    disk.write(16 * MIB, &vec![1; 15 << 20]).unwrap();
    resize(&fixture, 8).unwrap_err();
    disk.discard(8 * MIB, 56 * MIB).unwrap();
    resize(&fixture, 9).unwrap();
}

#[test]
fn an_sr_does_not_grow_beyond_what_the_host_has() {
    let fixture = Fixture::new(16 * MIB);
    let error = resize(&fixture, 1 << 40).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    let text = error.to_string();
    for part in ["are available", "are promised to other ram SRs", "at most device-config:size="] {
        assert!(text.contains(part), "{part:?} is missing in {text:?}");
    }
    let too_small = fixture.host.resize_sr(fixture.sr.uuid(), 64).unwrap_err();
    assert_eq!(too_small.kind(), ErrorKind::BadSize);
    assert_eq!(fixture.sr.stat().unwrap().total, 16 * MIB);
}

fn attach(fixture: &Fixture, mib: u64) -> store::Result<Sr> {
    fixture.host.attach(&attachment(&fixture.host, mib * MIB))
}

#[test]
fn an_attach_with_another_size_changes_it_or_says_why_not() {
    let fixture = Fixture::new(16 * MIB);
    let key = fixture.create(64 << 20);
    fixture.open(&key, false).unwrap().write(0, &vec![1; 8 << 20]).unwrap();
    fixture.lock().detach().unwrap();
    assert_eq!(attach(&fixture, 32).unwrap().size().unwrap(), 32 * MIB);
    fixture.lock().detach().unwrap();
    let error = attach(&fixture, 2).unwrap_err();
    assert!(error.to_string().contains("8 MiB of data"), "{error}");
    assert_eq!(fixture.sr.stat().unwrap_err().kind(), ErrorKind::SrNotAttached);
    let sr = attach(&fixture, 12).unwrap();
    assert_eq!((sr.size().unwrap(), sr.stat().unwrap().total), (12 * MIB, 12 * MIB));
    let mut disk = fixture.open(&key, false).unwrap();
    assert!((500..1024).contains(&fill(&mut disk, 2048)));
}

/// xapi repeats the attach with the configuration that it knows, as when the toolstack restarts.
#[test]
fn an_attach_with_the_size_of_before_keeps_what_a_command_has_changed() {
    let fixture = Fixture::new(16 * MIB);
    resize(&fixture, 24).unwrap();
    assert_eq!(attach(&fixture, 16).unwrap().size().unwrap(), 24 * MIB);
    fixture.lock().detach().unwrap();
    assert_eq!(attach(&fixture, 16).unwrap().size().unwrap(), 24 * MIB);
    assert_eq!(resize(&fixture, 20).unwrap().configured, 16 * MIB);
    // A new configuration: from now on it is that one.
    assert_eq!(attach(&fixture, 32).unwrap().size().unwrap(), 32 * MIB);
    assert_eq!(attach(&fixture, 16).unwrap().size().unwrap(), 16 * MIB);
    // The command has given it the size that the configuration has.
    resize(&fixture, 24).unwrap();
    resize(&fixture, 16).unwrap();
    assert_eq!(attach(&fixture, 24).unwrap().size().unwrap(), 24 * MIB);
    // Where nothing is left of it, the configuration counts.
    resize(&fixture, 8).unwrap();
    fixture.host.destroy(fixture.sr.uuid()).unwrap();
    let again: Attachment = attachment(&fixture.host, 24 * MIB);
    assert_eq!(fixture.host.attach(&again).unwrap().size().unwrap(), 24 * MIB);
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}

/// Two disks write and discard all the time, and snapshots come and go. Whatever the size is, it is kept
/// to, and a disk finds room up to it.
#[test]
fn an_sr_grows_and_shrinks_under_load() {
    const ROUNDS: u64 = 12;
    let fixture = Fixture::new(16 * MIB);
    let keys = [fixture.create(64 << 20), fixture.create(64 << 20)];
    let (over, written, refused) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let (mut shrunk, mut kept) = (0, 0);
    thread::scope(|scope| {
        // Also where an assertion fails: the scope waits for its threads.
        let end = OnDrop(|| over.store(true, Ordering::Relaxed));
        for key in &keys {
            let (fixture, over, written, refused) = (&fixture, &over, &written, &refused);
            scope.spawn(move || {
                let mut disk = fixture.open(key, false).unwrap();
                for round in 0.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    for at in 0..24 {
                        match disk.write(at * MIB, &vec![round as u8 | 1; 1 << 20]) {
                            Ok(()) => written.fetch_add(1, Ordering::Relaxed),
                            Err(error) => {
                                assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
                                refused.fetch_add(1, Ordering::Relaxed)
                            }
                        };
                    }
                    disk.discard(0, 64 * MIB).unwrap();
                }
            });
        }
        for round in 0..ROUNDS {
            thread::sleep(Duration::from_millis(10));
            let size = [16, 40, 8, 64][(round % 4) as usize];
            match resize(&fixture, size) {
                Ok(_) => shrunk += u64::from(size <= 16),
                Err(error) => {
                    let is_smaller = size * MIB < fixture.sr.size().unwrap();
                    assert!(is_smaller && error.kind() == ErrorKind::NoSpace, "{error}");
                    kept += 1;
                }
            }
            let size = fixture.sr.size().unwrap();
            for _ in 0..3 {
                let used = counted(&fixture.sr).0;
                // What changes of structure may take beyond it.
                assert!(used <= size + MIB, "{used} of {size} are in use in round {round}");
            }
        }
        drop(end);
    });
    let (written, refused) = (written.into_inner(), refused.into_inner());
    assert!(shrunk > 0 && written > 10 && refused > 0, "{shrunk} {kept} {written} {refused}");
    assert_eq!(fixture.lock().check().unwrap(), [""; 0]);
    for key in keys {
        fixture.lock().destroy_volume(&key, &mut Inactive).unwrap();
    }
    assert_eq!(counted(&fixture.sr), (0, 0));
}
