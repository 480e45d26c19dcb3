//! A save writes what has changed, and keeps what two generations need.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use save::Progress;
use store::ErrorKind;

use crate::rig::{Seen, World};

/// Bytes that the files of the saves have.
fn bytes(world: &World) -> u64 {
    world.files().values().map(|path| fs::metadata(path).unwrap().len()).sum()
}

#[test]
fn the_second_save_of_an_unchanged_sr_writes_under_a_hundredth_of_the_first() {
    let world = World::empty();
    let key = world.fixture.create(48 << 20);
    world.write(&key, 0, 8192, 1);
    let (first, before) = (world.save().unwrap(), bytes(&world));
    assert!(first.written_bytes > 32 << 20, "noise cannot be packed: {first:?}");
    assert_eq!(first.written_bytes, before);
    let second = world.save().unwrap();
    assert_eq!(bytes(&world) - before, second.written_bytes);
    assert!(second.written_bytes * 100 < first.written_bytes, "{second:?} after {first:?}");
    // One block takes its unit, of 256 KiB.
    world.write(&key, 4000, 1, 2);
    let third = world.save().unwrap();
    let unit = third.written_bytes - second.written_bytes;
    assert!((256 << 10..300 << 10).contains(&unit), "{unit} bytes for one unit");
}

/// Equal data is written once, wherever it lies.
#[test]
fn what_two_volumes_have_in_common_is_written_once() {
    let world = World::empty();
    for _ in 0..2 {
        let key = world.fixture.create(8 << 20);
        world.write(&key, 0, 2048, 1);
    }
    let written = world.save().unwrap();
    assert_eq!(written.data_bytes, 16 << 20);
    // Threads that pack the same unit at the same moment write it twice.
    assert!(written.written_bytes < 10 << 20, "{written:?}");
}

#[test]
fn two_generations_are_kept_and_the_data_that_they_need() {
    let world = World::empty();
    let key = world.fixture.create(16 << 20);
    let mut seen = Vec::new();
    for round in 0..8 {
        // Each round replaces all but a part of what the one before has written.
        world.write(&key, 0, 1024, round + 1);
        world.write(&key, 1024 + round * 64, 64, 100);
        seen.push(Seen::of(&world.fixture.sr));
        world.save().unwrap();
    }
    assert_eq!(world.saves().numbers().unwrap(), [8, 7]);
    // What is live is 6 MiB; the same is kept for the generation before, and as much again for data files
    // of which a half is garbage.
    assert!(bytes(&world) < 24 << 20, "{} bytes: {:?}", bytes(&world), world.files());
    for (number, seen) in [(8, &seen[7]), (7, &seen[6])] {
        let save::Found::Good(generation) = world.saves().generation(number).unwrap() else {
            panic!("generation {number} is damaged");
        };
        world.wipe();
        let sr = world.attach(&generation, None).unwrap();
        assert_eq!(Seen::of(&sr).contents, seen.contents);
    }
}

#[test]
fn an_sr_says_since_when_it_is_in_use_and_a_destroyed_one_has_no_saves() {
    let world = World::new();
    let saves = world.saves();
    assert_eq!(saves.in_use_since().unwrap(), None);
    saves.begin_use().unwrap();
    let since = saves.in_use_since().unwrap().unwrap();
    assert!(since.ends_with(" UTC"), "{since}");
    world.save().unwrap();
    saves.begin_use().unwrap();
    assert_eq!(saves.in_use_since().unwrap().as_ref(), Some(&since), "the first moment counts");
    saves.end_use().unwrap();
    assert_eq!(saves.in_use_since().unwrap(), None);
    saves.remove().unwrap();
    saves.remove().unwrap();
    assert!(!saves.path().exists());
}

/// Fills the disk, as far as the manifest is concerned: /dev/full stands for it.
struct Filled(PathBuf);

impl Progress for Filled {
    fn begin(&self, _: u64) {
        symlink("/dev/full", &self.0).unwrap();
    }

    fn advance(&self, _: u64) {}
}

#[test]
fn a_full_disk_is_an_error_that_leaves_the_sr_and_its_last_save() {
    let world = World::new();
    world.save().unwrap();
    let (before, files) = (Seen::of(&world.fixture.sr), world.files());
    world.write(&world.key("origin"), 0, 10, 77);
    let changed = Seen::of(&world.fixture.sr);
    let lock = world.fixture.sr.lock().unwrap();
    let still = lock.still(false).unwrap();
    let full = Filled(world.saves().path().join("00000002.manifest.new"));
    let error = world.saves().write(&still, "test", &full).unwrap_err();
    drop(still);
    drop(lock);
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    for part in ["too little room", "device-config:save-dir", "as they were"] {
        assert!(error.to_string().contains(part), "{part} is not in {error}");
    }
    assert_eq!(world.files(), files, "nothing is left of it");
    assert_eq!(Seen::of(&world.fixture.sr), changed);
    assert_eq!(Seen::of(&world.restore()), before);
}

#[test]
fn two_saves_at_once_are_one_too_many() {
    let world = World::new();
    world.save().unwrap();
    let lock = fs::File::open(world.saves().path().join("lock")).unwrap();
    lock.lock().unwrap();
    let error = world.save().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains("fuser"), "{error}");
}
