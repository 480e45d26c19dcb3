//! The messages of our own, almost right, to a process that serves volumes of a real store, while a
//! client writes and the plugin's part, played here, takes snapshots, destroys them and resizes. It is
//! after what a wrong SWITCH, RESIZE or SOLE could do to an SR: all volumes read what they should,
//! `check` is clean, and in the end all memory comes back.
//!
//! In a message of the corpus a path `@...`, and a number whose first byte is 0xf5, stand for what
//! exists only when the test runs.

use std::{fs, path::PathBuf, time::Instant};

use nbd::client::{Client as Nbd, Wish};
use store::{Disk, Error, ErrorKind, Live, Name, Result, Serving, Sr, Switch, testing::Fixture};
use tapctl::{Client, Minor, Open};

use super::{Random, Target, corpus, end, exchange, mutate};

const BLOCK: usize = 4096;
/// A chunk and a half.
const BLOCKS: usize = 1536;
const BLOCKS_MAX: usize = 2 * BLOCKS;
const SR_BYTES: u64 = 64 << 20;
const SNAPSHOTS_MAX: usize = 6;

/// The minors of the two disks.
const MINORS: [u16; 2] = [0, 1];

/// What a block of a volume reads as: one byte all over.
type Model = Vec<u8>;

struct World {
    target: Target,
    fixture: Fixture,
    /// The volumes of the two minors, and one that is not served.
    keys: [String; 3],
    models: [Model; 3],
    snapshots: Vec<(String, Model)>,
    clients: Vec<Nbd>,
}

/// Reaches the process as the volume plugin does; or does not, and leaves a switch undone.
struct Tapdisk {
    client: Client,
    minor: Minor,
    is_reached: bool,
}

impl Live for Tapdisk {
    fn switch(&mut self, _: &Name, _: &Serving, switch: &Switch) -> Result<()> {
        if !self.is_reached {
            return Err(Error::new(ErrorKind::Unresponsive, "no answer"));
        }
        let message = tapctl::Switch { new_top: switch.top, index: switch.index.clone() };
        let done = self.client.switch(self.minor, message);
        done.map_err(|error| Error::new(ErrorKind::Io, error.to_string()))
    }

    fn sole(&mut self, _: &Name, serving: &Serving) -> Result<()> {
        let minor = Minor::try_from(serving.minor).unwrap();
        self.client.sole(minor).map_err(|error| Error::new(ErrorKind::Io, error.to_string()))
    }
}

impl World {
    fn new() -> Self {
        let target = Target::start();
        let fixture = Fixture::new(SR_BYTES);
        let create = || fixture.create(i64::try_from(BLOCKS * BLOCK).unwrap());
        let keys = [create(), create(), create()];
        let models = [vec![0; BLOCKS], vec![0; BLOCKS], vec![0; BLOCKS]];
        let mut world =
            Self { target, fixture, keys, models, snapshots: Vec::new(), clients: Vec::new() };
        for (place, minor) in MINORS.into_iter().enumerate() {
            let path = world.fixture.sr.layout().volume(&Name::parse(&world.keys[place]).unwrap());
            let client = world.target.client();
            client.attach(minor).unwrap();
            client.open(minor, Open::new(format!("ram:{}", path.display()))).unwrap();
            world.connect(minor);
        }
        world
    }

    fn connect(&mut self, minor: u16) {
        let socket = self.target.dir.nbd(self.target.pid, minor);
        self.clients.push(Nbd::connect(socket, &Wish::default()).unwrap());
    }

    fn tapdisk(&self, minor: u16, is_reached: bool) -> Tapdisk {
        Tapdisk { client: self.target.client(), minor, is_reached }
    }

    fn record(&self, place: usize) -> serde_json::Value {
        let path = self.fixture.sr.layout().volume(&Name::parse(&self.keys[place]).unwrap());
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    fn number(&self, place: usize, field: &str) -> u64 {
        self.record(place)[field].as_u64().unwrap()
    }

    fn index(&self, number: u64) -> PathBuf {
        self.fixture.sr.layout().root().join(format!("meta/index/{number:08x}"))
    }

    /// The numbers that the corpus cannot know.
    fn stands_for(&self, number: u64) -> u64 {
        let size =
            |more: i64| u64::try_from(self.models[0].len() as i64 * BLOCK as i64 + more).unwrap();
        match number & 0xff {
            1 => self.number(0, "top"),
            2 => self.number(0, "top") + 1,
            3 => self.number(1, "top"),
            4 => self.number(2, "top"),
            5 => self.number(0, "top").saturating_sub(1),
            17 => size(0),
            18 => size(4096),
            19 => size(4 << 20),
            _ => size(-4096),
        }
    }

    /// The paths that the corpus cannot know, and the file that was made for it, if any.
    fn path(&self, name: &[u8]) -> (PathBuf, bool) {
        let root = self.fixture.sr.layout().root();
        match name {
            b"@fresh" => (self.index(0x00ff_ffff), true),
            b"@own_index" => (self.index(self.number(0, "index")), false),
            b"@other_index" => (self.index(self.number(1, "index")), false),
            b"@record" => (root.join("meta/volume").join(&self.keys[0]), false),
            b"@layer" => (root.join(format!("data/{:08x}", self.number(0, "top"))), false),
            b"@outside" => (self.target.root.path().join("canary"), false),
            b"@directory" => (root.join("meta/index"), false),
            b"@sr" => (root.join("meta/sr.json"), false),
            _ => (self.index(0x00ff_fffe), false),
        }
    }

    /// A message in which whatever it needs to know is what it is now.
    fn complete(&self, mut bytes: Vec<u8>) -> (Vec<u8>, Option<PathBuf>) {
        let first = u64::from_ne_bytes(bytes[280..288].try_into().unwrap());
        if first >> 56 == 0xf5 {
            bytes[280..288].copy_from_slice(&self.stands_for(first).to_ne_bytes());
        }
        if bytes[20] != b'@' {
            return (bytes, None);
        }
        let end = bytes[20..276].iter().position(|&byte| byte == 0).unwrap();
        let (path, is_made) = self.path(&bytes[20..20 + end]);
        if is_made {
            fs::write(&path, "").unwrap();
        }
        bytes[20..276].fill(0);
        let text = path.to_str().unwrap().as_bytes();
        bytes[20..20 + text.len()].copy_from_slice(text);
        (bytes, is_made.then_some(path))
    }

    fn write(&mut self, random: &mut Random) {
        let place = random.below(2);
        let first = random.below(self.models[place].len());
        let count = (1 + random.below(20)).min(self.models[place].len() - first);
        let byte = u8::try_from(1 + random.below(255)).unwrap();
        let byte = if random.one_in(4) { 0 } else { byte };
        let (offset, length) = ((first * BLOCK) as u64, count * BLOCK);
        let client = &mut self.clients[place];
        let done = match byte {
            0 => client.trim(offset, u32::try_from(length).unwrap()),
            byte => client.write(offset, &vec![byte; length]),
        };
        done.unwrap_or_else(|error| panic!("{length} bytes at {offset} of disk {place}: {error}"));
        self.models[place][first..first + count].fill(byte);
    }

    /// What the plugin does.
    fn operate(&mut self, random: &mut Random) {
        let place = random.below(3);
        let minor = MINORS.get(place).copied().unwrap_or_default();
        match random.below(6) {
            0 if self.snapshots.len() >= SNAPSHOTS_MAX => {}
            0 => {
                let made = self
                    .fixture
                    .sr
                    .lock()
                    .unwrap()
                    .snapshot_volume(&self.keys[place], &mut self.tapdisk(minor, true));
                let key = made.unwrap().key.to_string();
                self.snapshots.push((key, self.models[place].clone()));
            }
            1 if place < 2 => {
                // A switch that is never sent: the next message may be it.
                let made = self
                    .fixture
                    .sr
                    .lock()
                    .unwrap()
                    .snapshot_volume(&self.keys[place], &mut self.tapdisk(minor, false));
                assert_eq!(made.unwrap_err().kind(), ErrorKind::Unresponsive);
            }
            2 if self.models[place].len() < BLOCKS_MAX && place < 2 => {
                let blocks = self.models[place].len() + 1 + random.below(100);
                let size = i64::try_from(blocks * BLOCK).unwrap();
                let size =
                    self.fixture.sr.lock().unwrap().resize_volume(&self.keys[place], size).unwrap();
                self.target.client().resize(minor, size).unwrap();
                self.models[place].resize(blocks, 0);
                // Clients are told a size once.
                let old = self.clients.remove(place);
                old.disconnect().unwrap();
                self.connect(minor);
                if place == 0 {
                    self.clients.swap(0, 1);
                }
            }
            // Blocks that were released while other volumes shared their layer fill the SR by and by.
            5 if random.one_in(4) => {
                _ = self.fixture.sr.lock().unwrap().collect(&mut self.tapdisk(minor, true)).unwrap()
            }
            3 | 4 if !self.snapshots.is_empty() => {
                let (key, _) = self.snapshots.remove(random.below(self.snapshots.len()));
                self.fixture
                    .sr
                    .lock()
                    .unwrap()
                    .destroy_volume(&key, &mut self.tapdisk(minor, true))
                    .unwrap();
            }
            _ => {}
        }
    }

    /// Everything reads what it should, and the SR is sound.
    fn check(&mut self, after: &str) {
        self.target.check(after);
        for place in 0..2 {
            let model = &self.models[place];
            let client = &mut self.clients[place];
            let bytes = client.read(0, u32::try_from(model.len() * BLOCK).unwrap()).unwrap();
            assert_model(&bytes, model, after);
        }
        for (key, model) in
            self.snapshots.iter().chain([&(self.keys[2].clone(), self.models[2].clone())])
        {
            assert_model(&read(&self.fixture.sr, key), model, after);
        }
        assert_eq!(self.fixture.sr.lock().unwrap().check().unwrap(), [""; 0], "after {after}");
        let names = fs::read_dir(self.fixture.sr.layout().root().join("meta/index")).unwrap();
        assert!(names.count() < 64, "after {after}");
    }

    fn end(mut self) {
        self.check("everything");
        self.clients.drain(..).for_each(|client| client.disconnect().unwrap());
        let Self { target, fixture, keys, models, snapshots, .. } = self;
        let sr = &fixture.sr;
        target.end();
        for (key, model) in keys.iter().zip(&models) {
            assert_model(&read(sr, key), model, "the end");
        }
        let all = snapshots.iter().map(|(key, _)| key).chain(&keys);
        all.for_each(|key| sr.lock().unwrap().destroy_volume(key, &mut store::Inactive).unwrap());
        sr.lock().unwrap().collect(&mut store::Inactive).unwrap();
        assert_eq!(sr.stat().unwrap().used, 0);
        for directory in ["data", "meta/map", "meta/index"] {
            let left = fs::read_dir(sr.layout().root().join(directory)).unwrap().count();
            assert_eq!(left, 0, "{directory}");
        }
    }
}

/// All bytes of a volume that is not served.
fn read(sr: &Sr, key: &str) -> Vec<u8> {
    let path = sr.layout().volume(&Name::parse(key).unwrap());
    let serving =
        Serving { pid: std::process::id(), control_dir: String::new(), minor: 0, read_only: true };
    let mut disk = Disk::open(&path, &store::Open { serving }).unwrap();
    let mut bytes = vec![0xee; usize::try_from(disk.size()).unwrap()];
    disk.read_into(0, &mut bytes).unwrap();
    bytes
}

fn assert_model(bytes: &[u8], model: &Model, after: &str) {
    assert_eq!(bytes.len(), model.len() * BLOCK, "after {after}");
    for (block, (got, &byte)) in bytes.chunks(BLOCK).zip(model).enumerate() {
        assert!(*got == [byte; BLOCK], "block {block} is not {byte} after {after}");
    }
}

#[test]
fn control_messages_for_volumes() {
    let mut world = World::new();
    let corpus = corpus("volume");
    let (mut random, mut hanging, mut sent) = (Random(3), Vec::new(), 0_u64);
    let control = world.target.dir.ctl(world.target.pid);
    let end = end();
    while Instant::now() < end {
        world.write(&mut random);
        if random.one_in(4) {
            world.operate(&mut random);
        }
        let (name, message) = &corpus[random.below(corpus.len())];
        let (mut bytes, made) = world.complete(message.clone());
        if random.one_in(3) {
            mutate(&mut random, &mut bytes);
        }
        // Whatever it has become, it is one of ours for one of the two disks.
        if let Some(head) = bytes.first_chunk_mut::<4>() {
            let kind = 0x5200_u16 + [5, 7, 9][random.below(3)];
            if !random.one_in(3) && head[1] != 0x52 {
                head[..2].copy_from_slice(&kind.to_ne_bytes());
            }
            let is_ours =
                matches!(u16::from_ne_bytes([head[0], head[1]]), 0x5205 | 0x5207 | 0x5209);
            if !is_ours {
                head[..2].copy_from_slice(&kind.to_ne_bytes());
            }
            head[2..].copy_from_slice(&MINORS[random.below(2)].to_ne_bytes());
        }
        exchange(&mut random, &control, &bytes, &mut hanging);
        if let Some(path) = made {
            // Whether the switch succeeded or not, no record names the layer.
            fs::remove_file(path).unwrap();
        }
        sent += 1;
        if sent % 16 == 0 {
            world.check(name);
        }
    }
    assert!(sent > 50, "{sent} messages are no test");
    drop(hanging);
    world.end();
}
