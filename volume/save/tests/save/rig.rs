//! An SR on tmpfs whose volumes share data in every way, a directory for its saves on a disk, and everything
//! that can be seen of the SR.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use save::{Generation, Saves, Written};
use scratch::Scratch;
use store::{
    Inactive, Name, Restore, Restored, Result, Sr, Volume,
    testing::{Fixture, SR_UUID, attachment, content, open},
};

pub(crate) const BLOCK: u64 = 4096;
pub(crate) const SR_BYTES: u64 = 64 << 20;
/// Two chunks and a bit.
const SIZE: i64 = (8 << 20) + 16 * 4096;

/// Everything of an SR that outlives a restart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) volumes: Vec<Volume>,
    /// By key.
    pub(crate) contents: BTreeMap<String, Vec<u8>>,
    /// What has changed between each two volumes.
    changes: Vec<Vec<(u64, u64)>>,
    data_bytes: u64,
}

impl Seen {
    pub(crate) fn of(sr: &Sr) -> Self {
        let volumes = sr.volumes().unwrap();
        let mut seen = Self {
            contents: BTreeMap::new(),
            changes: Vec::new(),
            data_bytes: sr.stat().unwrap().used,
            volumes: Vec::new(),
        };
        for volume in &volumes {
            let key = volume.key.as_str();
            if volume.has_data {
                seen.contents.insert(key.to_owned(), content(&mut open(sr, key, true).unwrap()));
            }
            for other in &volumes {
                let changes = sr.lock().unwrap().compare_volumes(key, other.key.as_str());
                seen.changes.push(changes.unwrap());
            }
        }
        seen.volumes = volumes;
        seen
    }
}

pub(crate) struct World {
    pub(crate) fixture: Fixture,
    on_disk: Scratch,
}

impl World {
    /// An SR with nothing in it.
    pub(crate) fn empty() -> Self {
        Self { fixture: Fixture::new(SR_BYTES), on_disk: Scratch::on_disk() }
    }

    /// `origin` is written to, `old` is a snapshot of it, `child` a clone of that; of `past`, a snapshot, only the
    /// changes are left.
    pub(crate) fn new() -> Self {
        let world = Self::empty();
        let sr = &world.fixture.sr;
        let origin = world.fixture.create(SIZE);
        let lock = || sr.lock().unwrap();
        let name = |key: &str, name: &str| lock().set_volume_name(key, name).unwrap();
        let snapshot = || lock().snapshot_volume(&origin, &mut Inactive).unwrap().key.to_string();
        name(&origin, "origin");
        world.write(&origin, 0, 70, 1);
        world.write(&origin, 1020, 8, 2);
        let past = snapshot();
        name(&past, "past");
        world.write(&origin, 2, 2, 3);
        let old = snapshot();
        name(&old, "old");
        let mut disk = world.fixture.open(&origin, false).unwrap();
        disk.discard(6 * BLOCK, BLOCK).unwrap();
        disk.discard(1024 * BLOCK, 1024 * BLOCK).unwrap();
        drop(disk);
        world.write(&origin, 2050, 10, 4);
        let child = lock().clone_volume(&old, &mut Inactive).unwrap().key.to_string();
        name(&child, "child");
        world.write(&child, 1, 1, 5);
        lock().destroy_volume_data(&past, &mut Inactive).unwrap();
        lock().set_volume_key(&child, "purpose", "a test").unwrap();
        lock().set_volume_cbt(&origin, true).unwrap();
        lock().set_volume_description(&origin, "writ to").unwrap();
        // No operation that is still to come has something to collect.
        lock().collect(&mut Inactive).unwrap();
        world
    }

    /// Writes blocks of which no two are alike.
    pub(crate) fn write(&self, key: &str, first: u64, count: u64, seed: u64) {
        let mut disk = self.fixture.open(key, false).unwrap();
        for block in first..first + count {
            disk.write(block * BLOCK, &noise(seed << 32 | block)).unwrap();
        }
    }

    /// The key of the volume that has that name.
    pub(crate) fn key(&self, name: &str) -> String {
        let volumes = self.fixture.sr.volumes().unwrap();
        volumes.into_iter().find(|it| it.name == name).unwrap().key.to_string()
    }

    pub(crate) fn save_dir(&self) -> &Path {
        self.on_disk.path()
    }

    pub(crate) fn saves(&self) -> Saves {
        Saves::new(self.save_dir(), &Name::parse(SR_UUID).unwrap())
    }

    /// The files of the saves, by name, without the lock.
    pub(crate) fn files(&self) -> BTreeMap<String, PathBuf> {
        let entries = fs::read_dir(self.saves().path()).unwrap().map(|entry| entry.unwrap());
        let named = entries.map(|it| (it.file_name().into_string().unwrap(), it.path()));
        named.filter(|(name, _)| name != "lock").collect()
    }

    /// Saves the SR, none of whose disks is active.
    pub(crate) fn save(&self) -> Result<Written> {
        let lock = self.fixture.sr.lock()?;
        let still = lock.still(false)?;
        self.saves().write(&still, "test", &())
    }

    /// Loses the memory.
    pub(crate) fn wipe(&self) {
        let host = &self.fixture.host;
        host.destroy(&Name::parse(SR_UUID).unwrap()).unwrap();
    }

    /// Attaches the SR from a generation.
    pub(crate) fn attach(&self, from: &Generation, older: Option<&str>) -> Result<Sr> {
        attach(&self.fixture.host, SR_BYTES, from, older)
    }

    /// Loses the memory, and attaches the SR from the newest good generation.
    pub(crate) fn restore(&self) -> Sr {
        self.wipe();
        let newest = self.saves().newest_good().unwrap().0.unwrap();
        let sr = self.attach(&newest, None).unwrap();
        assert_sound(&sr);
        sr
    }
}

pub(crate) fn attach(
    host: &store::Host,
    size: u64,
    from: &Generation,
    older: Option<&str>,
) -> Result<Sr> {
    let restore = Restore {
        contents: from.contents(),
        restored: Restored { from: from.name(), older: older.map(str::to_owned) },
        fill: &mut |filler| from.fill(filler, &()),
    };
    host.attach_saved(&attachment(host, size), restore)
}

pub(crate) fn assert_sound(sr: &Sr) {
    assert_eq!(sr.lock().unwrap().check().unwrap(), [""; 0]);
    let (counted, real) = store::testing::counted(sr);
    assert_eq!(counted, real, "the count of the memory is right");
}

/// A block that cannot be packed.
pub(crate) fn noise(seed: u64) -> [u8; BLOCK as usize] {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut block = [0; BLOCK as usize];
    for word in block.chunks_exact_mut(8) {
        // Marsaglia's xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    block
}
