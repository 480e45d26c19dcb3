//! A process that goes on with a volume where another one has died: with the lock that this has had.

use store::{
    Disk, Error, ErrorKind, Live, Name, Open, Result, Serving, Switch,
    testing::{Disks, Fixture, content},
};

use crate::share::full_disk;

const MIB: u64 = 1 << 20;

/// Its processes die when they are asked to switch, before or after they have obeyed, and are succeeded by
/// others that have the lock.
struct Succeeded<'a> {
    fixture: &'a Fixture,
    disks: Disks,
    obeys: bool,
    deaths: u32,
    has_successor: bool,
}

impl Live for Succeeded<'_> {
    fn switch(&mut self, key: &Name, serving: &Serving, switch: &Switch) -> Result<()> {
        self.has_successor = self.deaths > 0;
        if self.deaths == 0 {
            return self.disks.switch(key, serving, switch);
        }
        self.deaths -= 1;
        let mut disk = self.disks.0.remove(key.as_str()).unwrap();
        if self.obeys {
            disk.switch(switch)?;
            disk.write(0, &[2; 4096])?;
        }
        let lock = disk.lock().unwrap().try_clone().unwrap();
        // No destructor runs.
        std::mem::forget(disk);
        let path = self.fixture.sr.layout().volume(key);
        let open = Open { serving: serving.clone() };
        let mut successor = Disk::take_over(&path, &open, lock)?;
        successor.write(4096, &[4; 4096])?;
        self.disks.0.insert(key.to_string(), successor);
        Err(Error::new(ErrorKind::Unresponsive, "the connection ended before the answer did"))
    }

    fn has_successor(&self) -> bool {
        self.has_successor
    }

    fn sole(&mut self, _: &Name, _: &Serving) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_snapshot_is_taken_by_the_successor_of_a_process_that_dies_over_the_question() {
    for (obeys, deaths) in [(false, 1), (true, 1), (false, 3), (true, 3)] {
        let (fixture, key, disks) = full_disk(64 * MIB, 8 * MIB);
        let mut live = Succeeded { fixture: &fixture, disks, obeys, deaths, has_successor: false };
        let snapshot = fixture.lock().snapshot_volume(&key, &mut live).unwrap().key.to_string();
        let mut disks = live.disks;
        let mut wanted = vec![1; 8 << 20];
        wanted[..4096].fill(if obeys { 2 } else { 1 });
        wanted[4096..8192].fill(4);
        disks.0.get_mut(&key).unwrap().write(0, &[3; 16384]).unwrap();
        assert!(content(&mut fixture.open(&snapshot, true).unwrap()) == wanted, "{obeys}");
        assert!(fixture.lock().check().unwrap().is_empty());
        fixture.lock().destroy_volume(&snapshot, &mut disks).unwrap();
        fixture.lock().collect(&mut disks).unwrap();
        assert_eq!(fixture.sr.stat().unwrap().used, 8 * MIB);
    }
}

/// Another process that has locked the volume meanwhile keeps it.
#[test]
fn a_volume_is_not_taken_over_with_a_lock_that_was_lost() {
    let (fixture, key, mut disks) = full_disk(64 * MIB, 8 * MIB);
    let path = fixture.sr.layout().volume(&Name::parse(&key).unwrap());
    let lock = disks.0[&key].lock().unwrap().try_clone().unwrap();
    disks.0.remove(&key);
    let other = fixture.open(&key, false).unwrap();
    let serving =
        Serving { pid: std::process::id(), control_dir: String::new(), minor: 0, read_only: false };
    let open = Open { serving };
    let error = Disk::take_over(&path, &open, lock.try_clone().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::VolumeInUse);
    drop(other);
    drop(Disk::take_over(&path, &open, lock).unwrap());
    drop(fixture.open(&key, false).unwrap());
}
