//! Blocks of zeroes that are written take no memory, unless the block has some already: by what is
//! counted, and by what the files of the SR take.

use std::os::unix::fs::MetadataExt;

use store::{
    Disk, ErrorKind, Inactive,
    testing::{Fixture, content, counted},
};

use crate::{map_pages::metadata, numbers::Numbers};

const BLOCK: usize = 4096;
const MIB: usize = 1 << 20;

/// Bytes that the files of layers take.
fn data_files(fixture: &Fixture) -> u64 {
    let files = std::fs::read_dir(fixture.sr.layout().root().join("data")).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().blocks() * 512).sum()
}

/// Blocks of data that the SR holds.
fn blocks(fixture: &Fixture) -> u64 {
    let stat = fixture.sr.stat().unwrap();
    let (counted, real) = counted(&fixture.sr);
    assert_eq!((stat.used, counted), (data_files(fixture), real));
    stat.used / BLOCK as u64
}

fn disk(fixture: &Fixture, bytes: usize) -> (String, Disk) {
    let key = fixture.create(i64::try_from(bytes).unwrap());
    let disk = fixture.open(&key, false).unwrap();
    (key, disk)
}

#[test]
fn zeroes_that_are_written_to_a_new_disk_take_no_memory_and_no_page_of_the_map() {
    for step in [BLOCK, 3 * BLOCK, MIB, 8 * MIB] {
        let fixture = Fixture::new(64 << 20);
        let (_, mut disk) = disk(&fixture, 16 * MIB);
        for at in (0..16 * MIB).step_by(step) {
            let bytes = vec![0; step.min(16 * MIB - at)];
            disk.write(at as u64, &bytes).unwrap();
        }
        assert_eq!((blocks(&fixture), metadata(&fixture).0), (0, 0), "{step} bytes at a time");
        assert!(content(&mut disk) == vec![0; 16 * MIB]);
    }
}

/// Each run of a write is stored as what it is, wherever the other bytes of a block are.
#[test]
fn of_a_mixed_write_only_blocks_with_data_take_memory() {
    let fixture = Fixture::new(64 << 20);
    let mut numbers = Numbers::new(7);
    for round in 0..20 {
        let (key, mut disk) = disk(&fixture, 8 * MIB);
        let mut bytes = vec![0; 8 * MIB];
        let mut data = 0;
        for block in bytes.chunks_mut(BLOCK) {
            if numbers.next(3) == 0 {
                // One byte anywhere.
                block[usize::try_from(numbers.next(BLOCK as u64)).unwrap()] = 1;
                data += 1;
            }
        }
        disk.write(0, &bytes).unwrap();
        assert_eq!(blocks(&fixture), data, "round {round}");
        assert!(content(&mut disk) == bytes, "round {round}");
        drop(disk);
        fixture.lock().destroy_volume(&key, &mut Inactive).unwrap();
    }
}

#[test]
fn zeroes_over_data_of_the_top_stay_in_place_and_over_shared_data_let_go_of_it() {
    let fixture = Fixture::new(64 << 20);
    let (key, mut disk) = disk(&fixture, 4 * MIB);
    disk.write(0, &[1; 16 * BLOCK]).unwrap();
    disk.write(0, &[0; 8 * BLOCK]).unwrap();
    assert_eq!(blocks(&fixture), 16, "in place");
    drop(disk);
    let snapshot = fixture.lock().snapshot_volume(&key, &mut Inactive).unwrap().key;
    let mut disk = fixture.open(&key, false).unwrap();
    disk.write(0, &[0; 12 * BLOCK]).unwrap();
    assert_eq!(blocks(&fixture), 16, "the snapshot keeps its blocks, the disk has no new ones");
    drop(disk);
    fixture.lock().destroy_volume(snapshot.as_str(), &mut Inactive).unwrap();
    assert_eq!(blocks(&fixture), 4, "what the disk still refers to");
    // From now on only this disk needs the layer.
    let mut disk = fixture.open(&key, false).unwrap();
    disk.write(12 * BLOCK as u64, &[0; 2 * BLOCK]).unwrap();
    assert_eq!(blocks(&fixture), 2, "a block that only this disk needed is freed at once");
    let mut expected = vec![0; 4 * MIB];
    expected[14 * BLOCK..16 * BLOCK].fill(1);
    assert!(content(&mut disk) == expected);
}

#[test]
fn a_write_of_less_than_a_block_takes_memory_only_where_the_block_is_not_all_zeroes_then() {
    let fixture = Fixture::new(64 << 20);
    let (key, mut disk) = disk(&fixture, 4 * MIB);
    disk.write(700, &[0; 300]).unwrap();
    assert_eq!(blocks(&fixture), 0);
    disk.write(BLOCK as u64 + 512, &[5; 512]).unwrap();
    drop(disk);
    fixture.lock().snapshot_volume(&key, &mut Inactive).unwrap();
    let mut disk = fixture.open(&key, false).unwrap();
    disk.write(BLOCK as u64, &[0; 512]).unwrap();
    assert_eq!(blocks(&fixture), 2, "the rest of the block is data");
    drop(disk);
    fixture.lock().snapshot_volume(&key, &mut Inactive).unwrap();
    let mut disk = fixture.open(&key, false).unwrap();
    disk.write(BLOCK as u64 + 512, &[0; 512]).unwrap();
    assert_eq!(blocks(&fixture), 2, "nothing is left in the block");
    assert!(content(&mut disk) == vec![0; 4 * MIB]);
}

#[test]
fn zeroes_that_are_to_keep_memory_do() {
    let fixture = Fixture::new(64 << 20);
    let (_, mut disk) = disk(&fixture, 4 * MIB);
    disk.write(0, &vec![0; MIB]).unwrap();
    disk.write_zeroes(0, 2 * MIB as u64, true).unwrap();
    assert_eq!(blocks(&fixture), 2 * 256);
}

/// What lies below it in another volume does not shine through when the two are composed, and a backup
/// hears of it.
#[test]
fn zeroes_that_were_written_are_an_update() {
    let fixture = Fixture::new(64 << 20);
    let (parent, mut disk) = disk(&fixture, 4 * MIB);
    disk.write(0, &vec![9; MIB]).unwrap();
    drop(disk);
    let leaf = fixture.create(4 << 20);
    fixture.open(&leaf, false).unwrap().write(0, &vec![0; MIB / 2]).unwrap();
    fixture.lock().compose_volumes(&leaf, &parent, &mut Inactive).unwrap();
    let bytes = content(&mut fixture.open(&leaf, true).unwrap());
    assert!(bytes[..MIB / 2].iter().all(|&byte| byte == 0));
    assert!(bytes[MIB / 2..MIB].iter().all(|&byte| byte == 9));
    assert_eq!(blocks(&fixture), 128);
    let before = fixture.lock().snapshot_volume(&leaf, &mut Inactive).unwrap().key;
    fixture.open(&leaf, false).unwrap().write(MIB as u64 * 3 / 4, &[0; BLOCK]).unwrap();
    let changed = fixture.lock().changed_blocks(before.as_str(), &leaf, 0, -1).unwrap();
    assert_eq!(changed.bitmap[..3], [0, 0x08, 0]);
}

/// The remedy for a full SR that a guest without discard has.
#[test]
fn a_full_sr_takes_zeroes() {
    let fixture = Fixture::new(4 << 20);
    let (key, mut disk) = disk(&fixture, 64 * MIB);
    disk.write(0, &vec![3; MIB]).unwrap();
    drop(disk);
    let snapshot = fixture.lock().snapshot_volume(&key, &mut Inactive).unwrap().key;
    let mut disk = fixture.open(&key, false).unwrap();
    let full = (1..).find_map(|at| disk.write((at * MIB) as u64, &vec![3; MIB]).err()).unwrap();
    assert_eq!(full.kind(), ErrorKind::NoSpace);
    disk.write(0, &vec![0; MIB]).unwrap();
    disk.write(32 * MIB as u64, &vec![0; MIB]).unwrap();
    assert!(disk.no_room().is_some(), "there is still no memory for data");
    drop(disk);
    fixture.lock().destroy_volume(snapshot.as_str(), &mut Inactive).unwrap();
    let mut disk = fixture.open(&key, false).unwrap();
    disk.write(32 * MIB as u64, &vec![4; MIB / 2]).unwrap();
}

/// The end of a run of holes is where the first block of data begins.
#[test]
fn a_write_of_zeroes_that_ends_in_data_of_the_top_keeps_it() {
    let fixture = Fixture::new(64 << 20);
    let (key, mut disk) = disk(&fixture, 8 * MIB);
    disk.write(967 * BLOCK as u64, &[1; 34 * BLOCK]).unwrap();
    disk.write(0, &vec![0; 968 * BLOCK]).unwrap();
    assert_eq!(blocks(&fixture), 34);
    drop(disk);
    assert_eq!(fixture.sr.volume(&key).unwrap().utilisation, 34 * BLOCK as u64);
}
