//! Blocks that are written alone: what they take, and that all operations see them where they have no page of a map.

use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt,
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use store::{
    ErrorKind, Inactive,
    testing::{Disks, Fixture, content, counted, deltas, index, slot_at},
};

use crate::map_pages::metadata;

const BLOCK: u64 = 4096;
const CHUNK: u64 = 4 << 20;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// So many blocks of a chunk are told apart without a page.
const FEW: u64 = 7;

/// A volume of so many chunks, which is served.
fn served(chunks: u64) -> (Fixture, String, Disks) {
    let fixture = Fixture::new(256 * MIB);
    let key = fixture.create(i64::try_from(chunks * CHUNK).unwrap());
    let mut disks = Disks::default();
    disks.0.insert(key.clone(), fixture.open(&key, false).unwrap());
    (fixture, key, disks)
}

fn write(disks: &mut Disks, key: &str, chunk: u64, block: u64, byte: u8) {
    let at = chunk * CHUNK + block * BLOCK;
    disks.0.get_mut(key).unwrap().write(at, &[byte; 4096]).unwrap();
}

/// The bytes of the blocks that are not zeroes, and where these are.
fn blocks(bytes: &[u8]) -> Vec<(usize, u8)> {
    let blocks = bytes.chunks(4096).map(|block| block[0]).enumerate();
    blocks.filter(|(_, byte)| *byte != 0).collect()
}

/// 64 bytes for each, and as much again in each snapshot; nothing else grows with them.
#[test]
fn scattered_blocks_take_a_slot_each_and_one_in_each_snapshot() {
    const CHUNKS: u64 = 256;
    const RECORD: u64 = BLOCK;
    let (fixture, key, mut disks) = served(CHUNKS);
    let metadata = || fixture.sr.stat().unwrap().metadata;
    let empty = metadata();
    (0..CHUNKS).for_each(|chunk| write(&mut disks, &key, chunk, chunk, 1));
    assert_eq!(metadata() - empty, CHUNKS * 64);
    assert_eq!(fixture.sr.stat().unwrap().used, CHUNKS * BLOCK);
    for snapshots in 1..=4 {
        fixture.lock().snapshot_volume(&key, &mut disks).unwrap();
        (0..CHUNKS).for_each(|chunk| write(&mut disks, &key, chunk, chunk + snapshots, 2));
        let own = snapshots * RECORD;
        assert_eq!(metadata() - empty - own, CHUNKS * 64 * (snapshots + 1), "{snapshots}");
    }
    assert_eq!(deltas(&fixture.sr, &key), usize::try_from(CHUNKS).unwrap());
    assert_eq!(fixture.lock().check().unwrap(), [""; 0]);
    let (counted, real) = counted(&fixture.sr);
    assert_eq!(counted, real);
    for volume in fixture.sr.volumes().unwrap() {
        disks.0.remove(volume.key.as_str());
        fixture.lock().destroy_volume(volume.key.as_str(), &mut disks).unwrap();
    }
    let stat = fixture.sr.stat().unwrap();
    assert_eq!((stat.used, stat.metadata), (0, 0));
}

/// The page is made, nothing is left of the slots once no chunk nearby needs them, and all reads as before.
#[test]
fn a_chunk_of_which_more_blocks_are_written_gets_its_page() {
    let (fixture, key, mut disks) = served(2);
    for block in 0..FEW {
        write(&mut disks, &key, 0, block * 100, 1 + block as u8);
        write(&mut disks, &key, 1, block, 1);
    }
    assert_eq!((metadata(&fixture).0, deltas(&fixture.sr, &key)), (0, 2), "no page yet");
    write(&mut disks, &key, 0, 1, 9);
    assert_eq!((metadata(&fixture).0, deltas(&fixture.sr, &key)), (BLOCK, 1));
    let before = fixture.sr.stat().unwrap().metadata;
    write(&mut disks, &key, 1, 9, 9);
    assert_eq!((metadata(&fixture).0, deltas(&fixture.sr, &key)), (2 * BLOCK, 0));
    // One page more, and the page with the slots is not there any more; the index names both pages.
    assert_eq!(fixture.sr.stat().unwrap().metadata, before);
    let mut expected: Vec<_> = (0..7).map(|block| (block * 100, 1 + block as u8)).collect();
    expected.insert(1, (1, 9));
    expected.extend((0..7).map(|block| (1024 + block, 1)));
    expected.push((1024 + 9, 9));
    assert_eq!(blocks(&content(disks.0.get_mut(&key).unwrap())), expected);
    disks.0.clear();
    assert_eq!(blocks(&content(&mut fixture.open(&key, true).unwrap())), expected);
    assert_eq!(fixture.lock().check().unwrap(), [""; 0]);
}

/// A slot that was used under an earlier top, and one for another value of the whole chunk, say nothing of what a
/// chunk is now.
#[test]
fn what_a_slot_said_before_does_not_come_back() {
    let (fixture, key, mut disks) = served(2);
    // It keeps the page with the slots.
    write(&mut disks, &key, 1, 0, 1);
    for round in 1..6_u8 {
        write(&mut disks, &key, 0, 5, round);
        let disk = disks.0.get_mut(&key).unwrap();
        disk.write_zeroes(0, CHUNK, false).unwrap();
        assert_eq!(blocks(&content(disk)), [(1024, 1)], "round {round}");
        write(&mut disks, &key, 0, 6, round);
        (0..FEW).for_each(|block| write(&mut disks, &key, 0, block, round));
        fixture.lock().snapshot_volume(&key, &mut disks).unwrap();
        write(&mut disks, &key, 0, 3, 99);
        disks.0.clear();
        disks.0.insert(key.clone(), fixture.open(&key, false).unwrap());
        let mut expected: Vec<_> = (0..7).map(|block| (block, round)).collect();
        expected[3].1 = 99;
        expected.push((1024, 1));
        assert_eq!(blocks(&content(disks.0.get_mut(&key).unwrap())), expected, "round {round}");
        disks.0.get_mut(&key).unwrap().write_zeroes(0, CHUNK, false).unwrap();
        assert_eq!(blocks(&content(disks.0.get_mut(&key).unwrap())), [(1024, 1)], "round {round}");
        // Zeroed again under the same top, in a slot and with a page, and read from the file.
        for written in [1, FEW + 1] {
            (0..written).for_each(|block| write(&mut disks, &key, 0, block, round));
            disks.0.get_mut(&key).unwrap().write_zeroes(0, CHUNK, false).unwrap();
            disks.0.clear();
            disks.0.insert(key.clone(), fixture.open(&key, false).unwrap());
            let read = blocks(&content(disks.0.get_mut(&key).unwrap()));
            assert_eq!(read, [(1024, 1)], "round {round}, {written} written");
            // Blocks that were freed read as zeroes, too: no index may name them.
            let named = deltas(&fixture.sr, &key);
            assert_eq!(named, 1, "round {round}, {written} written: the other chunk alone");
        }
    }
    assert_eq!(fixture.lock().check().unwrap(), [""; 0]);
}

/// Blocks below pages that a snapshot has, changed one by one: each operation on volumes sees these.
#[test]
fn operations_see_single_blocks_over_a_page() {
    let (fixture, key, mut disks) = served(1);
    disks.0.get_mut(&key).unwrap().write(0, &[1; 64 * 4096]).unwrap();
    let lock = || fixture.lock();
    let old = lock().snapshot_volume(&key, &mut disks).unwrap().key.to_string();
    write(&mut disks, &key, 0, 3, 2);
    disks.0.get_mut(&key).unwrap().discard(5 * BLOCK, BLOCK).unwrap();
    let new = lock().snapshot_volume(&key, &mut disks).unwrap().key.to_string();
    write(&mut disks, &key, 0, 7, 3);
    assert_eq!([&key, &new, &old].map(|it| deltas(&fixture.sr, it)), [1, 1, 0]);
    let changed = |one: &str, other: &str| lock().compare_volumes(one, other).unwrap();
    let block = |number: u64| (number * BLOCK, BLOCK);
    assert_eq!(changed(&key, &old), [3, 5, 7].map(block));
    assert_eq!(changed(&new, &old), [3, 5].map(block));
    assert_eq!(changed(&key, &new), [7].map(block));
    // What only the map of is left can still be told from.
    lock().destroy_volume_data(&new, &mut disks).unwrap();
    assert_eq!(changed(&key, &new), [7].map(block));
    assert_eq!(fixture.sr.stat().unwrap().used, (64 + 2) * BLOCK);
    // A clone, its own changes, and all of it over another one.
    let clone = lock().clone_volume(&key, &mut disks).unwrap().key.to_string();
    disks.0.insert(clone.clone(), fixture.open(&clone, false).unwrap());
    write(&mut disks, &clone, 0, 9, 4);
    write(&mut disks, &key, 0, 11, 5);
    disks.0.clear();
    lock().compose_volumes(&clone, &key, &mut Inactive).unwrap();
    let mut expected: Vec<_> = (0..64).map(|block| (block, 1)).collect();
    for (block, byte) in [(3, 2), (7, 3), (9, 4), (11, 5)] {
        expected[block].1 = byte;
    }
    expected.remove(5);
    assert_eq!(blocks(&content(&mut fixture.open(&clone, true).unwrap())), expected);
    assert_eq!(deltas(&fixture.sr, &clone), 1, "few blocks over the page of the snapshot");
    lock().revert_volume(&old, &clone, &mut Inactive).unwrap();
    assert_eq!(content(&mut fixture.open(&clone, true).unwrap())[..64 * 4096], [1; 64 * 4096]);
    assert_eq!(fixture.sr.stat().unwrap().used, 64 * BLOCK);
    assert_eq!(lock().check().unwrap(), [""; 0]);
}

/// A child that was reverted to a time before a block was written has nothing where the page of its parent has data.
/// No slot can say that of a block.
#[test]
fn a_block_that_a_child_has_never_had_is_no_data_of_the_page_below() {
    let (fixture, key, mut disks) = served(1);
    let lock = || fixture.lock();
    (0..FEW).for_each(|block| write(&mut disks, &key, 0, block, 1));
    let before = lock().snapshot_volume(&key, &mut disks).unwrap().key.to_string();
    write(&mut disks, &key, 0, FEW, 2);
    assert_eq!(deltas(&fixture.sr, &key), 0, "it has a page");
    let clone = lock().clone_volume(&key, &mut disks).unwrap().key.to_string();
    lock().revert_volume(&before, &clone, &mut Inactive).unwrap();
    disks.0.clear();
    lock().compose_volumes(&clone, &key, &mut Inactive).unwrap();
    let expected: Vec<_> = (0..7).map(|block| (block, 1)).collect();
    assert_eq!(blocks(&content(&mut fixture.open(&clone, true).unwrap())), expected);
    assert_eq!(lock().check().unwrap(), [""; 0]);
    let (counted, real) = counted(&fixture.sr);
    assert_eq!(counted, real);
}

/// Slots that say what no disk has written are told, and the volume is not used.
#[test]
fn a_slot_that_makes_no_sense_is_told() {
    let word = |at: u64, value: u32| (at, value.to_ne_bytes());
    // A block twice, an entry that says nothing, a block that is not there, and a slot for another entry.
    for (what, (at, bytes)) in [
        ("makes no sense", word(8 + 8, 5 | 1 << 10)),
        ("makes no sense", word(8 + 4, 0)),
        ("is not in layer", word(8 + 4, 2)),
        ("is about something else", word(0, 7)),
    ] {
        let (fixture, key, mut disks) = served(4);
        write(&mut disks, &key, 2, 5, 1);
        write(&mut disks, &key, 2, 6, 1);
        let snapshot = fixture.lock().snapshot_volume(&key, &mut disks).unwrap().key.to_string();
        let path = index(&fixture.sr, &snapshot);
        let file = OpenOptions::new().write(true).open(path).unwrap();
        assert_eq!(fixture.lock().check().unwrap(), [""; 0]);
        file.write_all_at(&bytes, slot_at(2) + at).unwrap();
        let wrong = fixture.lock().check().unwrap();
        let told = |text: &String| text.contains(what) && text.contains(&snapshot);
        assert!(wrong.iter().any(told), "{what}: {wrong:#?}");
        if what == "makes no sense" {
            let error = fixture.open(&snapshot, true).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        }
    }
}

/// Ends the look of another thread, also where the one that has this panics.
struct Until<'a>(&'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Operations read slots, entries and pages while a disk fills slots, gives chunks their pages, zeroes them as
/// a whole and begins slots anew. The first block of each chunk has changed all the time.
#[test]
fn what_operations_see_of_a_disk_that_is_written_to_was_there() {
    const CHUNKS: u64 = 8;
    let (fixture, key, mut disks) = served(CHUNKS);
    let mut looked = 0;
    for round in 0..200_u64 {
        let old = fixture.lock().snapshot_volume(&key, &mut disks).unwrap().key.to_string();
        (0..CHUNKS).for_each(|chunk| write(&mut disks, &key, chunk, 0, round as u8 | 1));
        let (is_over, both_begin) = (AtomicBool::new(false), Barrier::new(2));
        looked += thread::scope(|scope| {
            let looking = scope.spawn(|| {
                both_begin.wait();
                let mut looks = 0;
                loop {
                    let changed = fixture.lock().compare_volumes(&key, &old).unwrap();
                    for chunk in 0..CHUNKS {
                        let at = chunk * CHUNK;
                        let has =
                            |&(start, length): &(u64, u64)| start <= at && at < start + length;
                        let when = format!("round {round}, chunk {chunk}: {changed:?}");
                        assert!(changed.iter().any(has), "{when}");
                    }
                    looks += 1;
                    if is_over.load(Ordering::Relaxed) {
                        return looks;
                    }
                }
            });
            both_begin.wait();
            let until = Until(&is_over);
            for chunk in (0..CHUNKS).map(|chunk| (chunk + round) % CHUNKS) {
                for block in 0..=FEW {
                    write(&mut disks, &key, chunk, block * 37 + round % 4, 2);
                }
                if (chunk + round) % 3 == 0 {
                    let disk = disks.0.get_mut(&key).unwrap();
                    disk.write_zeroes(chunk * CHUNK, CHUNK, false).unwrap();
                    write(&mut disks, &key, chunk, 500, 3);
                }
            }
            drop(until);
            looking.join().unwrap()
        });
        fixture.lock().destroy_volume(&old, &mut disks).unwrap();
    }
    assert!(looked >= 200, "{looked} looks");
    let before = content(disks.0.get_mut(&key).unwrap());
    disks.0.clear();
    fixture.lock().collect(&mut Inactive).unwrap();
    assert!(content(&mut fixture.open(&key, true).unwrap()) == before);
    assert_eq!(fixture.lock().check().unwrap(), [""; 0]);
}

/// A disk of many chunks of which one block each is written is opened, snapshotted and destroyed; nothing of it is
/// left, and what is counted is what is there.
#[test]
fn a_large_disk_of_scattered_blocks_comes_and_goes() {
    let fixture = Fixture::new(256 * MIB);
    let key = fixture.create(i64::try_from(64 * GIB).unwrap());
    let mut disk = fixture.open(&key, false).unwrap();
    for at in (0..64 * GIB).step_by(usize::try_from(4 * MIB).unwrap()) {
        disk.write(at, &[1; 4096]).unwrap();
    }
    drop(disk);
    let stat = fixture.sr.stat().unwrap();
    let count = 64 * GIB / CHUNK;
    assert_eq!(stat.used, count * BLOCK);
    assert!(stat.metadata / count < 70, "{} bytes for each block", stat.metadata / count);
    let mut disks = Disks::default();
    disks.0.insert(key.clone(), fixture.open(&key, false).unwrap());
    let snapshot = fixture.lock().snapshot_volume(&key, &mut disks).unwrap().key;
    let (counted, real) = counted(&fixture.sr);
    assert_eq!(counted, real);
    disks.0.clear();
    fixture.lock().destroy_volume(&key, &mut Inactive).unwrap();
    assert_eq!(fixture.lock().check().unwrap(), [""; 0]);
    fixture.lock().destroy_volume(snapshot.as_str(), &mut Inactive).unwrap();
    let stat = fixture.sr.stat().unwrap();
    assert_eq!((stat.used, stat.metadata), (0, 0));
}
