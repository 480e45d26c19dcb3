//! Whatever is wrong with a save is found before it becomes an SR, and the generation before is there.

use std::{fs, os::unix::fs::FileExt, path::Path};

use save::Found;
use store::ErrorKind;

use crate::rig::{Seen, World};

/// Two generations of which the second has data of its own.
fn two() -> (World, Seen) {
    let world = World::new();
    world.save().unwrap();
    let first = Seen::of(&world.fixture.sr);
    world.write(&world.key("origin"), 100, 80, 50);
    world.save().unwrap();
    (world, first)
}

fn flip(path: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    // Not the bit of a frame's header that zstd says means nothing, by which nothing is lost.
    file.write_all_at(&[byte[0] ^ 0x01], at).unwrap();
}

/// Whether the newest generation is found to be damaged, by its manifest or when its data is read.
fn is_found(world: &World) -> bool {
    match world.saves().generation(2).unwrap() {
        Found::Damaged(why) => {
            assert!(why.contains("0000000"), "it names the file: {why}");
            true
        }
        Found::Good(generation) => match generation.verify(&()) {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                assert!(error.to_string().contains("00000002.data is damaged"), "{error}");
                true
            }
            Ok(()) => false,
        },
    }
}

#[test]
fn a_bit_that_is_wrong_anywhere_in_a_generation_is_found() {
    let (world, _) = two();
    let files = world.files();
    assert!(!is_found(&world));
    for name in ["00000002.manifest", "00000002.data"] {
        let path = &files[name];
        let length = fs::metadata(path).unwrap().len();
        // All of what has a meaning of its own, and a part of the rest; the last byte, too.
        let places = (0..length).filter(|at| *at < 80 || at % 997 == 0 || at + 1 == length);
        for at in places {
            if name == "00000002.manifest" && (8..12).contains(&at) {
                continue; // The version: see `versions`.
            }
            flip(path, at);
            assert!(is_found(&world), "byte {at} of {name}");
            flip(path, at);
        }
    }
    assert!(!is_found(&world));
}

#[test]
fn a_generation_that_was_cut_off_anywhere_is_found() {
    let (world, _) = two();
    for name in ["00000002.manifest", "00000002.data"] {
        let path = &world.files()[name];
        let whole = fs::read(path).unwrap();
        for length in [0, 1, 15, 16, 17, 63, 64, 65, whole.len() / 2, whole.len() - 1] {
            fs::write(path, &whole[..length]).unwrap();
            assert!(is_found(&world), "{length} bytes of {name}");
        }
        fs::remove_file(path).unwrap();
        if name.ends_with("data") {
            assert!(is_found(&world), "{name} is missing");
        }
        fs::write(path, &whole).unwrap();
    }
    assert!(!is_found(&world));
}

#[test]
fn the_generation_before_a_damaged_one_is_used_and_the_damage_told() {
    let (world, first) = two();
    fs::write(&world.files()["00000002.manifest"], "").unwrap();
    let (newest, damaged) = world.saves().newest_good().unwrap();
    assert_eq!(newest.unwrap().number(), 1);
    assert!(damaged[0].contains("00000002.manifest is damaged"), "{damaged:?}");
    assert_eq!(Seen::of(&world.restore()), first);
    // The next one does not build on the damaged one, and does not remove what can still be used.
    let written = world.save().unwrap();
    assert_eq!((written.number, written.damaged.len()), (3, 1));
    assert_eq!(world.saves().numbers().unwrap(), [3, 1]);
}

/// An SR is made of all of a generation or not at all.
#[test]
fn damaged_data_makes_no_sr_and_the_generation_before_is_still_there() {
    let (world, first) = two();
    let data = &world.files()["00000002.data"];
    flip(data, fs::metadata(data).unwrap().len() / 2);
    world.wipe();
    let newest = world.saves().newest_good().unwrap().0.unwrap();
    assert_eq!(newest.number(), 2, "only its data is damaged");
    assert_eq!(world.attach(&newest, None).unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(world.fixture.host.srs().unwrap().is_empty());
    let Found::Good(before) = world.saves().generation(1).unwrap() else { panic!("damaged") };
    assert_eq!(Seen::of(&world.attach(&before, None).unwrap()), first);
}
