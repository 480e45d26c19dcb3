//! The identity of a volume's contents, by which xapi finds volumes that a copy can begin from: a wrong
//! one leaves stale data in the copy. And the bytes behind the end of a volume of whole sectors.

use std::{collections::HashSet, fs};

use store::{
    Inactive, Name,
    testing::{Disks, Fixture, content},
};

const MIB: u64 = 1 << 20;

fn id(fixture: &Fixture, key: &str) -> String {
    fixture.sr.volume(key).unwrap().keys["content_id"].clone()
}

#[test]
fn volumes_have_the_same_identity_only_while_their_bytes_are_the_same() {
    let fixture = Fixture::new(64 * MIB);
    let mut seen = HashSet::new();
    let mut is_new = |key: &str| assert!(seen.insert(id(&fixture, key)), "{key}");
    let (key, other) = (fixture.create(1 << 20), fixture.create(1 << 20));
    is_new(&key);
    is_new(&other);
    let snapshot = fixture.lock().snapshot_volume(&key, &mut Inactive).unwrap().key.to_string();
    let clone = fixture.lock().clone_volume(&key, &mut Inactive).unwrap().key.to_string();
    assert_eq!(id(&fixture, &snapshot), id(&fixture, &key));
    assert_eq!(id(&fixture, &clone), id(&fixture, &key));
    // The datapath does this when it activates the volume for writing.
    fixture.lock().renew_content_id(&Name::parse(&key).unwrap()).unwrap();
    is_new(&key);
    let mut disks = Disks::default();
    disks.0.insert(key.clone(), fixture.open(&key, false).unwrap());
    let before = id(&fixture, &key);
    let active = fixture.lock().snapshot_volume(&key, &mut disks).unwrap().key.to_string();
    assert_eq!(id(&fixture, &active), before, "the snapshot has the bytes from before");
    is_new(&key);
    disks.0.clear();
    fixture.lock().resize_volume(&key, 2 << 20).unwrap();
    is_new(&key);
    fixture.lock().revert_volume(&snapshot, &key, &mut Inactive).unwrap();
    is_new(&key);
    fixture.lock().compose_volumes(&clone, &key, &mut Inactive).unwrap();
    is_new(&clone);
}

#[test]
fn an_identity_that_a_caller_sets_is_kept_but_for_the_key_of_another_volume() {
    let fixture = Fixture::new(64 * MIB);
    let key = fixture.create(1 << 20);
    let snapshot = fixture.lock().snapshot_volume(&key, &mut Inactive).unwrap().key.to_string();
    let own = id(&fixture, &snapshot);
    fixture.lock().set_volume_key(&snapshot, "content_id", &key).unwrap();
    assert_eq!(id(&fixture, &snapshot), own);
    fixture.lock().set_volume_key(&snapshot, "content_id", "of-a-copy").unwrap();
    assert_eq!(id(&fixture, &snapshot), "of-a-copy");
    fixture.lock().unset_volume_key(&snapshot, "content_id").unwrap();
    assert!(!["of-a-copy", &own, ""].contains(&id(&fixture, &snapshot).as_str()));
    // A volume from before there was one.
    let path = fixture.sr.layout().volume(&Name::parse(&key).unwrap());
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record.as_object_mut().unwrap().remove("keys");
    fs::write(&path, record.to_string()).unwrap();
    assert_eq!(id(&fixture, &key), key);
}

/// The last block of a volume is not whole. Its rest is nothing that was written before.
#[test]
fn the_bytes_behind_the_end_read_as_zeroes_after_growth_revert_and_compose() {
    let fixture = Fixture::new(64 * MIB);
    let key = fixture.create(4096 + 512);
    let mut disk = fixture.open(&key, false).unwrap();
    assert_eq!(disk.size(), 4096 + 512);
    disk.write(0, &[1; 4096 + 512]).unwrap();
    disk.write(4096 + 513, &[9]).unwrap_err();
    drop(disk);
    let small = fixture.lock().snapshot_volume(&key, &mut Inactive).unwrap().key.to_string();
    let clone = fixture.lock().clone_volume(&key, &mut Inactive).unwrap().key.to_string();
    let grown = |key: &str| {
        fixture.lock().resize_volume(key, 3 * 4096).unwrap();
        let mut disk = fixture.open(key, false).unwrap();
        let bytes = content(&mut disk);
        assert!(bytes[..4608].iter().all(|&byte| byte == 1));
        assert!(bytes[4608..].iter().all(|&byte| byte == 0));
        disk
    };
    grown(&key).write(4096, &[2; 8192]).unwrap();
    fixture.lock().revert_volume(&small, &key, &mut Inactive).unwrap();
    assert_eq!(fixture.open(&key, true).unwrap().size(), 4608);
    drop(grown(&key));
    // An erasure up to the end takes the rest of the last block with it.
    let mut disk = fixture.open(&clone, false).unwrap();
    disk.discard(4096, 512).unwrap();
    assert_eq!(content(&mut disk)[4096..], [0; 512]);
    disk.write(4096, &[1; 512]).unwrap();
    drop(disk);
    fixture.lock().compose_volumes(&clone, &key, &mut Inactive).unwrap();
    let bytes = content(&mut fixture.open(&clone, true).unwrap());
    assert_eq!((bytes.len(), bytes[4607]), (3 * 4096, 1));
    assert!(bytes[4608..].iter().all(|&byte| byte == 0));
}
