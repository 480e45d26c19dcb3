//! What processes leave behind without being killed under a lock: the next operation that could lose track of
//! it has it collected. What kills leave is in [`crash`](crate::crash) and [`killed_disk`](crate::killed_disk).

use std::fs;

use store::{
    Error, ErrorKind, ExternalHolder, Inactive, Live, Name, NewVolume, Result, Serving, Switch,
    testing::Disks,
};

use crate::{
    map_pages::metadata,
    share::{full_disk, rewrite},
};

const MIB: u64 = 1 << 20;

/// Reaches a disk for a switch; of sole sets it hears nothing, as if it had hung for a while.
struct Deaf(Disks);

impl Live for Deaf {
    fn switch(&mut self, key: &Name, serving: &Serving, switch: &Switch) -> Result<()> {
        self.0.switch(key, serving, switch)
    }

    fn sole(&mut self, _: &Name, _: &Serving) -> Result<()> {
        Err(Error::new(ErrorKind::Unresponsive, "no answer"))
    }
}

/// It does not know that nothing else needs its old blocks, and does not free them when it overwrites them.
/// As long as the volume's record knows, they go with the volume; a snapshot ends that.
#[test]
fn what_a_disk_did_not_free_that_was_not_told_is_freed_after_its_next_snapshot() {
    let (fixture, key, disks) = full_disk(64 * MIB, 8 * MIB);
    let mut deaf = Deaf(disks);
    let snapshot = fixture.lock().snapshot_volume(&key, &mut deaf).unwrap().key;
    fixture.lock().destroy_volume(snapshot.as_str(), &mut deaf).unwrap();
    let mut disks = deaf.0;
    rewrite(&mut disks, &key, 2);
    assert_eq!(fixture.sr.stat().unwrap().used, 16 * MIB, "it was not told");
    fixture.lock().snapshot_volume(&key, &mut disks).unwrap();
    drop(fixture.lock());
    assert_eq!(fixture.sr.stat().unwrap().used, 8 * MIB);
    // Once is enough.
    fixture.lock().set_volume_name(&key, "renamed").unwrap();
    assert_eq!(fixture.lock().collect(&mut disks).unwrap(), 0);
}

/// Pages that an operation may be reading are freed by a later write; a disk that is closed makes none.
#[test]
fn pages_that_a_closed_disk_has_not_freed_are_freed_after_the_next_snapshot() {
    let (fixture, key, mut disks) = full_disk(64 * MIB, 12 * MIB);
    let snapshot = fixture.lock().snapshot_volume(&key, &mut disks).unwrap().key;
    fixture.lock().destroy_volume(snapshot.as_str(), &mut disks).unwrap();
    let operation = fixture.lock();
    disks.0.get_mut(&key).unwrap().write(0, &[2; 8 * 4096]).unwrap();
    disks.0.clear();
    drop(operation);
    assert_eq!(metadata(&fixture).0, 4 * 4096, "the new page of the first chunk, and the old one");
    fixture.lock().snapshot_volume(&key, &mut Inactive).unwrap();
    drop(fixture.lock());
    assert_eq!(metadata(&fixture).0, 3 * 4096);
}

/// A write-back that its process gives up without saying so.
#[test]
fn a_clone_that_was_to_take_a_volumes_place_is_collected_by_the_next_operation() {
    let (fixture, key, disks) = full_disk(64 * MIB, 4 * MIB);
    drop(disks);
    let serving = Serving { pid: 1, control_dir: "/".into(), minor: 0, read_only: false };
    let holder = ExternalHolder::new(serving, "/nonexistent/lock".into());
    fixture.lock().set_external_holder(&key, &holder).unwrap();
    let mut returned = fixture.lock().begin_write_back(&key).unwrap();
    returned.disk().write(0, &[9; 1 << 20]).unwrap();
    drop(returned);
    assert_eq!(fixture.sr.stat().unwrap().used, 5 * MIB);
    drop(fixture.lock());
    assert_eq!(fixture.sr.stat().unwrap().used, 4 * MIB);
}

/// Else each disk that was served once would be taken for one whose process was killed.
#[test]
fn a_disk_that_is_closed_leaves_nothing_to_be_swept() {
    let (fixture, key, mut disks) = full_disk(64 * MIB, 4 * MIB);
    let said = fixture.sr.layout().root().join("meta/serving").join(&key);
    assert!(fs::metadata(&said).unwrap().len() > 0, "who serves it");
    drop(disks.0.remove(&key).unwrap().close());
    assert_eq!(fs::metadata(&said).unwrap().len(), 0);
    drop(fixture.open(&key, false).unwrap());
    assert_eq!(fs::metadata(&said).unwrap().len(), 0);
    drop(fixture.open(&key, true).unwrap());
    assert_eq!(fs::metadata(&said).unwrap().len(), 0);
}

/// What was made before the failure is found, as after a kill.
#[test]
fn what_an_operation_made_that_failed_half_way_is_collected_by_the_next_one() {
    let (fixture, _key, disks) = full_disk(64 * MIB, 4 * MIB);
    drop(disks);
    let (maps, away) = (fixture.sr.layout().root().join("meta/map"), fixture.root().join(".away"));
    let (_, _, before) = metadata(&fixture);
    fs::rename(&maps, &away).unwrap();
    let new = NewVolume { name: "", description: "", size: 1 << 20, sharable: false };
    fixture.lock().create_volume(&new).unwrap_err();
    fs::rename(&away, &maps).unwrap();
    assert_eq!(metadata(&fixture).2, before + 1, "its layer has no map");
    drop(fixture.lock());
    assert_eq!(metadata(&fixture).2, before);
}
