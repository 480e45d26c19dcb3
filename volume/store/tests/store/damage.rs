//! A damaged volume is trouble for itself alone: everything else of the SR works, and nothing that
//! its map may name is freed before it is destroyed. What proves the latter: its record is put back
//! after all that was done meanwhile, and it reads as if nothing had happened.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use store::{ErrorKind, Inactive, Name, Sr};

use store::testing::{Disks, Fixture, attachment, content};

const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;
const SIZE: i64 = 6 << 20;

/// `origin` is written to and has the snapshots `old` and `new`; `clone` is one of `old`. All share
/// something with each other. `other` shares nothing.
struct World {
    fixture: Fixture,
    disks: Disks,
}

impl World {
    fn new() -> Self {
        let mut world = Self { fixture: Fixture::new(128 * MIB), disks: Disks::default() };
        let origin = world.fixture.create(SIZE);
        world.name(&origin, "origin");
        world.write("origin", 0, 1500, 1);
        let old = world
            .fixture
            .lock()
            .snapshot_volume(&origin, &mut world.disks)
            .unwrap()
            .key
            .to_string();
        world.name(&old, "old");
        world.write("origin", 10, 20, 2);
        let new = world
            .fixture
            .lock()
            .snapshot_volume(&origin, &mut world.disks)
            .unwrap()
            .key
            .to_string();
        world.name(&new, "new");
        world.write("origin", 20, 20, 3);
        let clone =
            world.fixture.lock().clone_volume(&old, &mut world.disks).unwrap().key.to_string();
        world.name(&clone, "clone");
        world.write("clone", 0, 5, 4);
        let other = world.fixture.create(SIZE);
        world.name(&other, "other");
        world.write("other", 0, 100, 5);
        world
    }

    fn sr(&self) -> &Sr {
        &self.fixture.sr
    }

    fn name(&self, key: &str, name: &str) {
        self.sr().lock().unwrap().set_volume_name(key, name).unwrap();
    }

    fn key(&self, name: &str) -> String {
        let found = self.sr().volumes().unwrap().into_iter().find(|it| it.name == name);
        found.unwrap_or_else(|| panic!("{name}")).key.to_string()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            self.sr().volumes().unwrap().into_iter().map(|it| it.name).collect();
        names.sort();
        names
    }

    fn record(&self, key: &str) -> PathBuf {
        self.sr().layout().volume(&Name::parse(key).unwrap())
    }

    fn write(&mut self, name: &str, first: u64, count: u64, byte: u8) {
        let key = self.key(name);
        let bytes = vec![byte; usize::try_from(count * BLOCK).unwrap()];
        match self.disks.0.get_mut(&key) {
            Some(disk) => disk.write(first * BLOCK, &bytes).unwrap(),
            None => self.fixture.open(&key, false).unwrap().write(first * BLOCK, &bytes).unwrap(),
        }
    }

    fn content(&self, key: &str) -> Vec<u8> {
        content(&mut self.fixture.open(key, true).unwrap())
    }

    fn serve(&mut self, name: &str) {
        let key = self.key(name);
        let disk = self.fixture.open(&key, false).unwrap();
        self.disks.0.insert(key, disk);
    }

    fn used(&self) -> u64 {
        self.sr().stat().unwrap().used
    }
}

/// Everything that is done to an SR, while one of its volumes is damaged.
fn use_everything_else(world: &mut World, damaged: &str) {
    let names = ["origin", "old", "new", "clone", "other"];
    let sound = |name: &str| name != damaged;
    if sound("origin") {
        world.serve("origin");
        world.write("origin", 0, 100, 9);
        let (key, sr) = (world.key("origin"), world.fixture.sr.clone());
        let copy = sr.lock().unwrap().snapshot_volume(&key, &mut world.disks).unwrap().key;
        sr.lock().unwrap().destroy_volume(copy.as_str(), &mut world.disks).unwrap();
    }
    for name in names.into_iter().filter(|name| sound(name) && *name != "origin") {
        let key = world.key(name);
        let sr = world.fixture.sr.clone();
        if sr.volume(&key).unwrap().read_write {
            world.write(name, 0, 50, 8);
            let copy =
                sr.lock().unwrap().snapshot_volume(&key, &mut world.disks).unwrap().key.to_string();
            world.name(&copy, "copy");
            world.write(name, 0, 50, 7);
            sr.lock().unwrap().revert_volume(&copy, &key, &mut world.disks).unwrap();
            sr.lock().unwrap().destroy_volume(&copy, &mut world.disks).unwrap();
        } else {
            let branch =
                sr.lock().unwrap().clone_volume(&key, &mut world.disks).unwrap().key.to_string();
            world.name(&branch, "branch");
            world.write("branch", 0, 1500, 6);
            sr.lock().unwrap().destroy_volume(&branch, &mut world.disks).unwrap();
            sr.lock().unwrap().destroy_volume_data(&key, &mut world.disks).unwrap();
        }
        sr.lock().unwrap().set_volume_key(&key, "k", "v").unwrap();
        sr.lock().unwrap().similar_volumes(&key).unwrap();
        sr.lock().unwrap().destroy_volume(&key, &mut world.disks).unwrap();
    }
    if sound("origin") {
        world.write("origin", 0, 1500, 9);
    }
    world.fixture.create(SIZE);
    let error = world.fixture.lock().collect(&mut world.disks).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    world.disks.0.clear();
    world.sr().lock().unwrap().detach().unwrap();
    let host = &world.fixture.host;
    host.attach(&attachment(host, 128 * MIB)).unwrap();
}

/// The files of a volume, one of which is damaged: which, and how.
fn damages(world: &World, key: &str) -> Vec<(&'static str, PathBuf, Option<Vec<u8>>)> {
    let path = world.record(key);
    let text = fs::read_to_string(&path).unwrap();
    let with = |from: &str, to: &str| {
        assert!(text.contains(from), "{from} in {text}");
        Some(text.replacen(from, to, 1).into_bytes())
    };
    let number: serde_json::Value = serde_json::from_str(&text).unwrap();
    let meta = world.sr().layout().root().join("meta");
    let file = |directory: &str, field: &str| {
        let number = number[field].as_u64().unwrap();
        meta.join(directory).join(format!("{number:08x}"))
    };
    let mut damages = vec![
        ("no JSON", path.clone(), Some(b"\0\0\0".to_vec())),
        ("empty", path.clone(), Some(Vec::new())),
        ("half of it", path.clone(), Some(text.as_bytes()[..text.len() / 2].to_vec())),
        ("another key", path.clone(), with(key, "somebody-else")),
        ("no such size", path.clone(), with("\"size\":6291456", "\"size\":6291457")),
        ("no index", file("index", "index"), None),
    ];
    if number.get("base").is_some() {
        damages.push(("no base", file("index", "base"), None));
    }
    damages
}

#[test]
fn whatever_is_damaged_the_rest_works_and_nothing_of_it_is_freed() {
    for name in ["origin", "old", "new", "clone"] {
        for damage in 0.. {
            let mut world = World::new();
            let key = world.key(name);
            let before = world.content(&key);
            let mut found = damages(&world, &key);
            if damage >= found.len() {
                break;
            }
            let (what, path, bytes) = found.swap_remove(damage);
            let what = format!("{name}: {what}");
            let good = world.fixture.root().join(".good");
            fs::rename(&path, &good).unwrap();
            if let Some(bytes) = bytes {
                fs::write(&path, bytes).unwrap();
            }
            use_everything_else(&mut world, name);
            let wrong = world.sr().lock().unwrap().check().unwrap();
            let told = |text: &String| text.contains(&key) && text.contains("Volume.destroy");
            assert!(wrong.iter().any(told), "{what}: {wrong:#?}");
            fs::rename(&good, &path).unwrap();
            assert!(world.content(&key) == before, "{what}: it reads what it did");
            assert_eq!(world.sr().lock().unwrap().check().unwrap(), [""; 0], "{what}");
            // Now that everything can be read again, what was kept for its sake is freed.
            world.sr().lock().unwrap().collect(&mut Inactive).unwrap();
            assert!(world.content(&key) == before, "{what}: still");
            world.sr().lock().unwrap().destroy_volume(&key, &mut Inactive).unwrap();
            let left = if name == "origin" { 0 } else { 1500 * BLOCK };
            assert_eq!(world.used(), left, "{what}");
        }
    }
}

#[test]
fn a_damaged_volume_is_destroyed_and_all_that_was_kept_for_its_sake_with_it() {
    for name in ["origin", "old", "new", "clone"] {
        for damage in 0.. {
            let mut world = World::new();
            let key = world.key(name);
            let mut found = damages(&world, &key);
            if damage >= found.len() {
                break;
            }
            let (what, path, bytes) = found.swap_remove(damage);
            match bytes {
                Some(bytes) => fs::write(&path, bytes).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            use_everything_else(&mut world, name);
            world.sr().lock().unwrap().destroy_volume(&key, &mut Inactive).unwrap();
            world.sr().lock().unwrap().destroy_volume(&key, &mut Inactive).unwrap();
            assert_eq!(world.sr().lock().unwrap().check().unwrap(), [""; 0], "{name}: {what}");
            let left = if name == "origin" { 0 } else { 1500 * BLOCK };
            assert_eq!(world.used(), left, "{name}: {what}");
            assert_eq!(world.sr().lock().unwrap().collect(&mut Inactive).unwrap(), 0);
        }
    }
}

#[test]
fn a_damaged_volume_that_is_served_is_not_destroyed() {
    let mut world = World::new();
    world.serve("origin");
    let key = world.key("origin");
    fs::write(world.record(&key), "{").unwrap();
    let error = world.sr().lock().unwrap().destroy_volume(&key, &mut Inactive).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::VolumeInUse);
    world.disks.0.clear();
    world.sr().lock().unwrap().destroy_volume(&key, &mut Inactive).unwrap();
}

#[test]
fn a_check_tells_everything_that_is_wrong_at_once() {
    let world = World::new();
    let (origin, clone) = (world.key("origin"), world.key("clone"));
    fs::write(world.record(&origin), "{").unwrap();
    fs::write(world.record(&clone), "{").unwrap();
    let meta = world.sr().layout().root().join("meta");
    fs::write(meta.join("numbers"), "x").unwrap();
    for layer in fs::read_dir(world.sr().layout().root().join("data")).unwrap() {
        fs::remove_file(layer.unwrap().path()).unwrap();
    }
    let other = world.key("other");
    fs::remove_dir_all(meta.join("map")).unwrap();
    let wrong = world.sr().lock().unwrap().check().unwrap();
    for part in [origin.as_str(), &clone, &other, "meta/numbers", "meta/map", "owns layer"] {
        assert!(wrong.iter().any(|text| text.contains(part)), "{part}: {wrong:#?}");
    }
    assert_eq!(world.sr().damaged().unwrap().len(), 2);
    assert_eq!(world.names(), ["new", "old", "other"]);
}

#[test]
fn an_error_about_a_damaged_volume_names_the_file_and_what_to_do() {
    let world = World::new();
    let key = world.key("clone");
    fs::write(world.record(&key), "{\"key\":").unwrap();
    for error in [
        world.sr().volume(&key).unwrap_err(),
        world.sr().lock().unwrap().snapshot_volume(&key, &mut Inactive).unwrap_err(),
        world.fixture.open(&key, true).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let sr = world.sr().uuid();
        let command = format!("volume-plugin Volume.destroy --sr {sr} --key {key}");
        for part in [world.record(&key).to_str().unwrap(), "EOF", command.as_str()] {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
    }
}

#[test]
fn an_sr_whose_record_is_damaged_is_found_and_can_be_destroyed() {
    let world = World::new();
    let (host, sr) = (&world.fixture.host, world.sr());
    fs::write(sr.layout().root().join("meta/sr.json"), "{}").unwrap();
    assert!(host.srs().unwrap().is_empty());
    let found = host.damaged_srs().unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(&found[0].0, sr.uuid());
    let attached = host.attach(&attachment(host, 128 * MIB)).unwrap_err();
    for error in [&found[0].1, &sr.stat().unwrap_err(), &attached] {
        for part in ["meta/sr.json", "volume-plugin reclaim --sr", "xe sr-forget"] {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
    }
    host.destroy(sr.uuid()).unwrap();
    assert!(host.damaged_srs().unwrap().is_empty());
}

/// A check reads what a disk changes at the same time, in an order in which blocks seem to be missing.
#[test]
fn a_disk_that_is_written_to_meanwhile_is_not_taken_for_damaged() {
    const BLOCKS: u64 = 2048;
    let fixture = Fixture::new(64 << 20);
    let key = fixture.create((BLOCKS * 4096).try_into().unwrap());
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut disk = fixture.open(&key, false).unwrap();
            let mut block = 0;
            while !is_over.load(Ordering::Relaxed) {
                block = (block + 811) % BLOCKS;
                disk.write(block * 4096, &[7; 4096]).unwrap();
                disk.discard((block + 405) % BLOCKS * 4096, 4096).unwrap();
            }
        });
        let found: Vec<_> = (0..300).map(|_| fixture.lock().check().unwrap()).collect();
        is_over.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        assert_eq!(found.concat(), [""; 0]);
    });
}
