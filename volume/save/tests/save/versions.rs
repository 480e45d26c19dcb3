//! Saves of other versions of the format: a committed one of version 1 is read, whatever has changed since; one
//! of a later version is refused by name and kept.

use std::{fs, os::unix::fs::FileExt, path::Path};

use save::{Found, Saves};
use store::{
    ErrorKind, Name,
    testing::{self, SR_UUID, content, deltas, open},
};

use crate::rig::{World, assert_sound, attach};

/// What the SR of `fixtures/version-1` had.
const BLOCKS: &[(&str, &[(u64, u8)])] = &[
    ("origin", &[(0, 1), (1, 1), (2, 3), (6, 0), (69, 1), (1020, 2), (1027, 0), (2050, 4)]),
    ("old", &[(0, 1), (2, 3), (6, 1), (1020, 2), (1027, 2), (2050, 0)]),
    ("child", &[(0, 1), (1, 5), (2, 3), (6, 1), (1027, 2), (2050, 0)]),
];

#[test]
fn a_save_of_the_first_version_is_read() {
    assert_read("version-1", 0);
}

/// Its indexes speak of single blocks.
#[test]
fn a_save_of_the_second_version_is_read() {
    assert_read("version-2", 7);
}

/// `in_indexes`: of how many chunks of its volumes an index itself says what some of the blocks are.
#[track_caller]
fn assert_read(fixture: &str, in_indexes: usize) {
    let root = testing::root();
    let host = testing::host(root.path());
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(fixture);
    let saves = root.path().join(".saves");
    fs::create_dir_all(saves.join(SR_UUID)).unwrap();
    for name in ["00000001.manifest", "00000001.data"] {
        fs::copy(committed.join(name), saves.join(SR_UUID).join(name)).unwrap();
    }
    let saves = Saves::new(&saves, &Name::parse(SR_UUID).unwrap());
    let newest = saves.newest_good().unwrap().0.unwrap();
    let sr = attach(&host, 64 << 20, &newest, None).unwrap();
    assert_sound(&sr);
    let volumes = sr.volumes().unwrap();
    for (name, blocks) in BLOCKS {
        let volume = volumes.iter().find(|it| it.name == *name).unwrap();
        let bytes = content(&mut open(&sr, volume.key.as_str(), true).unwrap());
        for &(block, seed) in *blocks {
            let at = usize::try_from(block * 4096).unwrap();
            assert!(bytes[at..at + 4096] == [seed; 4096], "block {block} of {name}");
        }
    }
    assert!(!volumes.iter().find(|it| it.name == "past").unwrap().has_data);
    let count: usize = volumes.iter().map(|it| deltas(&sr, it.key.as_str())).sum();
    assert_eq!(count, in_indexes);
    let child = volumes.iter().find(|it| it.name == "child").unwrap();
    assert_eq!(child.keys["purpose"], "a test");
}

#[test]
fn a_save_of_a_later_version_is_refused_by_name_and_kept() {
    let world = World::new();
    world.save().unwrap();
    let path = world.files()["00000001.manifest"].clone();
    let file = fs::File::options().read(true).write(true).open(&path).unwrap();
    let mut version = [0; 4];
    file.read_exact_at(&mut version, 8).unwrap();
    file.write_all_at(&7u32.to_le_bytes(), 8).unwrap();
    let (files, later) = (world.files(), fs::read(&path).unwrap());
    for error in [world.saves().generation(1).unwrap_err(), world.save().unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::OtherFormat);
        for part in ["version 7", "knows 1 to 2", "00000001.manifest"] {
            assert!(error.to_string().contains(part), "{part} is not in {error}");
        }
    }
    assert_eq!((world.files(), fs::read(&path).unwrap()), (files, later));
    file.write_all_at(&version, 8).unwrap();
    assert!(matches!(world.saves().generation(1).unwrap(), Found::Good(_)));
}
