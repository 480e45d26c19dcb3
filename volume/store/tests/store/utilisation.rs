//! What a volume says that it takes: the data that it refers to, shared or not. The model of `tree` checks
//! the number after every operation; here is what it leaves out.

use std::fs::OpenOptions;

use store::{
    Disk, Inactive,
    testing::{Disks, Fixture, attachment, counted, metadata},
};

const MIB: u64 = 1 << 20;
const SR_BYTES: u64 = 64 << 20;

fn utilisation(fixture: &Fixture, key: &str) -> u64 {
    fixture.sr.volume(key).unwrap().utilisation
}

fn write(disk: &mut Disk, at: u64, bytes: u64) {
    disk.write(at, &vec![7; usize::try_from(bytes).unwrap()]).unwrap();
}

/// A snapshot of which the disk still has everything, and the disk, each refer to all of it; the SR has it
/// once.
#[test]
fn shared_data_counts_for_each_volume_that_refers_to_it_and_once_for_the_sr() {
    let fixture = Fixture::new(SR_BYTES);
    let key = fixture.create(16 << 20);
    let mut disks = Disks::default();
    disks.0.insert(key.clone(), fixture.open(&key, false).unwrap());
    write(disks.0.get_mut(&key).unwrap(), 0, 8 * MIB + 4096);
    let snapshot = fixture.lock().snapshot_volume(&key, &mut disks).unwrap();
    assert_eq!(snapshot.utilisation, 8 * MIB + 4096, "to the block, though the disk is served");
    let snapshot = snapshot.key.to_string();
    write(disks.0.get_mut(&key).unwrap(), 0, 2 * MIB);
    disks.0.get_mut(&key).unwrap().discard(4 << 20, 1 << 20).unwrap();
    assert!(utilisation(&fixture, &key).abs_diff(7 * MIB) <= MIB, "while it is served");
    disks.0.clear();
    assert_eq!(utilisation(&fixture, &key), 7 * MIB + 4096);
    assert_eq!(utilisation(&fixture, &snapshot), 8 * MIB + 4096);
    assert_eq!(fixture.sr.stat().unwrap().used, 10 * MIB + 4096);
    let (said, real) = counted(&fixture.sr);
    assert_eq!(said, real);
    fixture.lock().destroy_volume_data(&snapshot, &mut Inactive).unwrap();
    assert_eq!(utilisation(&fixture, &snapshot), 0, "its data is gone");
}

/// A program of the version before writes an index that says nothing of blocks. Then a volume says what is
/// its own, as that program does, until a collection has counted.
#[test]
fn an_index_without_a_count_is_counted_by_a_collection() {
    let fixture = Fixture::new(SR_BYTES);
    let key = fixture.create(16 << 20);
    write(&mut fixture.open(&key, false).unwrap(), 0, 3 * MIB);
    let snapshot = fixture.lock().snapshot_volume(&key, &mut Inactive).unwrap().key.to_string();
    for index in metadata(&fixture.sr).join("index").read_dir().unwrap() {
        let index = OpenOptions::new().write(true).open(index.unwrap().path()).unwrap();
        index.set_len(4 * 4).unwrap();
    }
    assert_eq!(utilisation(&fixture, &snapshot), 0);
    write(&mut fixture.open(&key, false).unwrap(), 8 << 20, 4096);
    assert_eq!(utilisation(&fixture, &key), 4096);
    let size = i64::try_from(24 * MIB).unwrap();
    fixture.lock().resize_volume(&key, size).unwrap();
    let host = &fixture.host;
    host.attach(&attachment(host, SR_BYTES)).unwrap();
    assert_eq!(utilisation(&fixture, &key), 3 * MIB + 4096);
    assert_eq!(utilisation(&fixture, &snapshot), 3 * MIB);
}
