//! Pages of maps: those that no index names any more are freed, and none that is still named or read.

use store::Inactive;
use store::testing::{Disks, Fixture, content, counted};

const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;

/// Bytes and files of the SR's maps and layers.
pub(crate) fn metadata(fixture: &Fixture) -> (u64, usize, usize) {
    use std::os::unix::fs::MetadataExt;
    let root = fixture.sr.layout().root();
    let files = |directory: &str| std::fs::read_dir(root.join(directory)).unwrap();
    let bytes = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.unwrap().metadata().unwrap().blocks() * 512
    };
    (files("meta/map").map(bytes).sum(), files("meta/map").count(), files("data").count())
}

/// Nightly backups of a disk that is served all the time: each round rewrites one block in each chunk,
/// so that all pages of the map are copied.
#[test]
fn backups_of_an_active_disk_need_no_more_metadata_from_round_to_round() {
    const CHUNKS: u64 = 32;
    let fixture = Fixture::new(64 * MIB);
    let key = fixture.create(i64::try_from(CHUNKS * (4 << 20)).unwrap());
    let mut disks = Disks::default();
    disks.0.insert(key.clone(), fixture.open(&key, false).unwrap());
    for round in 0..100_u64 {
        let disk = disks.0.get_mut(&key).unwrap();
        for chunk in 0..CHUNKS {
            disk.write(chunk * (4 << 20), &[u8::try_from(round + 1).unwrap(); 4096]).unwrap();
        }
        let (bytes, maps, layers) = metadata(&fixture);
        assert!(bytes <= CHUNKS * 4096, "round {round}: {bytes} bytes of maps");
        assert!(maps <= 4 && layers <= 4, "round {round}: {maps} maps, {layers} layers");
        assert_eq!(fixture.sr.stat().unwrap().used, CHUNKS * BLOCK, "round {round}");
        let snapshot = fixture.lock().snapshot_volume(&key, &mut disks).unwrap().key;
        fixture.lock().destroy_volume(snapshot.as_str(), &mut disks).unwrap();
    }
    assert_eq!(fixture.lock().check().unwrap(), [""; 0]);
    disks.0.clear();
    fixture.lock().destroy_volume(&key, &mut Inactive).unwrap();
    assert_eq!(metadata(&fixture), (0, 0, 0));
}

/// An operation that holds the SR's lock may have read in the index that a page is there, and be about to
/// read it: it would take the blocks that the page names for garbage.
#[test]
fn pages_that_an_operation_may_be_reading_are_freed_after_it() {
    let fixture = Fixture::new(64 * MIB);
    let key = fixture.create(8 << 20);
    let mut disks = Disks::default();
    disks.0.insert(key.clone(), fixture.open(&key, false).unwrap());
    // More blocks than a chunk without a page can have.
    let write = |disks: &mut Disks, chunk: u64| {
        disks.0.get_mut(&key).unwrap().write(chunk * (4 << 20), &[1; 8 * 4096]).unwrap();
    };
    write(&mut disks, 0);
    write(&mut disks, 1);
    let snapshot = fixture.lock().snapshot_volume(&key, &mut disks).unwrap().key;
    fixture.lock().destroy_volume(snapshot.as_str(), &mut disks).unwrap();
    let (before, ..) = metadata(&fixture);
    assert_eq!(before, 2 * 4096, "the pages of both chunks, which only this disk names");
    let operation = fixture.lock();
    write(&mut disks, 0);
    let (during, ..) = metadata(&fixture);
    assert_eq!(during, 3 * 4096, "the new page, and the old one still");
    drop(operation);
    write(&mut disks, 1);
    let (after, ..) = metadata(&fixture);
    assert_eq!(after, 2 * 4096, "the new pages alone");
    assert_eq!(fixture.lock().check().unwrap(), [""; 0]);
}

/// What it has read in the index before a chunk was zeroed as a whole is a page of the disk's top. Found without its
/// entries, the chunk would be taken for one that has not changed.
#[test]
fn pages_of_chunks_that_are_zeroed_are_freed_after_an_operation_or_used_again() {
    let fixture = Fixture::new(64 * MIB);
    let key = fixture.create(16 << 20);
    let mut disk = fixture.open(&key, false).unwrap();
    (0..3).for_each(|chunk| disk.write(chunk * (4 << 20), &[1; 8 * 4096]).unwrap());
    let operation = fixture.lock();
    disk.write_zeroes(0, 8 << 20, false).unwrap();
    assert_eq!(metadata(&fixture).0, 3 * 4096, "the page that is named, and those of both chunks");
    disk.write(0, &[2; 8 * 4096]).unwrap();
    assert_eq!(metadata(&fixture).0, 3 * 4096, "the page of the first chunk is used again");
    drop(operation);
    disk.write_zeroes(8 << 20, 4 << 20, false).unwrap();
    assert_eq!(metadata(&fixture).0, 4096, "the one that is used again stays");
    let bytes = content(&mut disk);
    assert!(bytes[..8 * 4096] == [2; 8 * 4096] && bytes[8 * 4096..].iter().all(|it| *it == 0));
    let (counted, real) = counted(&fixture.sr);
    assert_eq!(counted, real);
    drop(disk);
    assert_eq!(fixture.lock().check().unwrap(), [""; 0]);
}

/// The pages are still named by the map of a snapshot without data, and by the one that a clone
/// started from.
#[test]
fn pages_that_another_index_names_are_kept_when_they_are_superseded() {
    let fixture = Fixture::new(64 * MIB);
    let parent = fixture.create(8 << 20);
    fixture.open(&parent, false).unwrap().write(0, &[1; 8192]).unwrap();
    let mut disks = Disks::default();
    let child = fixture.lock().clone_volume(&parent, &mut disks).unwrap().key.to_string();
    disks.0.insert(child.clone(), fixture.open(&child, false).unwrap());
    let old = fixture.lock().snapshot_volume(&child, &mut disks).unwrap().key.to_string();
    let between = fixture.lock().snapshot_volume(&child, &mut disks).unwrap().key.to_string();
    fixture.lock().destroy_volume_data(&old, &mut disks).unwrap();
    fixture.lock().destroy_volume(&between, &mut disks).unwrap();
    disks.0.get_mut(&child).unwrap().write(BLOCK, &[2; 4096]).unwrap();
    assert_eq!(fixture.lock().check().unwrap(), [""; 0]);
    let changed = fixture.lock().changed_blocks(&old, &child, 0, -1).unwrap();
    assert_eq!(changed.bitmap[0], 0x80);
    disks.0.clear();
    fixture.open(&parent, false).unwrap().write(0, &[3; 4096]).unwrap();
    fixture.lock().compose_volumes(&child, &parent, &mut Inactive).unwrap();
    let bytes = content(&mut fixture.open(&child, true).unwrap());
    assert_eq!(
        (bytes[0], bytes[4096]),
        (3, 2),
        "only the update of the child lies over the parent"
    );
}
