//! Many layers, many snapshots, huge disks: within the limits that every process has (1024
//! descriptors, 65,530 mappings), and without anything that grows with the square of them.

use rustix::process::{Resource, Rlimit, setrlimit};
use store::Disk;

use store::testing::{Disks, Fixture};

const BLOCK: u64 = 4096;
/// `vm.max_map_count`, unless somebody raised it.
const MAPPINGS_MAX: usize = 65_530;

/// Numbers that look like chance and are the same every time (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Makes this process as limited as a tapdisk that nobody has given more.
fn limit_descriptors() {
    let limit = Rlimit { current: Some(1024), maximum: Some(1024) };
    setrlimit(Resource::Nofile, limit).unwrap();
}

fn assert_within_limits() {
    let mappings = std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    assert!(mappings < MAPPINGS_MAX, "{mappings} mappings");
}

fn byte_at(disk: &mut Disk, block: u64) -> u8 {
    let mut byte = [0];
    disk.read_into(block * BLOCK + 17, &mut byte).unwrap();
    byte[0]
}

#[test]
fn a_sparse_tebibyte_with_200_snapshots() {
    limit_descriptors();
    // Here and there over the whole disk, in the way of file systems.
    let somewhere =
        |chance: &mut Chance| (chance.below(32) * (31 << 30) + chance.below(64 << 20)) / BLOCK;
    let fixture = Fixture::new(256 << 20);
    let key = fixture.create(1 << 40);
    let mut disks = Disks::default();
    disks.0.insert(key.clone(), fixture.open(&key, false).unwrap());
    let (mut chance, mut places, mut snapshots) = (Chance(1), Vec::new(), Vec::new());
    for round in 1..=200_u64 {
        let byte = u8::try_from(round).unwrap();
        let disk = disks.0.get_mut(&key).unwrap();
        for _ in 0..4 {
            // Some of them again: written in place, through a mapping that the layer keeps.
            let block = somewhere(&mut chance);
            disk.write(block * BLOCK, &[1; 4096]).unwrap();
            disk.write(block * BLOCK, &[byte; 4096]).unwrap();
            places.push((block, byte));
        }
        snapshots.push((
            fixture.lock().snapshot_volume(&key, &mut disks).unwrap().key.to_string(),
            byte,
        ));
    }
    let read = |disks: &mut Disks| {
        let disk = disks.0.get_mut(&key).unwrap();
        assert!(places.iter().all(|&(block, byte)| byte_at(disk, block) == byte));
        assert_within_limits();
    };
    read(&mut disks);
    while !snapshots.is_empty() {
        let pick = usize::try_from(chance.below(snapshots.len() as u64)).unwrap();
        let (snapshot, last) = snapshots.swap_remove(pick);
        if snapshots.len() % 20 == 0 {
            let mut disk = fixture.open(&snapshot, true).unwrap();
            for &(block, byte) in &places {
                assert_eq!(byte_at(&mut disk, block), if byte <= last { byte } else { 0 });
            }
            drop(disk);
        }
        fixture.lock().destroy_volume(&snapshot, &mut disks).unwrap();
    }
    read(&mut disks);
    assert_eq!(fixture.sr.stat().unwrap().used, places.len() as u64 * BLOCK);
    assert!(fixture.lock().check().unwrap().is_empty());
}

/// Every backup leaves one more layer with something in it.
#[test]
fn a_disk_of_2000_layers() {
    limit_descriptors();
    let fixture = Fixture::new(256 << 20);
    let key = fixture.create(64 << 20);
    let mut disks = Disks::default();
    disks.0.insert(key.clone(), fixture.open(&key, false).unwrap());
    let place = |round: u64| round * 8 % (64 << 8);
    for round in 0..2000_u64 {
        let disk = disks.0.get_mut(&key).unwrap();
        disk.write(place(round) * BLOCK, &[(round % 255) as u8 + 1; 4096]).unwrap();
        let snapshot = fixture.lock().snapshot_volume(&key, &mut disks).unwrap().key;
        fixture.lock().destroy_volume(snapshot.as_str(), &mut disks).unwrap();
    }
    let layers = std::fs::read_dir(fixture.sr.layout().root().join("data")).unwrap().count();
    assert!(layers >= 2000, "{layers} layers");
    let read = |disk: &mut Disk| {
        for round in 0..2000 {
            assert_eq!(byte_at(disk, place(round)), (round % 255) as u8 + 1);
        }
        assert_within_limits();
    };
    read(disks.0.get_mut(&key).unwrap());
    disks.0.clear();
    read(&mut fixture.open(&key, true).unwrap());
    assert!(fixture.lock().check().unwrap().is_empty());
    // It can be written, which frees each layer's block in turn, and deleted.
    let mut disk = fixture.open(&key, false).unwrap();
    for round in 0..1000 {
        disk.write(place(round) * BLOCK, &[1; 4096]).unwrap();
    }
    drop(disk);
    assert_eq!(fixture.sr.stat().unwrap().used, 2000 * BLOCK);
    fixture.lock().destroy_volume(&key, &mut disks).unwrap();
    assert_eq!(fixture.sr.stat().unwrap().used, 0);
    fixture.lock().collect(&mut disks).unwrap();
    for directory in ["data", "meta/map", "meta/index"] {
        let left = std::fs::read_dir(fixture.sr.layout().root().join(directory)).unwrap().count();
        assert_eq!(left, 0, "{directory}");
    }
}
