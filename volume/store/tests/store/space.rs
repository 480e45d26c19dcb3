//! How full an SR is: what SR.stat says is what can be written, metadata counts, the count is right after
//! kills, and whatever is in an SR, it can be destroyed.

use std::{collections::BTreeSet, os::unix::process::ExitStatusExt};

use store::{
    Disk, ErrorKind, Inactive,
    testing::{Disks, Fixture, counted, host},
};

use crate::{
    dying::{self, SIGKILL},
    numbers::Numbers,
    operations::{Keys, SIZE, other_sr},
};

const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;

/// Writes blocks at the places that `next` gives until one is refused, which must not be while the SR
/// says that it has room. How many were written, and the refusal.
fn fill(fixture: &Fixture, mut write: impl FnMut(u64) -> store::Result<()>) -> (u64, store::Error) {
    let mut free = fixture.sr.stat().unwrap().free;
    for number in 0.. {
        // Near the end it is asked before each write.
        if free < 4 * MIB || number % 256 == 0 {
            free = fixture.sr.stat().unwrap().free;
        }
        match write(number) {
            Ok(()) => {}
            Err(error) if free < MIB => return (number, error),
            Err(error) => panic!("{error}, but {free} bytes were free"),
        }
    }
    unreachable!()
}

fn assert_full(fixture: &Fixture, error: &store::Error) {
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    let text = error.to_string();
    assert!(text.contains(fixture.sr.uuid().as_str()) && text.contains("xe vdi-destroy"), "{text}");
    let stat = fixture.sr.stat().unwrap();
    let rest = stat.total - stat.used - stat.metadata;
    assert!(rest < 3 * BLOCK, "a block, a page of the map and one of the index did fit: {stat:?}");
    let (counted, real) = counted(&fixture.sr);
    assert_eq!(counted, real);
}

/// The error names both: what does not fit, and the SR that has no room, with what it has and what helps.
/// Nothing of the copy stays.
#[test]
fn a_copy_into_a_full_sr_says_what_does_not_fit_where() {
    let fixture = Fixture::new(128 * MIB);
    let key = fixture.create(i64::try_from(80 * MIB).unwrap());
    let mut disk = fixture.open(&key, false).unwrap();
    disk.write(0, &vec![3; usize::try_from(80 * MIB).unwrap()]).unwrap();
    drop(disk);
    let there = other_sr(&fixture.host);
    let size = there.stat().unwrap().total;
    assert!(size < 80 * MIB, "{size} bytes are too few");
    let error = fixture.sr.copy_volume(&key, &there, &mut Inactive, &mut Inactive).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    let text = error.chain();
    for part in [&key, "80 MiB", there.uuid().as_str(), "left", "larger SR", "is full"] {
        assert!(text.contains(part), "{part:?} is missing in {text:?}");
    }
    let stat = there.stat().unwrap();
    assert_eq!((stat.used, stat.metadata), (0, 0));
    assert_eq!(fixture.sr.volumes().unwrap().len(), 1);
    assert_eq!(fixture.sr.stat().unwrap().used, 80 * MIB);
}

/// Each block needs a page of the map, and many one of the index: data is hardly half of it.
#[test]
fn scattered_writes_to_a_huge_disk_fill_an_sr_to_the_last_page() {
    let fixture = Fixture::new(16 * MIB);
    let size = 256_u64 << 30;
    let key = fixture.create(i64::try_from(size).unwrap());
    let mut disk = fixture.open(&key, false).unwrap();
    let mut numbers = Numbers::new(1);
    let (written, error) =
        fill(&fixture, |_| disk.write(numbers.next(size / BLOCK) * BLOCK, &[1; 4096]));
    assert_full(&fixture, &error);
    assert!((1500..4096).contains(&written), "{written} blocks fit into 16 MiB");
    drop(disk);
    fixture.lock().destroy_volume(&key, &mut Inactive).unwrap();
    let stat = fixture.sr.stat().unwrap();
    assert_eq!((stat.used, stat.metadata, stat.free), (0, 0, stat.total));
}

/// An hourly snapshot of a disk in which one block of each chunk changes.
#[test]
fn snapshots_and_scattered_writes_fill_an_sr_to_the_last_page() {
    const CHUNKS: u64 = 64;
    let fixture = Fixture::new(16 * MIB);
    let key = fixture.create((CHUNKS * (4 << 20)).try_into().unwrap());
    let mut disks = Disks::default();
    disks.0.insert(key.clone(), fixture.open(&key, false).unwrap());
    let mut snapshots = BTreeSet::new();
    let (written, error) = fill(&fixture, |number| {
        if number > 0 && number % CHUNKS == 0 {
            let made = fixture.lock().snapshot_volume(&key, &mut disks)?;
            snapshots.insert(made.key.to_string());
        }
        let at = number % CHUNKS * (4 << 20) + number / CHUNKS % 1024 * BLOCK;
        disks.0.get_mut(&key).unwrap().write(at, &[2; 4096])
    });
    assert_full(&fixture, &error);
    assert!(written > 25 * CHUNKS, "{written} blocks, {} snapshots", snapshots.len());
    // All of it can be destroyed, the disk while it is served last.
    for snapshot in snapshots {
        fixture.lock().destroy_volume(&snapshot, &mut disks).unwrap();
    }
    disks.0.clear();
    fixture.lock().destroy_volume(&key, &mut Inactive).unwrap();
    let stat = fixture.sr.stat().unwrap();
    assert_eq!((stat.used, stat.metadata, stat.free), (0, 0, stat.total));
}

/// Two disks, each of which may take the last page.
#[test]
fn disks_that_fill_an_sr_together_are_refused_at_the_same_moment() {
    let fixture = Fixture::new(8 * MIB);
    let keys = [fixture.create(64 << 20), fixture.create(64 << 20)];
    let mut disks: Vec<Disk> = keys.iter().map(|it| fixture.open(it, false).unwrap()).collect();
    let (_, error) = fill(&fixture, |number| {
        disks[usize::try_from(number % 2).unwrap()].write(number / 2 * BLOCK, &[1; 4096])
    });
    assert_full(&fixture, &error);
    for disk in &mut disks {
        assert_eq!(disk.write(32 << 20, &[1]).unwrap_err().kind(), ErrorKind::NoSpace);
        // What it discards can be written again at once, by the first process that asks.
        disk.discard(0, MIB).unwrap();
        disk.write(0, &vec![2; 1 << 20]).unwrap();
    }
}

/// The texts that callers keep with a volume are bounded, so that its record can be written anew in a full
/// SR; and one that was made by a version without bounds can be destroyed.
#[test]
fn texts_have_bounds_and_whatever_their_size_the_volume_can_be_destroyed() {
    let fixture = Fixture::new(4 * MIB);
    let key = fixture.create(1 << 20);
    let too_long = |error: store::Error, what: &str| {
        assert_eq!(error.kind(), ErrorKind::BadArgument, "{error}");
        assert!(error.to_string().contains(what) && error.to_string().len() < 300, "{error}");
    };
    let text = |bytes: usize| "\u{1}".repeat(bytes);
    too_long(fixture.lock().set_volume_name(&key, &text(5000)).unwrap_err(), "the name has 5000");
    let description = fixture.lock().set_volume_description(&key, &text(17 << 10)).unwrap_err();
    too_long(description, "the description has 17408 bytes");
    too_long(fixture.lock().set_volume_key(&key, &text(300), "").unwrap_err(), "the key has 300");
    let value = fixture.lock().set_volume_key(&key, "it", &text(40_000)).unwrap_err();
    too_long(value, "value of key \"it\" has 40000 bytes");
    too_long(fixture.lock().set_name(&text(5000)).unwrap_err(), "the name has 5000 bytes");
    let mut refused = None;
    for number in 0..1000 {
        if let Err(error) =
            fixture.lock().set_volume_key(&key, &format!("key {number}"), &text(1000))
        {
            refused = Some(error);
            break;
        }
    }
    too_long(refused.expect("all of them are bounded together"), "64 KiB at most");
    // In a full SR.
    let mut disk = fixture.open(&fixture.create(64 << 20), false).unwrap();
    (0..1024).find(|at| disk.write(at * BLOCK, &[1; 4096]).is_err()).unwrap();
    fixture.lock().unset_volume_key(&key, "key 3").unwrap();
    fixture.lock().set_volume_key(&key, "key 4", "short").unwrap();
    // As another version may have left it: larger than all the room that there is.
    let path = fixture.sr.layout().volume(&store::Name::parse(&key).unwrap());
    let record = std::fs::read_to_string(&path).unwrap();
    let huge = format!("\"keys\":{{\"huge\":\"{}\",", "x".repeat(3 << 20));
    std::fs::write(&path, record.replacen("\"keys\":{", &huge, 1)).unwrap();
    fixture.lock().set_volume_cbt(&key, true).unwrap();
    fixture.lock().destroy_volume(&key, &mut Inactive).unwrap();
    assert!(fixture.sr.volume(&key).is_err());
}

/// What processes that were killed at each of their steps had counted and not taken, or freed and not
/// counted, is corrected when SR.stat asks how full the SR is, while a disk is served too.
#[test]
fn the_count_is_right_after_a_kill_at_any_step() {
    let mut steps = 0;
    loop {
        let fixture = Fixture::new(64 * MIB);
        let key = fixture.create(SIZE);
        fixture.lock().set_volume_name(&key, "origin").unwrap();
        let mut disks = Disks::default();
        let mut disk = fixture.open(&key, false).unwrap();
        disk.write(0, &[1; 64 * 4096]).unwrap();
        disks.0.insert(key.clone(), disk);
        let snapshot = fixture.lock().snapshot_volume(&key, &mut disks).unwrap().key.to_string();
        fixture.lock().set_volume_name(&snapshot, "old").unwrap();
        disks.0.get_mut(&key).unwrap().write(0, &[2; 32 * 4096]).unwrap();
        let root = host(fixture.root()).sr_root;
        let status = dying::run(&root, &mut disks, "destroy a snapshot", steps);
        assert!(Keys::of(&fixture.sr).0.contains_key("origin"));
        let stat = fixture.sr.stat().unwrap();
        let (counted, real) = counted(&fixture.sr);
        assert_eq!(counted, real, "killed after {steps} steps");
        assert_eq!(stat.free, stat.total - real, "killed after {steps} steps");
        if status.success() {
            assert!(steps > 3, "it has only {steps} steps");
            return;
        }
        assert_eq!(status.signal(), Some(SIGKILL));
        steps += 1;
    }
}
