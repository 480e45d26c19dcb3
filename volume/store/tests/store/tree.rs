//! Trees of snapshots and clones against a plain model, while disks are being served.
//!
//! The model gives every touched block a stamp of its own. Two volumes share memory where they
//! share a stamp that stands for data; a block has changed where stamps differ, and certainly has
//! where contents do; compose takes a child's block where its stamp is not the one it began with.

use std::{
    collections::{BTreeMap, HashSet},
    io::Write,
};

use proptest::{
    prelude::*,
    test_runner::{Config, RngSeed, TestRunner},
};
use store::{Attachment, Disk, ErrorKind, Name, Sr};

use store::testing::{Disks, Fixture, content};

const BLOCK: usize = 4096;
/// Two chunks and a bit.
const BLOCKS: usize = 1024 * 2 + 50;
const VOLUMES_MAX: usize = 24;

#[derive(Clone, Debug)]
enum Op {
    Create,
    Write { volume: usize, block: usize, count: usize },
    WriteZeroes { volume: usize, block: usize, count: usize },
    Discard { volume: usize, block: usize, count: usize },
    Zero { volume: usize, block: usize, count: usize },
    Resize { volume: usize, more: usize },
    Snapshot { volume: usize },
    Clone { volume: usize },
    Revert { volume: usize, to: usize },
    Compose { child: usize, parent: usize },
    DataDestroy { volume: usize },
    Destroy { volume: usize },
    Compare { volume: usize, with: usize },
    Ranges { volume: usize, with: usize },
    Copy { volume: usize },
    Serve { volume: usize, yes: bool },
    Collect,
    Reattach,
}

fn op() -> impl Strategy<Value = Op> {
    let volume = || 0..VOLUMES_MAX;
    let range = || {
        prop_oneof![
            4 => (0..BLOCKS, 1..4_usize),
            6 => (0..BLOCKS, 1..40_usize),
            2 => (prop::sample::select(vec![0, 1000, 1020, 1024, 2040]), 1..1100_usize),
            1 => Just((0, BLOCKS)),
        ]
    };
    prop_oneof![
        2 => Just(Op::Create),
        24 => (volume(), range())
            .prop_map(|(volume, (block, count))| Op::Write { volume, block, count }),
        6 => (volume(), range())
            .prop_map(|(volume, (block, count))| Op::WriteZeroes { volume, block, count }),
        6 => (volume(), range())
            .prop_map(|(volume, (block, count))| Op::Discard { volume, block, count }),
        6 => (volume(), range())
            .prop_map(|(volume, (block, count))| Op::Zero { volume, block, count }),
        1 => (volume(), 1..1500_usize).prop_map(|(volume, more)| Op::Resize { volume, more }),
        8 => volume().prop_map(|volume| Op::Snapshot { volume }),
        6 => volume().prop_map(|volume| Op::Clone { volume }),
        4 => (volume(), volume()).prop_map(|(volume, to)| Op::Revert { volume, to }),
        3 => (volume(), volume()).prop_map(|(child, parent)| Op::Compose { child, parent }),
        4 => volume().prop_map(|volume| Op::DataDestroy { volume }),
        8 => volume().prop_map(|volume| Op::Destroy { volume }),
        6 => (volume(), volume()).prop_map(|(volume, with)| Op::Compare { volume, with }),
        4 => (volume(), volume()).prop_map(|(volume, with)| Op::Ranges { volume, with }),
        1 => volume().prop_map(|volume| Op::Copy { volume }),
        8 => (volume(), any::<bool>()).prop_map(|(volume, yes)| Op::Serve { volume, yes }),
        1 => Just(Op::Collect),
        1 => Just(Op::Reattach),
    ]
}

/// What one block is: when it was touched last, what it reads as (0: zeros), whether it takes memory, and
/// whether that is the volume's own, so that a write changes it in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Block {
    stamp: u32,
    fill: u32,
    takes_memory: bool,
    is_own: bool,
}

impl Block {
    /// A block that a volume has in common with another one from now on.
    fn shared(self) -> Self {
        Self { is_own: false, ..self }
    }
}

#[derive(Clone, Debug)]
struct Model {
    blocks: Vec<Block>,
    base: Vec<Block>,
    writable: bool,
    has_data: bool,
}

struct World {
    fixture: Fixture,
    models: BTreeMap<String, Model>,
    /// The keys in the order of their creation, which chance has no part in.
    keys: Vec<String>,
    disks: Disks,
    stamp: u32,
}

impl World {
    fn new() -> Self {
        let (models, disks) = (BTreeMap::new(), Disks::default());
        let mut world =
            Self { fixture: Fixture::new(2 << 30), models, keys: Vec::new(), disks, stamp: 0 };
        world.apply(&Op::Create);
        world
    }

    fn add(&mut self, key: String, model: Model) {
        self.keys.push(key.clone());
        self.models.insert(key, model);
    }

    fn remove(&mut self, key: &str) -> Model {
        self.keys.retain(|other| other != key);
        self.models.remove(key).unwrap()
    }

    fn pick(&self, volume: usize) -> Option<String> {
        let count = self.keys.len();
        (count > 0).then(|| self.keys[volume % count].clone())
    }

    /// The disk of a writable volume, opened if nobody serves it, and what it should read as.
    fn write(&mut self, volume: usize, act: impl FnOnce(&mut Disk, &mut Model, &mut u32)) {
        let Some(key) = self.pick(volume).filter(|key| self.models[key].writable) else { return };
        let was_served = self.disks.0.contains_key(&key);
        let mut disk = match self.disks.0.remove(&key) {
            Some(disk) => disk,
            None => self.fixture.open(&key, false).unwrap(),
        };
        act(&mut disk, self.models.get_mut(&key).unwrap(), &mut self.stamp);
        if was_served {
            self.disks.0.insert(key, disk);
        }
    }

    fn erase(&mut self, volume: usize, block: usize, count: usize, discard: bool) {
        self.write(volume, |disk, model, stamp| {
            let range = clamp(block, count, model.blocks.len());
            let (offset, length) = ((block * BLOCK) as u64, (range.len() * BLOCK) as u64);
            if discard {
                disk.discard(offset, length).unwrap();
            } else {
                disk.write_zeroes(offset, length, false).unwrap();
            }
            // A discard changes nothing of blocks without data; zeroes that are written are an update.
            for block in model.blocks[range].iter_mut().filter(|it| !discard || it.takes_memory) {
                *stamp += 1;
                *block = Block { stamp: *stamp, ..Block::default() };
            }
        });
    }

    /// Writes blocks of a stamp each, or zeroes, of which only those take memory that had some already.
    fn fill(&mut self, volume: usize, block: usize, count: usize, zeroes: bool) {
        self.write(volume, |disk, model, stamp| {
            let range = clamp(block, count, model.blocks.len());
            let mut bytes = Vec::with_capacity(range.len() * BLOCK);
            for block in &mut model.blocks[range] {
                *stamp += 1;
                let is_own = !zeroes || block.is_own;
                let contents = if zeroes { 0 } else { *stamp };
                *block = Block { stamp: *stamp, fill: contents, takes_memory: is_own, is_own };
                bytes.extend(fill(contents));
            }
            disk.write((block * BLOCK) as u64, &bytes).unwrap();
        });
    }

    fn branch(&mut self, volume: usize, writable: bool) {
        let Some(key) = self.pick(volume) else { return };
        if !self.models[&key].has_data || self.models.len() >= VOLUMES_MAX {
            return;
        }
        let sr = &self.fixture.sr;
        let made = if writable {
            sr.lock().unwrap().clone_volume(&key, &mut self.disks)
        } else {
            sr.lock().unwrap().snapshot_volume(&key, &mut self.disks)
        };
        let origin = self.models.get_mut(&key).unwrap();
        origin.blocks.iter_mut().for_each(|block| *block = block.shared());
        let blocks = origin.blocks.clone();
        let model = Model { base: blocks.clone(), blocks, writable, has_data: true };
        self.add(made.unwrap().key.to_string(), model);
    }

    fn compose(&mut self, child: usize, parent: usize) {
        let (Some(child), Some(parent)) = (self.pick(child), self.pick(parent)) else { return };
        let [over, under] = [&self.models[&child], &self.models[&parent]];
        if child == parent || !over.writable || !over.has_data || !under.has_data {
            return;
        }
        self.disks.0.remove(&child);
        self.disks.0.remove(&parent);
        self.fixture.lock().compose_volumes(&child, &parent, &mut self.disks).unwrap();
        let under = self.remove(&parent);
        let over = self.models.get_mut(&child).unwrap();
        over.blocks.resize(over.blocks.len().max(under.blocks.len()), Block::default());
        for (at, block) in over.blocks.iter_mut().enumerate() {
            if block.stamp == over.base.get(at).copied().unwrap_or_default().stamp {
                *block = under.blocks.get(at).copied().unwrap_or_default();
            }
            // The child writes to a new top.
            *block = block.shared();
        }
    }

    fn compare(&self, volume: usize, with: usize) {
        let (Some(new), Some(old)) = (self.pick(volume), self.pick(with)) else { return };
        let changed = self.fixture.lock().changed_blocks(&old, &new, 0, -1).unwrap();
        let (new, old) = (&self.models[&new].blocks, &self.models[&old].blocks);
        for granule in 0..new.len().div_ceil(16) {
            let blocks = granule * 16..((granule + 1) * 16).min(new.len());
            let any = |differs: fn(Block, Block) -> bool| {
                blocks.clone().any(|at| differs(new[at], old.get(at).copied().unwrap_or_default()))
            };
            let told = changed.bitmap[granule / 8] & (0x80 >> (granule % 8)) != 0;
            assert!(
                told || !any(|a, b| a.fill != b.fill),
                "a change of granule {granule} is missed"
            );
            assert!(!told || any(|a, b| a.stamp != b.stamp), "granule {granule} was never touched");
        }
    }

    /// The same to the block; with one that it shares nothing with, all that holds anything.
    fn ranges(&self, volume: usize, with: usize) {
        let (Some(new), Some(old)) = (self.pick(volume), self.pick(with)) else { return };
        let sr = &self.fixture.sr;
        let related = new == old
            || sr
                .lock()
                .unwrap()
                .similar_volumes(&new)
                .unwrap()
                .iter()
                .any(|it| it.as_str() == old);
        let mut told = HashSet::new();
        for (start, length) in sr.lock().unwrap().compare_volumes(&new, &old).unwrap() {
            told.extend(start as usize / BLOCK..(start + length) as usize / BLOCK);
        }
        for (at, &block) in self.models[&new].blocks.iter().enumerate() {
            let other = self.models[&old].blocks.get(at).filter(|_| related);
            let other = other.copied().unwrap_or_default();
            let told = told.contains(&at);
            assert!(told || block.fill == other.fill, "a change of block {at} is missed");
            assert!(!told || block.stamp != other.stamp, "block {at} was never touched");
        }
    }

    /// Into another SR, where it is all that takes memory, and no block of zeroes does.
    fn copy(&mut self, volume: usize) {
        let Some(key) = self.pick(volume).filter(|key| self.models[key].has_data) else { return };
        let host = &self.fixture.host;
        let uuid = Name::parse("0f0e0d0c-0000-4000-8000-000000000002").unwrap();
        let wanted = Attachment { uuid: uuid.clone(), ..store::testing::attachment(host, 1 << 28) };
        let there: Sr = host.attach(&wanted).unwrap();
        let copy = self
            .fixture
            .sr
            .copy_volume(&key, &there, &mut self.disks, &mut store::Inactive)
            .unwrap();
        let here = std::mem::replace(&mut self.fixture.sr, there);
        let mut disk = self.fixture.open(copy.key.as_str(), true).unwrap();
        let there = std::mem::replace(&mut self.fixture.sr, here);
        // It is taken from a snapshot.
        let model = self.models.get_mut(&key).unwrap();
        model.blocks.iter_mut().for_each(|block| *block = block.shared());
        assert_reads(&mut disk, model, "the copy");
        let data = model.blocks.iter().filter(|block| block.fill != 0).count();
        assert_eq!(there.stat().unwrap().used, (data * BLOCK) as u64);
        drop(disk);
        self.fixture.host.destroy(&uuid).unwrap();
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Create => {
                if self.models.len() < VOLUMES_MAX {
                    let key = self.fixture.create((BLOCKS * BLOCK) as i64);
                    let blocks = vec![Block::default(); BLOCKS];
                    let model = Model { base: Vec::new(), blocks, writable: true, has_data: true };
                    self.add(key, model);
                }
            }
            Op::Write { volume, block, count } => self.fill(volume, block, count, false),
            Op::WriteZeroes { volume, block, count } => self.fill(volume, block, count, true),
            Op::Discard { volume, block, count } => self.erase(volume, block, count, true),
            Op::Zero { volume, block, count } => self.erase(volume, block, count, false),
            Op::Resize { volume, more } => {
                let Some(key) = self.pick(volume) else { return };
                let model = self.models.get_mut(&key).unwrap();
                if model.writable && model.blocks.len() < BLOCKS * 3 {
                    let blocks = model.blocks.len() + more;
                    let size =
                        self.fixture.lock().resize_volume(&key, (blocks * BLOCK) as i64).unwrap();
                    if let Some(disk) = self.disks.0.get_mut(&key) {
                        disk.resize(size).unwrap();
                    }
                    model.blocks.resize(blocks, Block::default());
                }
            }
            Op::Snapshot { volume } => self.branch(volume, false),
            Op::Clone { volume } => self.branch(volume, true),
            Op::Revert { volume, to } => self.revert(volume, to),
            Op::Compose { child, parent } => self.compose(child, parent),
            Op::DataDestroy { volume } => {
                let Some(key) = self.pick(volume) else { return };
                let model = self.models.get_mut(&key).unwrap();
                if model.writable {
                    let refused = self.fixture.lock().destroy_volume_data(&key, &mut self.disks);
                    assert_eq!(refused.unwrap_err().kind(), ErrorKind::BadArgument);
                    return;
                }
                model.has_data = false;
                self.disks.0.remove(&key);
                self.fixture.lock().destroy_volume_data(&key, &mut self.disks).unwrap();
            }
            Op::Destroy { volume } => {
                let Some(key) = self.pick(volume) else { return };
                self.disks.0.remove(&key);
                self.fixture.lock().destroy_volume(&key, &mut self.disks).unwrap();
                self.remove(&key);
            }
            Op::Compare { volume, with } => self.compare(volume, with),
            Op::Ranges { volume, with } => self.ranges(volume, with),
            Op::Copy { volume } => self.copy(volume),
            Op::Serve { volume, yes } => {
                let Some(key) = self.pick(volume).filter(|key| self.models[key].has_data) else {
                    return;
                };
                self.disks.0.remove(&key);
                if yes {
                    let disk = self.fixture.open(&key, !self.models[&key].writable).unwrap();
                    self.disks.0.insert(key, disk);
                }
            }
            Op::Collect => drop(self.fixture.lock().collect(&mut self.disks).unwrap()),
            Op::Reattach => {
                self.disks.0.clear();
                self.fixture.lock().detach().unwrap();
                let host = &self.fixture.host;
                host.attach(&store::testing::attachment(host, 2 << 30)).unwrap();
            }
        }
    }

    fn revert(&mut self, volume: usize, to: usize) {
        let (Some(key), Some(to)) = (self.pick(volume), self.pick(to)) else { return };
        let from = self.models[&to].clone();
        if key == to || from.writable || !from.has_data || !self.models[&key].writable {
            return;
        }
        self.disks.0.remove(&key);
        self.fixture.lock().revert_volume(&to, &key, &mut self.disks).unwrap();
        let model = self.models.get_mut(&key).unwrap();
        let blocks = from.blocks.into_iter().map(Block::shared).collect();
        *model = Model { blocks, writable: true, base: model.base.clone(), ..from };
    }

    /// Contents are right at any time.
    fn check_contents(&mut self) {
        for (key, model) in self.models.iter().filter(|(_, model)| model.has_data) {
            let mut opened;
            let disk = match self.disks.0.get_mut(key) {
                Some(disk) => disk,
                None => {
                    opened = self.fixture.open(key, true).unwrap();
                    &mut opened
                }
            };
            assert_reads(disk, model, key);
        }
        let wrong = self.fixture.lock().check().unwrap();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    /// Each volume says to the block how much data it refers to; while it is served, it may be behind.
    fn check_utilisation(&self) {
        for volume in self.fixture.sr.volumes().unwrap() {
            let model = &self.models[volume.key.as_str()];
            let data = model.blocks.iter().filter(|it| model.has_data && it.takes_memory).count();
            let data = (data * BLOCK) as u64;
            let is_served = self.disks.0.get(volume.key.as_str()).is_some_and(|it| !it.read_only());
            let behind_max = if is_served { (1 << 20) - 1 } else { 0 };
            assert!(
                volume.utilisation.abs_diff(data) <= behind_max,
                "{volume:?} refers to {data} bytes, served: {is_served}"
            );
        }
    }

    /// Once freeing has come to rest, memory is what can still be read, to the block.
    fn check_memory(&mut self) {
        self.fixture.lock().collect(&mut self.disks).unwrap();
        // What a served disk's top holds beyond its map is looked at only when it is let go of.
        self.disks.0.clear();
        self.fixture.lock().collect(&mut self.disks).unwrap();
        let mut readable = HashSet::new();
        for model in self.models.values().filter(|model| model.has_data) {
            let data = model.blocks.iter().enumerate().filter(|(_, block)| block.takes_memory);
            readable.extend(data.map(|(at, block)| (at, block.stamp)));
        }
        let used = self.fixture.sr.stat().unwrap().used;
        assert_eq!(used, (readable.len() * BLOCK) as u64, "memory in use");
    }
}

fn assert_reads(disk: &mut Disk, model: &Model, name: &str) {
    let got = content(disk);
    assert_eq!(got.len(), model.blocks.len() * BLOCK);
    for (at, (block, bytes)) in model.blocks.iter().zip(got.chunks(BLOCK)).enumerate() {
        let alike = bytes[..BLOCK - 4] == bytes[4..];
        let right = alike && bytes[..4] == block.fill.to_ne_bytes();
        assert!(right, "block {at} of {name} is not {}", block.fill);
    }
}

fn fill(fill: u32) -> Vec<u8> {
    fill.to_ne_bytes().repeat(BLOCK / 4)
}

fn clamp(block: usize, count: usize, blocks: usize) -> std::ops::Range<usize> {
    block.min(blocks)..(block + count).min(blocks)
}

/// A number from the environment.
fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// For a long search `STORE_CASES` sets how many sequences are run, `STORE_OPS` how many operations
/// each of them has. `STORE_SEED` runs those again that said that this was their seed.
#[test]
fn any_tree_of_volumes_reads_as_the_model() {
    let seed = setting("STORE_SEED").unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
    let config = Config {
        cases: setting("STORE_CASES").unwrap_or(12),
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 400,
        ..Config::default()
    };
    let length = setting("STORE_OPS").map_or(1..=250_usize, |count| count..=count);
    writeln!(std::io::stderr(), "STORE_SEED={seed}").unwrap();
    let run = TestRunner::new(config).run(&prop::collection::vec(op(), length), |ops| {
        run(&ops);
        Ok(())
    });
    if let Err(error) = run {
        panic!("STORE_SEED={seed}: {error}");
    }
}

fn run(ops: &[Op]) {
    let mut world = World::new();
    for (at, op) in ops.iter().enumerate() {
        world.apply(op);
        let (counted, real) = store::testing::counted(&world.fixture.sr);
        assert_eq!(counted, real, "what is counted and what is in use, after {op:?}");
        world.check_utilisation();
        if at % 25 == 24 {
            world.check_contents();
        }
    }
    world.check_contents();
    world.check_memory();
    world.check_contents();
}
