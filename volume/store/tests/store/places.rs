//! Writes that another program makes where the bytes lie: only where no other volume can see them.

use store::testing::{Disks, Fixture, content};

const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;

/// Writes a byte to every place of a range; whether there were places.
fn write_in_place(disks: &mut Disks, key: &str, offset: u64, length: u64, byte: u8) -> bool {
    let mut written = 0;
    let disk = disks.0.get_mut(key).unwrap();
    let in_place = disk
        .places(offset, length, |place| {
            place.write(0, &vec![byte; place.length()]);
            written += place.length() as u64;
        })
        .unwrap();
    assert_eq!(written, if in_place { length } else { 0 });
    in_place
}

#[test]
fn only_blocks_that_belong_to_the_disk_alone_have_places() {
    let fixture = Fixture::new(64 * MIB);
    let key = fixture.create(8 << 20);
    let mut disks = Disks::default();
    disks.0.insert(key.clone(), fixture.open(&key, false).unwrap());
    let disk = disks.0.get_mut(&key).unwrap();
    disk.write(BLOCK, &[1; 3 * BLOCK as usize]).unwrap();
    assert!(!write_in_place(&mut disks, &key, 0, BLOCK, 9), "never written");
    assert!(!write_in_place(&mut disks, &key, 0, 2 * BLOCK, 9), "its first block is not there");
    assert!(!write_in_place(&mut disks, &key, 3 * BLOCK, 2 * BLOCK, 9), "nor its last");
    assert!(write_in_place(&mut disks, &key, BLOCK + 512, 2 * BLOCK, 2));
    let mut expected = vec![0; 8 << 20];
    expected[4096..4 * 4096].fill(1);
    expected[4096 + 512..][..2 * 4096].fill(2);
    assert!(content(disks.0.get_mut(&key).unwrap()) == expected);

    let snapshot = fixture.lock().snapshot_volume(&key, &mut disks).unwrap().key;
    assert!(!write_in_place(&mut disks, &key, BLOCK, BLOCK, 9), "the snapshot has them as well");
    disks.0.get_mut(&key).unwrap().write(BLOCK, &[3; BLOCK as usize]).unwrap();
    assert!(write_in_place(&mut disks, &key, BLOCK, BLOCK, 4));
    let mut frozen = fixture.open(snapshot.as_str(), true).unwrap();
    assert!(content(&mut frozen) == expected, "the snapshot is as it was");
    assert!(frozen.places(BLOCK, BLOCK, |_| ()).is_err(), "it is read-only");

    let disk = disks.0.get_mut(&key).unwrap();
    assert!(disk.places(8 << 20, 1, |_| ()).is_err(), "behind the end");
    disk.discard(BLOCK, BLOCK).unwrap();
    assert!(!write_in_place(&mut disks, &key, BLOCK, BLOCK, 9), "given up");
}
