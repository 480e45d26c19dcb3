//! Death of the process that serves a disk, before each single step by which a write, a discard, a
//! zeroing or a switch changes the SR. Afterwards every acknowledged write is intact; of the one that
//! was under way each sector is old or new, and never anybody else's; nobody else sees any of it; the
//! SR is sound; what memory is in use is what can be read; and the disk can be served again.

use std::{
    collections::HashSet,
    fs::OpenOptions,
    io::Write,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
};

use store::{
    Disk, Inactive, Result, Sr,
    testing::{Disks, Fixture, attachment, content, failpoints, open},
};

use crate::dying::{self, SIGKILL};

/// What an operation of [`dying`] begins with that is one of these scripts.
pub(crate) const PREFIX: &str = "serve: ";

const BLOCK: u64 = 4096;
const SECTOR: usize = 512;
/// A chunk and a bit.
const SIZE: u64 = (4 << 20) + 16 * BLOCK;
const SR_BYTES: u64 = 64 << 20;

/// What is done to the disk, in bytes.
#[derive(Clone, Copy, Debug)]
enum Act {
    Write(u64, u64),
    Discard(u64, u64),
    Zero { at: u64, length: u64, keep: bool },
    Snapshot,
}

/// The scripts. Blocks 0 to 24 and 1016 to 1032 are shared with a snapshot, but for 8 to 14 and 1020
/// to 1024, which lie in a frozen layer that only the disk needs, and 14 to 18, which lie in its top.
fn script(name: &str) -> Vec<Act> {
    use Act::{Discard, Snapshot, Write, Zero};
    let blocks = |first: u64, last: u64| (first * BLOCK, (last - first) * BLOCK);
    let write = |first, last| Write(blocks(first, last).0, blocks(first, last).1);
    let discard = |first, last| Discard(blocks(first, last).0, blocks(first, last).1);
    let zero =
        |first, last, keep| Zero { at: blocks(first, last).0, length: blocks(first, last).1, keep };
    match name {
        "writes" => vec![
            write(40, 44),
            Write(300 * BLOCK + 1000, 700),
            write(0, 2),
            write(9, 11),
            Write(12 * BLOCK + 512, 1024),
            Write(4 * BLOCK + 100, 5000),
            // Sole, top and shared; and over the border between two pages of the map.
            write(13, 20),
            write(1018, 1030),
            Write(SIZE - 10, 10),
            write(14, 15),
        ],
        "erasures" => vec![
            discard(14, 16),
            discard(9, 12),
            discard(0, 2),
            Discard(4 * BLOCK + 1, 3 * BLOCK - 2),
            zero(20, 22, false),
            Zero { at: 17 * BLOCK + 100, length: 200, keep: false },
            Zero { at: 1019 * BLOCK + 7, length: 2 * BLOCK, keep: false },
            zero(1026, 1040, false),
            discard(0, 1024),
            write(3, 5),
            // What keeps its memory comes last: by its content it is not told from what does not.
            zero(3, 4, true),
            zero(1024, 1025, true),
        ],
        "switches" => vec![
            write(0, 2),
            Snapshot,
            write(0, 2),
            discard(9, 10),
            Snapshot,
            zero(0, 1, false),
            discard(0, 1024),
            write(1021, 1026),
            Snapshot,
            write(1, 3),
        ],
        _ => panic!("no script {name:?}"),
    }
}

/// What write number `id` puts at an offset: no two sectors of any two writes are alike.
fn byte(id: u8, offset: u64) -> u8 {
    let sector = offset / SECTOR as u64;
    [id, sector as u8, (sector >> 8) as u8, 0x5a][usize::try_from(offset % 4).unwrap()]
}

fn bytes(id: u8, at: u64, length: u64) -> Vec<u8> {
    (at..at + length).map(|offset| byte(id, offset)).collect()
}

/// What a volume should read as, and for each block which write has given it memory.
#[derive(Clone, PartialEq, Eq)]
struct Model {
    content: Vec<u8>,
    stamps: Vec<Option<u8>>,
}

impl Model {
    fn new() -> Self {
        let blocks = usize::try_from(SIZE / BLOCK).unwrap();
        Self { content: vec![0; usize::try_from(SIZE).unwrap()], stamps: vec![None; blocks] }
    }

    fn apply(&mut self, id: u8, act: Act) {
        let range = |at: u64, length: u64| {
            usize::try_from(at).unwrap()..usize::try_from(at + length).unwrap()
        };
        let touched =
            |at: u64, length: u64| range(at / BLOCK, (at + length).div_ceil(BLOCK) - at / BLOCK);
        let whole = |at: u64, length: u64| {
            let first = at.div_ceil(BLOCK);
            range(first, ((at + length) / BLOCK).saturating_sub(first))
        };
        match act {
            Act::Write(at, length) => {
                self.content[range(at, length)].copy_from_slice(&bytes(id, at, length));
                self.stamps[touched(at, length)].fill(Some(id));
            }
            Act::Discard(at, length) => {
                let blocks = whole(at, length);
                self.content[blocks.start * 4096..blocks.end * 4096].fill(0);
                self.stamps[blocks].fill(None);
            }
            Act::Zero { at, length, keep } => {
                self.content[range(at, length)].fill(0);
                for block in touched(at, length) {
                    let is_whole = whole(at, length).contains(&block) && !keep;
                    let had_memory = self.stamps[block].is_some();
                    self.stamps[block] = (!is_whole && (keep || had_memory)).then_some(id);
                }
            }
            Act::Snapshot => {}
        }
    }

    /// This, with each block that reads as it does in `after` as it is there. All sectors of `found`
    /// have to be those of one of the two.
    fn towards(&self, after: &Self, found: &[u8]) -> Self {
        let mut model = self.clone();
        for (sector, got) in found.chunks(SECTOR).enumerate() {
            let range = sector * SECTOR..(sector + 1) * SECTOR;
            let (old, new) = (&self.content[range.clone()], &after.content[range.clone()]);
            assert!(got == old || got == new, "sector {sector} is neither old nor new");
            if got != old {
                model.stamps[sector / 8] = after.stamps[sector / 8];
            }
            model.content[range].copy_from_slice(got);
        }
        model
    }
}

/// Does what the script says to a disk that serves, and notes each act that is acknowledged.
fn act(sr: &Sr, key: &str, disks: &mut Disks, id: u8, act: Act) -> Result<()> {
    let mut disk = |operate: &dyn Fn(&mut Disk) -> Result<()>| {
        operate(disks.0.get_mut(key).expect("served here"))
    };
    match act {
        Act::Write(at, length) => disk(&|disk| disk.write(at, &bytes(id, at, length))),
        Act::Discard(at, length) => disk(&|disk| disk.discard(at, length)),
        Act::Zero { at, length, keep } => disk(&|disk| disk.write_zeroes(at, length, keep)),
        Act::Snapshot => sr.lock().unwrap().snapshot_volume(key, disks).map(drop),
    }
}

fn acknowledged(root: &Path) -> PathBuf {
    root.join(".acknowledged")
}

/// In the process that is to die: opens the one writable volume and obeys the script.
pub(crate) fn serve(name: &str, sr: &Sr, steps: u32) -> Result<()> {
    let volumes = sr.volumes()?;
    let key = volumes.iter().find(|it| it.read_write).unwrap().key.to_string();
    let mut notes = OpenOptions::new()
        .create(true)
        .append(true)
        .open(acknowledged(sr.layout().root().parent().unwrap()))
        .unwrap();
    failpoints::die_after(steps);
    let mut disks = Disks::default();
    disks.0.insert(key.clone(), open(sr, &key, false)?);
    for (id, it) in (1..).zip(script(name)) {
        act(sr, &key, &mut disks, id, it)?;
        notes.write_all(&[id]).unwrap();
    }
    Ok(())
}

struct World {
    fixture: Fixture,
    key: String,
    model: Model,
    /// The snapshot that is there from the beginning.
    old: (String, Model),
}

impl World {
    fn new() -> Self {
        let fixture = Fixture::new(SR_BYTES);
        let key = fixture.create(i64::try_from(SIZE).unwrap());
        let mut model = Model::new();
        let mut disks = Disks::default();
        disks.0.insert(key.clone(), fixture.open(&key, false).unwrap());
        let write = |id: u8, first: u64, last: u64, disks: &mut Disks, model: &mut Model| {
            let it = Act::Write(first * BLOCK, (last - first) * BLOCK);
            act(&fixture.sr, &key, disks, id, it).unwrap();
            model.apply(id, it);
        };
        write(101, 0, 24, &mut disks, &mut model);
        write(102, 1016, 1032, &mut disks, &mut model);
        let old = fixture.lock().snapshot_volume(&key, &mut disks).unwrap().key.to_string();
        let old = (old, model.clone());
        write(103, 8, 16, &mut disks, &mut model);
        write(104, 1020, 1024, &mut disks, &mut model);
        let destroyed = fixture.lock().snapshot_volume(&key, &mut disks).unwrap().key;
        write(105, 14, 18, &mut disks, &mut model);
        fixture.lock().destroy_volume(destroyed.as_str(), &mut disks).unwrap();
        drop(disks);
        Self { fixture, key, model, old }
    }

    fn read(&self, key: &str) -> Vec<u8> {
        content(&mut self.fixture.open(key, true).unwrap())
    }

    /// The contents of the snapshots that the script has made.
    fn snapshots(&self) -> Vec<Vec<u8>> {
        let volumes = self.fixture.sr.volumes().unwrap();
        let new = volumes.iter().filter(|it| !it.read_write && it.key.as_str() != self.old.0);
        new.map(|it| self.read(it.key.as_str())).collect()
    }

    fn assert_sound(&self, models: &[&Model], when: &str) {
        let sr = &self.fixture.sr;
        assert_eq!(sr.lock().unwrap().check().unwrap(), [""; 0], "{when}");
        assert!(self.read(&self.old.0) == self.old.1.content, "{when}: the snapshot has changed");
        let mut readable = HashSet::new();
        for model in models.iter().chain([&&self.old.1]) {
            let stamps = model.stamps.iter().enumerate();
            readable.extend(stamps.filter_map(|(block, stamp)| Some((block, (*stamp)?))));
        }
        sr.lock().unwrap().collect(&mut Inactive).unwrap();
        assert_eq!(sr.stat().unwrap().used, readable.len() as u64 * BLOCK, "{when}: memory in use");
        assert_eq!(sr.lock().unwrap().check().unwrap(), [""; 0], "{when}, collected");
        let referred = self.model.stamps.iter().flatten().count() as u64 * BLOCK;
        assert_eq!(
            sr.volume(&self.key).unwrap().utilisation,
            referred,
            "{when}, what it refers to"
        );
    }
}

/// Kills the process that obeys the script before its first step, its second, and so on.
fn at_every_step(name: &str) {
    let acts = script(name);
    for steps in 0.. {
        let mut world = World::new();
        let root = world.fixture.host.sr_root.clone();
        let status = dying::run(&root, &mut Disks::default(), &format!("{PREFIX}{name}"), steps);
        let done = std::fs::read(acknowledged(&root)).map_or(0, |notes| notes.len());
        let when = format!("{name}, killed after {steps} steps in {:?}", acts.get(done));
        assert!(status.success() || status.signal() == Some(SIGKILL), "{when}: {status}");
        let host = &world.fixture.host;
        host.attach(&attachment(host, SR_BYTES)).unwrap();

        // What was acknowledged, and what that which was not would have made of it.
        let mut model = world.model.clone();
        let mut kept = Vec::new();
        for (id, &it) in (1..).zip(&acts[..done]) {
            model.apply(id, it);
            kept.extend(matches!(it, Act::Snapshot).then(|| model.clone()));
        }
        let mut after = model.clone();
        if let Some(&it) = acts.get(done) {
            after.apply(u8::try_from(done).unwrap() + 1, it);
        }
        let mut snapshots = world.snapshots();
        if snapshots.len() > kept.len() {
            assert!(matches!(acts.get(done), Some(Act::Snapshot)), "{when}: whose snapshot?");
            kept.push(model.clone());
        }
        for kept in &kept {
            let found = snapshots.iter().position(|it| *it == kept.content);
            snapshots.remove(found.unwrap_or_else(|| panic!("{when}: a snapshot is lost")));
        }
        assert!(snapshots.is_empty(), "{when}: a snapshot nobody asked for");
        world.model = model.towards(&after, &world.read(&world.key));
        world.assert_sound(&kept.iter().chain([&world.model]).collect::<Vec<_>>(), &when);
        if status.success() {
            assert!(done == acts.len() && steps > 20, "{name} has only {steps} steps");
            return;
        }

        // It is served again, and the client repeats what was not acknowledged.
        let mut disks = Disks::default();
        disks.0.insert(world.key.clone(), world.fixture.open(&world.key, false).unwrap());
        for (id, &it) in (1..).zip(&acts).skip(done) {
            act(&world.fixture.sr, &world.key, &mut disks, id, it).unwrap();
            world.model.apply(id, it);
            kept.extend(matches!(it, Act::Snapshot).then(|| world.model.clone()));
        }
        drop(disks);
        assert!(world.read(&world.key) == world.model.content, "{when}: repeated");
        world.assert_sound(&kept.iter().chain([&world.model]).collect::<Vec<_>>(), &when);
    }
}

#[test]
fn a_disk_killed_while_it_is_written() {
    at_every_step("writes");
}

#[test]
fn a_disk_killed_while_it_is_discarded_and_zeroed() {
    at_every_step("erasures");
}

#[test]
fn a_disk_killed_while_it_is_switched_to_a_new_top() {
    at_every_step("switches");
}

/// What becomes of the volume when the process that served it was killed.
#[derive(Clone, Copy, Debug)]
enum Then {
    Snapshot,
    Clone,
    /// A snapshot while another process serves it, which was not killed.
    SnapshotOfSuccessor,
    Compose,
}

impl Then {
    fn act(self, world: &World) {
        let (fixture, key) = (&world.fixture, world.key.as_str());
        match self {
            Self::Snapshot => drop(fixture.lock().snapshot_volume(key, &mut Inactive).unwrap()),
            Self::Clone => drop(fixture.lock().clone_volume(key, &mut Inactive).unwrap()),
            Self::SnapshotOfSuccessor => {
                let mut disks = Disks::default();
                disks.0.insert(key.to_owned(), fixture.open(key, false).unwrap());
                fixture.lock().snapshot_volume(key, &mut disks).unwrap();
            }
            Self::Compose => {
                let parent = fixture.create(i64::try_from(SIZE).unwrap());
                fixture.lock().compose_volumes(key, &parent, &mut Inactive).unwrap();
            }
        }
    }
}

/// Kills the process that obeys a script at each of its steps, and destroys all volumes, the newest first or
/// last. No collection is asked for, and a volume that has nothing to do with them stays, so that not
/// everything is garbage.
fn goes_with_its_volumes(then: Then) {
    for name in ["writes", "erasures", "switches"] {
        for steps in 0.. {
            let world = World::new();
            let fixture = &world.fixture;
            let other = fixture.create(i64::try_from(SIZE).unwrap());
            let stays = fixture.lock().snapshot_volume(&other, &mut Inactive).unwrap().key;
            fixture.lock().destroy_volume(&other, &mut Inactive).unwrap();
            let root = &fixture.host.sr_root;
            let status = dying::run(root, &mut Disks::default(), &format!("{PREFIX}{name}"), steps);
            then.act(&world);
            let mut keys: Vec<_> =
                fixture.sr.volumes().unwrap().into_iter().map(|it| it.key).collect();
            keys.retain(|key| *key != stays);
            if steps % 2 == 0 {
                keys.reverse();
            }
            for key in keys {
                fixture.lock().destroy_volume(key.as_str(), &mut Inactive).unwrap();
            }
            let stat = fixture.sr.stat().unwrap();
            let when = format!("{name}, killed after {steps} steps, then {then:?}");
            assert_eq!((stat.used, stat.metadata), (0, BLOCK), "{when}: a record is left");
            if status.success() {
                break;
            }
        }
    }
}

#[test]
fn what_a_killed_disk_leaves_goes_with_a_snapshot() {
    goes_with_its_volumes(Then::Snapshot);
}

#[test]
fn what_a_killed_disk_leaves_goes_with_a_clone() {
    goes_with_its_volumes(Then::Clone);
}

#[test]
fn what_a_killed_disk_leaves_goes_with_a_snapshot_of_its_successor() {
    goes_with_its_volumes(Then::SnapshotOfSuccessor);
}

#[test]
fn what_a_killed_disk_leaves_goes_with_what_it_is_composed_with() {
    goes_with_its_volumes(Then::Compose);
}
