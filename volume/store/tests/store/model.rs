//! What a volume reads is a function of its own writes: random operations on several volumes of
//! one SR against plain vectors, also in small pieces, unaligned, and over reopening.

use std::collections::BTreeMap;

use proptest::prelude::*;
use store::testing::{Fixture, content};

const BLOCK: u64 = 4096;
/// Two chunks and a bit: every border between pages of the map is crossed.
const SIZE: u64 = 9 << 20;

#[derive(Clone, Debug)]
enum Op {
    Write { volume: usize, offset: u64, length: u64, byte: u8 },
    Discard { volume: usize, offset: u64, length: u64 },
    Zero { volume: usize, offset: u64, length: u64, keep: bool },
    Resize { volume: usize, more: u64 },
    Reopen { volume: usize },
    Destroy { volume: usize },
    Create,
}

/// Ranges of every alignment: most short, some over several chunks.
fn range() -> impl Strategy<Value = (u64, u64)> {
    let offset = prop_oneof![0..SIZE, (0..SIZE / BLOCK).prop_map(|block| block * BLOCK)];
    let length = prop_oneof![
        1..3 * BLOCK,
        (1..64_u64).prop_map(|blocks| blocks * BLOCK),
        (1..3_u64).prop_map(|chunks| chunks << 22),
    ];
    (offset, length)
}

fn op() -> impl Strategy<Value = Op> {
    let volume = 0..4_usize;
    let byte = prop_oneof![3 => 1..=255_u8, 1 => Just(0)];
    prop_oneof![
        8 => (volume.clone(), range(), byte).prop_map(|(volume, (offset, length), byte)| {
            Op::Write { volume, offset, length, byte }
        }),
        4 => (volume.clone(), range())
            .prop_map(|(volume, (offset, length))| Op::Discard { volume, offset, length }),
        3 => (volume.clone(), range(), any::<bool>()).prop_map(
            |(volume, (offset, length), keep)| Op::Zero { volume, offset, length, keep }
        ),
        1 => (volume.clone(), 0..2_u64 << 22).prop_map(|(volume, more)| Op::Resize { volume, more }),
        1 => volume.clone().prop_map(|volume| Op::Reopen { volume }),
        1 => volume.prop_map(|volume| Op::Destroy { volume }),
        1 => Just(Op::Create),
    ]
}

struct World {
    fixture: Fixture,
    /// Key, what it should read as, and the open disk.
    volumes: BTreeMap<String, (Vec<u8>, store::Disk)>,
}

impl World {
    fn new() -> Self {
        let mut world = Self { fixture: Fixture::new(1 << 30), volumes: BTreeMap::new() };
        world.create();
        world
    }

    fn create(&mut self) {
        let key = self.fixture.create(i64::try_from(SIZE).unwrap());
        let disk = self.fixture.open(&key, false).unwrap();
        self.volumes.insert(key, (vec![0; usize::try_from(SIZE).unwrap()], disk));
    }

    fn apply(&mut self, op: &Op) {
        let pick = |volumes: &BTreeMap<String, _>, volume: usize| {
            volumes.keys().nth(volume % volumes.len().max(1)).cloned()
        };
        match *op {
            Op::Create => self.create(),
            Op::Write { volume, offset, length, byte } => {
                let Some(key) = pick(&self.volumes, volume) else { return };
                let (model, disk) = self.volumes.get_mut(&key).unwrap();
                let range = clamp(offset, length, model.len());
                let mut data = Vec::with_capacity(range.len());
                for sector in range.start / 512..range.end.div_ceil(512) {
                    // All sectors differ from their neighbours, unless all are zeroes.
                    let end = ((sector + 1) * 512).min(range.end);
                    let is_zero = byte == 0;
                    data.resize(end - range.start, if is_zero { 0 } else { byte ^ sector as u8 });
                }
                disk.write(offset, &data).unwrap();
                model[range].copy_from_slice(&data);
            }
            Op::Discard { volume, offset, length } => {
                let Some(key) = pick(&self.volumes, volume) else { return };
                let (model, disk) = self.volumes.get_mut(&key).unwrap();
                let range = clamp(offset, length, model.len());
                disk.discard(offset, range.len() as u64).unwrap();
                let block = BLOCK as usize;
                // The last block of the disk is whole though the disk may end inside it.
                let end =
                    if range.end == model.len() { range.end } else { range.end / block * block };
                let start = range.start.next_multiple_of(block);
                if start < end {
                    model[start..end].fill(0);
                }
            }
            Op::Zero { volume, offset, length, keep } => {
                let Some(key) = pick(&self.volumes, volume) else { return };
                let (model, disk) = self.volumes.get_mut(&key).unwrap();
                let range = clamp(offset, length, model.len());
                disk.write_zeroes(offset, range.len() as u64, keep).unwrap();
                model[range].fill(0);
            }
            Op::Resize { volume, more } => {
                let Some(key) = pick(&self.volumes, volume) else { return };
                let (model, disk) = self.volumes.get_mut(&key).unwrap();
                let wanted = i64::try_from(model.len() as u64 + more).unwrap();
                let size = self.fixture.lock().resize_volume(&key, wanted).unwrap();
                disk.resize(size).unwrap();
                model.resize(usize::try_from(size).unwrap(), 0);
            }
            Op::Reopen { volume } => {
                let Some(key) = pick(&self.volumes, volume) else { return };
                let (model, disk) = self.volumes.remove(&key).unwrap();
                drop(disk);
                let disk = self.fixture.open(&key, false).unwrap();
                self.volumes.insert(key, (model, disk));
            }
            Op::Destroy { volume } => {
                let Some(key) = pick(&self.volumes, volume) else { return };
                self.volumes.remove(&key);
                self.fixture.lock().destroy_volume(&key, &mut store::Inactive).unwrap();
            }
        }
    }

    fn check(&mut self) {
        let mut readable = 0;
        for (key, (model, disk)) in &mut self.volumes {
            assert!(content(disk) == *model, "volume {key} reads something else");
            readable += used_by(disk);
        }
        assert_eq!(self.fixture.sr.stat().unwrap().used, readable);
    }
}

/// Bytes of a disk that memory is allocated to.
fn used_by(disk: &mut store::Disk) -> u64 {
    let mut used = 0;
    disk.status(0, disk.size(), |length, status| {
        // The last block takes memory as a whole.
        used += if status == store::Status::Data { length.next_multiple_of(BLOCK) } else { 0 };
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    used
}

fn clamp(offset: u64, length: u64, size: usize) -> std::ops::Range<usize> {
    let offset = usize::try_from(offset).unwrap().min(size);
    offset..(offset + usize::try_from(length).unwrap()).min(size)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn volumes_read_what_was_written(ops in prop::collection::vec(op(), 1..60)) {
        let mut world = World::new();
        for op in &ops {
            world.apply(op);
        }
        world.check();
    }
}
