//! What was saved comes back as it was, and goes on as if the host had never stopped.

use std::time::Duration;

use store::{ErrorKind, Inactive, Live, Name, Result, Serving, Switch, testing::Disks};

use crate::rig::{BLOCK, Seen, World, assert_sound};

#[test]
fn an_sr_comes_back_with_its_volumes_snapshots_sharing_keys_and_changed_blocks() {
    let world = World::new();
    let before = Seen::of(&world.fixture.sr);
    let written = world.save().unwrap();
    assert_eq!(written.data_bytes, world.fixture.sr.stat().unwrap().used);
    let sr = world.restore();
    assert_eq!(Seen::of(&sr), before);
    assert!(sr.stat().unwrap().restored.unwrap().older.is_none());
    // Freed again as before: what only one volume has needed is known.
    for name in ["old", "child", "past"] {
        sr.lock().unwrap().destroy_volume(&world.key(name), &mut Inactive).unwrap();
    }
    let origin = sr.volumes().unwrap().remove(0);
    world.write(origin.key.as_str(), 0, 70, 9);
    assert_eq!(sr.stat().unwrap().used, sr.volume(origin.key.as_str()).unwrap().utilisation);
    assert_eq!(sr.lock().unwrap().collect(&mut Inactive).unwrap(), 0);
    assert_sound(&sr);
}

#[test]
fn an_empty_sr_and_one_of_empty_volumes_come_back() {
    let world = World::empty();
    world.save().unwrap();
    let sr = world.restore();
    assert!(sr.volumes().unwrap().is_empty());
    let key = world.fixture.create(5000);
    let before = Seen::of(&world.fixture.sr);
    world.save().unwrap();
    let sr = world.restore();
    assert_eq!(Seen::of(&sr), before);
    world.write(&key, 0, 1, 1);
    assert_sound(&sr);
}

/// A restored SR gives its volumes new layers, and a new save of it is a save of the same SR.
#[test]
fn a_restored_sr_is_saved_and_restored_again() {
    let world = World::new();
    world.save().unwrap();
    let sr = world.restore();
    world.write(&world.key("child"), 3, 2, 7);
    sr.lock().unwrap().snapshot_volume(&world.key("child"), &mut Inactive).unwrap();
    let before = Seen::of(&sr);
    world.save().unwrap();
    assert_eq!(Seen::of(&world.restore()), before);
}

/// What the SR has held since then is not known: contents that xapi may have copied have other identities.
#[test]
fn disks_that_may_have_been_written_since_the_save_have_new_content_ids() {
    let world = World::new();
    let before = Seen::of(&world.fixture.sr);
    world.save().unwrap();
    world.wipe();
    let newest = world.saves().newest_good().unwrap().0.unwrap();
    let sr = world.attach(&newest, Some("the host lost its power")).unwrap();
    let after = Seen::of(&sr);
    assert_eq!(after.contents, before.contents);
    for (before, after) in before.volumes.iter().zip(&after.volumes) {
        let is_same = before.keys["content_id"] == after.keys["content_id"];
        assert_eq!(is_same, !before.read_write, "{}", before.name);
    }
    let restored = sr.stat().unwrap().restored.unwrap();
    assert_eq!(restored.older.unwrap(), "the host lost its power");
}

/// Disks that are written to as soon as they are not held any more, while the contents are still being gathered.
struct Eager(Disks);

impl Live for Eager {
    fn switch(&mut self, key: &Name, serving: &Serving, switch: &Switch) -> Result<()> {
        self.0.switch(key, serving, switch)
    }

    fn hold(&mut self, key: &Name, serving: &Serving, time: Duration) -> Result<()> {
        self.0.hold(key, serving, time)
    }

    fn release(&mut self, key: &Name, _: &Serving) -> Result<()> {
        let disk = self.0.0.get_mut(key.as_str()).unwrap();
        // In a chunk with data, and in one without.
        for block in [3, 1500] {
            disk.write(block * BLOCK, &[0xbb; BLOCK as usize])?;
        }
        Ok(())
    }

    fn sole(&mut self, key: &Name, serving: &Serving) -> Result<()> {
        self.0.sole(key, serving)
    }
}

/// Writes go on while a running SR is saved, snapshots go, and the save has what there was at its beginning.
#[test]
fn a_running_sr_is_saved_as_it_was_at_one_moment() {
    let world = World::new();
    let sr = &world.fixture.sr;
    let (origin, child) = (world.key("origin"), world.key("child"));
    let wanted = Seen::of(sr);
    let mut disks = Eager(Disks::default());
    for key in [&origin, &child] {
        disks.0.0.insert(key.clone(), world.fixture.open(key, false).unwrap());
    }
    let still = sr.lock().unwrap().still_running(&mut disks, false).unwrap();
    for disk in disks.0.0.values_mut() {
        disk.write(0, &[0xaa; 80 * BLOCK as usize]).unwrap();
        disk.discard(1020 * BLOCK, 8 * BLOCK).unwrap();
    }
    sr.lock().unwrap().destroy_volume(&world.key("old"), &mut disks).unwrap();
    world.fixture.create(1 << 20);
    world.saves().write(&still, "test", &()).unwrap();
    still.end(sr, &mut disks).unwrap();
    assert_sound(sr);
    let used = sr.stat().unwrap().used;
    assert_eq!(sr.lock().unwrap().collect(&mut disks).unwrap(), 0, "nothing is left of the save");
    assert_eq!(sr.stat().unwrap().used, used);
    drop(disks);
    let restored = world.restore();
    assert_eq!(Seen::of(&restored).contents, wanted.contents);
    let names = |seen: &Seen| seen.volumes.iter().map(|it| it.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&Seen::of(&restored)), names(&wanted));
}

#[test]
fn an_sr_with_an_active_disk_is_not_saved_as_an_idle_one() {
    let world = World::new();
    let _served = world.fixture.open(&world.key("origin"), false).unwrap();
    assert_eq!(world.save().unwrap_err().kind(), ErrorKind::SrInUse);
    assert!(!world.saves().path().exists());
}

#[test]
fn no_disk_becomes_active_while_an_idle_sr_is_saved() {
    let world = World::new();
    let key = world.key("origin");
    let lock = world.fixture.sr.lock().unwrap();
    let still = lock.still(false).unwrap();
    assert_eq!(world.fixture.open(&key, false).unwrap_err().kind(), ErrorKind::VolumeInUse);
    drop(still);
    world.fixture.open(&key, false).unwrap();
}

#[test]
fn an_sr_that_became_smaller_than_its_save_is_refused_with_the_numbers_and_nothing_is_left() {
    let world = World::new();
    world.write(&world.key("origin"), 100, 300, 8);
    world.save().unwrap();
    world.wipe();
    let newest = world.saves().newest_good().unwrap().0.unwrap();
    let host = &world.fixture.host;
    let error = crate::rig::attach(host, 1 << 20, &newest, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    for part in ["1 MiB", "device-config:size"] {
        assert!(error.to_string().contains(part), "{part} is not in {error}");
    }
    assert!(host.srs().unwrap().is_empty());
    world.attach(&newest, None).unwrap();
}

/// Damage does not keep the rest from being saved where that is asked for.
#[test]
fn an_incomplete_save_leaves_out_what_is_damaged_and_says_so() {
    let world = World::new();
    let key = world.key("child");
    let before = Seen::of(&world.fixture.sr);
    let record = store::testing::metadata(&world.fixture.sr).join("volume").join(&key);
    std::fs::write(record, "{").unwrap();
    let error = world.save().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains(&key), "{error}");
    let lock = world.fixture.sr.lock().unwrap();
    let still = lock.still(true).unwrap();
    world.saves().write(&still, "test", &()).unwrap();
    drop(still);
    drop(lock);
    let newest = world.saves().newest_good().unwrap().0.unwrap();
    assert!(newest.left_out()[0].contains(&key), "{:?}", newest.left_out());
    let mut wanted = before.contents;
    wanted.remove(&key);
    assert_eq!(Seen::of(&world.restore()).contents, wanted);
}
