//! Death at every step. A process is killed before each single system call by which an operation
//! changes the SR; afterwards the SR attaches, is sound, gives back what nobody reads, and reads
//! either as if the operation had never begun or as if it had finished. Then it can be repeated.
//!
//! The process that dies is this test binary once more, which runs only [`dying_process`]. A disk
//! that is being served meanwhile is served from here, over a socket, and either survives the
//! plugin or dies at the same moment.

use std::{
    env, fmt,
    os::unix::{fs::MetadataExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::ExitStatus,
};

use store::{
    Disk, ErrorKind, Host, Inactive, Name, Result, Sr,
    testing::{self, Disks, Fixture, attachment, content, failpoints, host, metadata},
};

use crate::{
    dying::{self, Remote, SIGKILL, TASK},
    killed_disk, killed_resize, mounts,
    operations::{BLOCK, Keys, OTHER_SR, SIZE, SR_BYTES, hidden, operate, other_sr},
};

/// Who serves the disk that is operated on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Served {
    Not,
    Survives,
    DiesToo,
}

/// A volume as everybody sees it. Keys are left to chance, so its name stands for it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    name: String,
    read_write: bool,
    has_data: bool,
    size: u64,
    content: Vec<(u64, u8)>,
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = if self.read_write { "rw" } else { "ro" };
        write!(f, "{} {access} data={} {} bytes", self.name, self.has_data, self.size)?;
        self.content.iter().try_for_each(|(block, byte)| write!(f, " {block}:{byte}"))
    }
}

/// An SR after everything that can be freed was.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    volumes: Vec<Seen>,
    data_bytes: u64,
    /// Of the SR.
    size: u64,
    map_bytes: u64,
    indexes: usize,
    leftovers: usize,
}

struct World {
    fixture: Fixture,
    served: Disks,
}

impl World {
    fn new(served: Served) -> Self {
        let fixture = Fixture::new(SR_BYTES);
        let sr = &fixture.sr;
        let origin = fixture.create(SIZE);
        let rename = |key: &str, name: &str| sr.lock().unwrap().set_volume_name(key, name).unwrap();
        let write = |key: &str, first: u64, count: u64, byte: u8| {
            let bytes = vec![byte; usize::try_from(count * BLOCK).unwrap()];
            fixture.open(key, false).unwrap().write(first * BLOCK, &bytes).unwrap();
        };
        let snapshot = |name: &str| {
            let key = sr
                .lock()
                .unwrap()
                .snapshot_volume(&origin, &mut Disks::default())
                .unwrap()
                .key
                .to_string();
            rename(&key, name);
            key
        };
        rename(&origin, "origin");
        write(&origin, 0, 8, 1);
        write(&origin, 1020, 8, 2);
        let old = snapshot("old");
        write(&origin, 2, 2, 3);
        let past = snapshot("past");
        write(&origin, 4, 2, 4);
        fixture.open(&origin, false).unwrap().discard(6 * BLOCK, BLOCK).unwrap();
        let _new = snapshot("new");
        write(&origin, 1030, 2, 5);
        write(&origin, 0, 1, 6);
        let child =
            sr.lock().unwrap().clone_volume(&old, &mut Disks::default()).unwrap().key.to_string();
        rename(&child, "child");
        write(&child, 1, 1, 7);
        write(&child, 100, 1, 8);
        sr.lock().unwrap().destroy_volume_data(&past, &mut Disks::default()).unwrap();
        let mut world = Self { fixture, served: Disks::default() };
        if served != Served::Not {
            let disk = world.fixture.open(&origin, false).unwrap();
            world.served.0.insert(origin, disk);
        }
        world
    }

    /// Leaves what processes that were killed at other times would have left.
    fn litter(&self) {
        let layout = self.fixture.sr.layout();
        let keys = Keys::of(&self.fixture.sr);
        std::fs::remove_file(layout.volume(&Name::parse(&keys.0["new"]).unwrap())).unwrap();
        let meta = layout.root().join("meta");
        std::fs::write(meta.join("tmp/1-0"), "half a rec").unwrap();
        std::fs::write(meta.join("index/00000001"), "").unwrap();
        let disk = self.fixture.open(&keys.0["child"], true).unwrap();
        drop(disk);
    }

    /// A session of `origin`, if there is to be one.
    fn session(&self, has_begun: bool) {
        let origin = Name::parse(&Keys::of(&self.fixture.sr).0["origin"]).unwrap();
        let known = testing::metadata(&self.fixture.sr).join("datapath").join(origin.as_str());
        std::fs::write(known, "a session").unwrap();
        if has_begun {
            let sr = &self.fixture.sr;
            sr.lock()
                .unwrap()
                .clone_hidden(origin.as_str(), &hidden(), &mut Disks::default())
                .unwrap();
            let mut disk = self.fixture.open(hidden().as_str(), false).unwrap();
            disk.write(0, &[0xcc; 3 * 4096]).unwrap();
        }
    }

    fn operate(&mut self, operation: &str) -> Result<()> {
        let keys = Keys::of(&self.fixture.sr);
        operate(operation, &self.fixture.sr, &keys, &mut self.served)
    }

    /// Has another process do it that dies after so many steps.
    fn die(&mut self, operation: &str, steps: u32) -> ExitStatus {
        dying::run(&self.fixture.host.sr_root, &mut self.served, operation, steps)
    }

    /// Attaches, as xapi does after whatever has happened.
    fn attach(&self) {
        let host = &self.fixture.host;
        host.attach(&attachment(host, SR_BYTES)).unwrap();
        self.assert_sound("attached");
    }

    fn assert_sound(&self, when: &str) {
        let wrong = self.fixture.lock().check().unwrap();
        assert!(wrong.is_empty(), "{when}: {wrong:#?}");
    }

    fn state(&mut self) -> State {
        let volumes = self.volumes();
        self.fixture.lock().collect(&mut self.served).unwrap();
        self.assert_sound("collected");
        assert_eq!(self.volumes(), volumes, "a collection changes nothing that can be read");
        let (counted, real) = testing::counted(&self.fixture.sr);
        assert_eq!(counted, real, "the count is right after a collection");
        let meta = self.fixture.sr.layout().root().join("meta");
        let stat = self.fixture.sr.stat().unwrap();
        assert_eq!(stat.free, stat.total - real, "writers keep to the size that the record has");
        State {
            volumes,
            data_bytes: stat.used,
            size: stat.total,
            map_bytes: allocated(&meta.join("map")),
            indexes: files(&meta.join("index")).len(),
            leftovers: files(&meta.join("tmp")).len() + strays(&meta),
        }
    }

    fn volumes(&mut self) -> Vec<Seen> {
        let mut seen: Vec<Seen> = self
            .fixture
            .sr
            .volumes()
            .unwrap()
            .iter()
            .map(|volume| {
                let key = volume.key.as_str();
                let content = match self.served.0.get_mut(key) {
                    Some(disk) => blocks(disk),
                    None if volume.has_data => blocks(&mut self.fixture.open(key, true).unwrap()),
                    None => Vec::new(),
                };
                Seen {
                    name: volume.name.clone(),
                    read_write: volume.read_write,
                    has_data: volume.has_data,
                    size: volume.size,
                    content,
                }
            })
            .collect();
        seen.sort();
        seen
    }

    /// Nobody's writes are seen by anybody else, whatever was shared with whom.
    fn assert_apart(&mut self) {
        for volume in self.fixture.sr.volumes().unwrap() {
            if !volume.read_write {
                continue;
            }
            let before = self.volumes();
            let (key, at) = (volume.key.as_str(), 5 * BLOCK);
            match self.served.0.get_mut(key) {
                Some(disk) => disk.write(at, &[0xaa; 4096]).unwrap(),
                None => self.fixture.open(key, false).unwrap().write(at, &[0xaa; 4096]).unwrap(),
            }
            let changed = before.iter().zip(self.volumes()).filter(|(a, b)| *a != b).count();
            assert!(changed <= 1, "a write to {} was seen by others", volume.name);
        }
        self.assert_sound("written");
    }
}

/// The blocks that hold data, by what their first byte is; all bytes of a block are alike.
fn blocks(disk: &mut Disk) -> Vec<(u64, u8)> {
    let bytes = content(disk);
    let data = bytes.chunks(4096).enumerate().filter(|(_, block)| block[0] != 0);
    data.map(|(at, block)| {
        assert!(*block == [block[0]; 4096], "block {at} is torn");
        (at as u64, block[0])
    })
    .collect()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// How many volumes that are gone have left a file of their own.
fn strays(meta: &Path) -> usize {
    let names = |directory: &str| files(&meta.join(directory)).into_iter();
    let known: Vec<_> = names("volume").map(|path| path.file_name().unwrap().to_owned()).collect();
    let own = names("serving").chain(names("datapath"));
    own.filter(|path| !known.contains(&path.file_name().unwrap().to_owned())).count()
}

fn allocated(directory: &Path) -> u64 {
    files(directory).iter().map(|path| path.metadata().unwrap().blocks() * 512).sum()
}

/// Kills `operation` before its first step, its second, and so on until it has none left.
fn at_every_step(operation: &str, served: Served) {
    let begin = || {
        let world = World::new(served);
        match operation {
            "collect" => world.litter(),
            "begin a session" => world.session(false),
            "destroy what is in a session" => world.session(true),
            _ => {}
        }
        world
    };
    let allowed = begin().state();
    let mut world = begin();
    world.operate(operation).unwrap();
    let after = world.state();
    // The parent goes last; until then both are there, and composing once more finishes it.
    let half = (operation == "compose").then(|| {
        let parent = allowed.volumes.iter().find(|it| it.name == "origin");
        let mut both = after.volumes.clone();
        both.extend(parent.cloned());
        both.sort();
        both
    });
    for steps in 0.. {
        let mut world = begin();
        let status = world.die(operation, steps);
        if served == Served::DiesToo {
            world.served.0.clear();
        }
        world.attach();
        let state = world.state();
        if status.success() {
            assert!(steps > 2, "{operation} has only {steps} steps");
            assert_eq!(state, after);
            return;
        }
        assert_eq!(status.signal(), Some(SIGKILL), "{operation} failed after {steps} steps");
        if state == after {
            world.assert_apart();
            continue;
        }
        let before = state == allowed || half.as_ref().is_some_and(|half| state.volumes == *half);
        assert!(before, "{operation} killed after {steps} steps: {state:#?} is not {allowed:#?}");
        world.operate(operation).unwrap();
        world.assert_sound("repeated");
        assert_eq!(world.state(), after, "{operation}, repeated after {steps} steps");
        world.assert_apart();
    }
}

/// Runs `task` on a new world after each number of steps until it ends by itself, and hands each
/// world out for a look at it.
fn killed_at_every_step(task: &str, mut look: impl FnMut(World, bool)) {
    for steps in 0.. {
        let mut world = World::new(Served::Not);
        if task == "attach" {
            std::fs::remove_dir_all(world.fixture.sr.layout().root()).unwrap();
        }
        let done = world.die(task, steps).success();
        look(world, done);
        if done {
            assert!(steps > 2, "{task} has only {steps} steps");
            return;
        }
    }
}

/// No attach comes in between: it may be weeks until the next one.
#[test]
fn what_a_killed_operation_leaves_is_collected_by_the_next_one() {
    let operations =
        ["destroy the origin", "revert", "clone of a snapshot", "data_destroy", "copy", "return"];
    for operation in operations {
        for steps in 0.. {
            let mut world = World::new(Served::Not);
            let done = world.die(operation, steps).success();
            drop(world.fixture.lock());
            if operation == "copy" {
                assert_copied_or_not(&world.fixture.host, steps);
            }
            let when = format!("{operation} killed after {steps} steps");
            let shown = world.fixture.sr.volumes().unwrap().len();
            let there = files(&metadata(&world.fixture.sr).join("volume")).len();
            assert_eq!(there, shown, "{when}: nothing is there that is not shown");
            assert_eq!(world.fixture.lock().collect(&mut world.served).unwrap(), 0, "{when}");
            let meta = metadata(&world.fixture.sr);
            assert_eq!(files(&meta.join("tmp")).len(), 0, "{when}");
            let volumes = files(&meta.join("volume")).len();
            let bases = if operation == "clone of a snapshot" { 2 } else { 1 };
            assert!(files(&meta.join("index")).len() <= volumes + bases, "{when}");
            if done {
                break;
            }
        }
    }
}

/// The SR that is copied into, if there is one yet: the next operation there leaves it with the copy or empty.
fn assert_copied_or_not(host: &Host, steps: u32) {
    let Ok(there) = Sr::open(host, OTHER_SR) else { return };
    if there.lock().is_err() {
        return;
    }
    let volumes = there.volumes().unwrap().len();
    let freed = there.lock().unwrap().collect(&mut Inactive).unwrap();
    assert_eq!(freed, 0, "copy killed after {steps} steps");
    let is_empty = there.stat().unwrap().used == 0;
    assert_eq!(is_empty, volumes == 0, "copy killed after {steps} steps");
}

#[test]
fn a_killed_first_attach() {
    killed_at_every_step("attach", |mut world, _| {
        world.attach();
        assert_eq!(world.volumes(), []);
        assert_eq!(world.fixture.host.srs().unwrap().len(), 1);
        let ballast = world.fixture.sr.layout().root().join("meta/ballast");
        assert_eq!(ballast.metadata().unwrap().len(), 1 << 20, "it has what a full SR needs");
        let key = world.fixture.create(SIZE);
        world.fixture.open(&key, false).unwrap().write(0, &[1; 4096]).unwrap();
        assert_eq!(world.state().data_bytes, BLOCK);
    });
}

#[test]
fn a_killed_destruction_of_the_sr() {
    let before = World::new(Served::Not).state();
    killed_at_every_step("destroy the SR", |mut world, done| {
        let Fixture { host, sr, .. } = &world.fixture;
        let destroyed = host.srs().unwrap().is_empty();
        assert!(destroyed || !done);
        if destroyed {
            assert_eq!(sr.stat().unwrap_err().kind(), ErrorKind::SrNotAttached);
        } else {
            assert_eq!(world.state(), before);
        }
        let Fixture { host, sr, .. } = &world.fixture;
        match host.destroy(sr.uuid()) {
            Err(error) => assert!(error.kind() == ErrorKind::SrMissing && destroyed, "{error}"),
            Ok(()) => assert!(!done),
        }
        assert!(!sr.layout().root().exists());
        // Its name can be used again.
        world.attach();
        assert_eq!(world.volumes(), []);
    });
}

#[test]
fn a_killed_copy_is_not_there() {
    let mut before = World::new(Served::Not);
    let origin = before.volumes().into_iter().find(|it| it.name == "origin").unwrap();
    let before = before.state();
    killed_at_every_step("copy", |mut world, done| {
        world.attach();
        let there = other_sr(&world.fixture.host);
        assert!(there.lock().unwrap().check().unwrap().is_empty());
        assert_eq!(world.state(), before, "the SR that is copied from");
        let copies = there.volumes().unwrap();
        assert!(copies.len() == 1 || !done);
        let here = std::mem::replace(&mut world.fixture.sr, there);
        if copies.is_empty() {
            assert_eq!(world.state().data_bytes, 0, "what a copy leaves is collected");
            let keys = Keys::of(&here);
            operate("copy", &here, &keys, &mut Disks::default()).unwrap();
        }
        assert_eq!(world.state().volumes, std::slice::from_ref(&origin));
    });
}

#[test]
#[ignore = "no test by itself: what the child process does that the tests of this module start and kill"]
fn dying_process() {
    let Ok(task) = env::var(TASK) else { return };
    let [operation, steps, root] = task.lines().collect::<Vec<_>>()[..] else { panic!("{task}") };
    let host = host(Path::new(root));
    let mut live = Remote::new(Path::new(root));
    let steps = steps.parse().unwrap();
    if let Some(what) = operation.strip_prefix(mounts::PREFIX) {
        return mounts::operate(what, Path::new(root), steps).unwrap();
    }
    if let Some(what) = operation.strip_prefix(killed_resize::PREFIX) {
        return killed_resize::die(what, Path::new(root), steps).unwrap();
    }
    let wanted = attachment(&host, SR_BYTES);
    match operation {
        "attach" => {
            failpoints::die_after(steps);
            host.attach(&wanted).map(drop)
        }
        "destroy the SR" => {
            failpoints::die_after(steps);
            host.destroy(&wanted.uuid)
        }
        _ => {
            let sr = Sr::open(&host, wanted.uuid.as_str()).unwrap();
            if let Some(script) = operation.strip_prefix(killed_disk::PREFIX) {
                return killed_disk::serve(script, &sr, steps).unwrap();
            }
            let keys = Keys::of(&sr);
            failpoints::die_after(steps);
            operate(operation, &sr, &keys, &mut live)
        }
    }
    .unwrap();
}

macro_rules! at_every_step {
    ($($name:ident: $operation:literal, $served:ident;)*) => {
        $(#[test]
        fn $name() {
            at_every_step($operation, Served::$served);
        })*
    };
}

at_every_step! {
    a_killed_create: "create", Not;
    a_killed_rename: "rename", Not;
    a_killed_resize: "resize", Not;
    a_killed_growth_of_the_sr: "grow the SR", Survives;
    a_killed_shrinking_of_the_sr: "shrink the SR", Survives;
    a_killed_snapshot: "snapshot", Not;
    a_killed_snapshot_of_a_snapshot: "snapshot of a snapshot", Not;
    a_killed_clone: "clone", Not;
    a_killed_clone_of_a_snapshot: "clone of a snapshot", Not;
    a_killed_revert: "revert", Not;
    a_killed_compose: "compose", Not;
    a_killed_data_destroy: "data_destroy", Not;
    a_killed_destroy_of_a_snapshot: "destroy a snapshot", Not;
    a_killed_destroy_of_the_origin: "destroy the origin", Not;
    a_killed_collection: "collect", Not;
    a_killed_beginning_of_a_session: "begin a session", Not;
    a_killed_destroy_of_the_origin_in_a_session: "destroy what is in a session", Not;
    a_killed_return: "return", Not;
    a_killed_snapshot_of_a_served_disk: "snapshot", Survives;
    a_killed_clone_of_a_served_disk: "clone", Survives;
    a_killed_destroy_of_a_served_disks_snapshot: "destroy a snapshot", Survives;
    a_killed_collection_beside_a_served_disk: "collect", Survives;
    a_snapshot_killed_together_with_the_disk: "snapshot", DiesToo;
    a_clone_killed_together_with_the_disk: "clone", DiesToo;
    a_destroy_killed_together_with_the_disk: "destroy a snapshot", DiesToo;
}
