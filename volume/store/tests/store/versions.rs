//! SRs of other versions: a committed one of format 1 is read and used as one, one of a later format is refused by
//! name and kept, and what a later version of the same format has added survives every change.

use std::{fs, path::Path};

use serde_json::{Value, json};
use store::{
    ErrorKind, ExternalHolder, Inactive, Name, Serving, Sr, Volume,
    testing::{self, Fixture, SR_UUID, attachment, content, deltas, metadata, open},
};

const BLOCK: usize = 4096;
/// What the SR of `fixtures/format-1` was made with.
const FORMAT_1_BYTES: u64 = 8 << 20;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (entry, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        match entry.is_dir() {
            true => copy(&entry, &to),
            false => fs::write(&to, fs::read(&entry).unwrap()).unwrap(),
        }
    }
}

/// The volume that has the key `role` with that value.
fn volume(sr: &Sr, role: &str) -> Volume {
    let volumes = sr.volumes().unwrap();
    volumes.into_iter().find(|it| it.keys.get("role").is_some_and(|it| it == role)).unwrap()
}

/// The bytes of the blocks, one for each, as none of the blocks is mixed.
fn blocks(sr: &Sr, role: &str) -> Vec<u8> {
    let bytes = content(&mut open(sr, volume(sr, role).key.as_str(), true).unwrap());
    bytes
        .chunks(BLOCK)
        .inspect(|block| assert!(block.iter().all(|byte| *byte == block[0]), "{role} is mixed"))
        .map(|block| block[0])
        .collect()
}

/// What this version makes of an SR that the first one has left. Whatever changes in the format, this SR
/// stays as it was committed.
#[test]
fn an_sr_of_the_first_format_is_attached_read_and_changed() {
    let root = testing::root();
    let host = testing::host(root.path());
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1");
    copy(&committed, &root.path().join(SR_UUID));
    for directory in ["meta/tmp", "meta/datapath"] {
        fs::create_dir_all(root.path().join(SR_UUID).join(directory)).unwrap();
    }
    let sr = host.attach(&attachment(&host, FORMAT_1_BYTES)).unwrap();
    assert_eq!(sr.lock().unwrap().check().unwrap(), [""; 0]);
    let origin = [0, 1, 1, 1, 2, 2, 1, 1, 0, 0, 4, 0, 0, 0, 0, 0];
    let snapshot = [1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    let clone = [1, 1, 1, 1, 1, 1, 1, 3, 3, 0, 0, 0, 0, 0, 0, 0];
    let all = || (blocks(&sr, "origin"), blocks(&sr, "snapshot"), blocks(&sr, "clone"));
    assert_eq!(all(), (origin.to_vec(), snapshot.to_vec(), clone.to_vec()));
    assert!(!volume(&sr, "changes").has_data);
    // What is left when the rest is destroyed, is what can be read.
    let [origin_key, clone_key] = ["origin", "clone"].map(|role| volume(&sr, role).key.to_string());
    let mut disk = open(&sr, &origin_key, false).unwrap();
    disk.write(2 * BLOCK as u64, &[9; BLOCK]).unwrap();
    drop(disk);
    let record = fs::read(metadata(&sr).join("sr.json")).unwrap();
    let record: Value = serde_json::from_slice(&record).unwrap();
    assert_eq!(record["format"], 1, "a step back is possible");
    let new = testing::create(&sr, 8 << 20);
    open(&sr, new.as_str(), false).unwrap().write(0, &[1; BLOCK]).unwrap();
    for key in [&origin_key, new.as_str()] {
        assert_eq!(deltas(&sr, key), 0, "what programs of this format do not know is not in it");
    }
    let lock = || sr.lock().unwrap();
    lock().destroy_volume(new.as_str(), &mut Inactive).unwrap();
    let kept = lock().snapshot_volume(&origin_key, &mut Inactive).unwrap().key;
    lock().revert_volume(kept.as_str(), &clone_key, &mut Inactive).unwrap();
    assert_eq!(blocks(&sr, "clone")[..5], [0, 1, 9, 1, 2]);
    for volume in sr.volumes().unwrap().into_iter().filter(|it| it.key != kept) {
        lock().destroy_volume(volume.key.as_str(), &mut Inactive).unwrap();
    }
    lock().collect(&mut Inactive).unwrap();
    assert_eq!(sr.stat().unwrap().used, 8 * BLOCK as u64);
    assert_eq!(sr.lock().unwrap().check().unwrap(), [""; 0]);
    lock().destroy_volume(kept.as_str(), &mut Inactive).unwrap();
    assert_eq!(sr.stat().unwrap().used, 0);
}

fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut record = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut record);
    fs::write(path, record.to_string()).unwrap();
}

#[test]
fn an_sr_of_a_later_format_is_refused_by_name_and_kept() {
    let fixture = Fixture::new(8 << 20);
    let record = metadata(&fixture.sr).join("sr.json");
    edit(&record, |it| it["format"] = json!(3));
    let before = fs::read(&record).unwrap();
    let (host, uuid) = (&fixture.host, fixture.sr.uuid());
    let refused = [
        host.attach(&attachment(host, 8 << 20)).map(drop),
        Sr::open(host, uuid.as_str()).map(drop),
        host.check_new(&attachment(host, 8 << 20)),
        host.destroy(uuid),
    ];
    for (number, refused) in refused.into_iter().enumerate() {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OtherFormat, "{number}: {error}");
        let text = error.to_string();
        for part in ["format 3", "knows 1 to 2", uuid.as_str(), "reclaim", "--force"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
    assert_eq!(fs::read(&record).unwrap(), before);
    host.destroy_of_any_format(uuid).unwrap();
    assert!(!record.exists());
}

/// A field that a later version of the same format has added, and its value.
const ADDED: (&str, &str) = ("added_later", "kept");

fn add(path: &Path) {
    edit(path, |it| it[ADDED.0] = json!({ "value": ADDED.1 }));
}

#[track_caller]
fn assert_kept(record: &Value, what: &str) {
    assert_eq!(record[ADDED.0], json!({ "value": ADDED.1 }), "{what}: {record}");
}

#[test]
fn fields_of_a_later_version_survive_every_change() {
    let fixture = Fixture::new(8 << 20);
    let (sr, host) = (&fixture.sr, &fixture.host);
    let key = fixture.create(64 << 10);
    let path = |key: &str| sr.layout().volume(&Name::parse(key).unwrap());
    let record = |path: &Path| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
    add(&path(&key));
    let old = fixture.lock().snapshot_volume(&key, &mut Inactive).unwrap().key;
    assert_kept(&record(&path(old.as_str())), "the snapshot");
    type Change<'a> = (&'a str, &'a dyn Fn());
    let lock = || fixture.lock();
    let changes: [Change<'_>; 7] = [
        ("snapshot", &|| _ = lock().snapshot_volume(&key, &mut Inactive).unwrap()),
        ("set_name", &|| lock().set_volume_name(&key, "new").unwrap()),
        ("set", &|| lock().set_volume_key(&key, "k", "v").unwrap()),
        ("resize", &|| _ = lock().resize_volume(&key, 128 << 10).unwrap()),
        ("revert", &|| lock().revert_volume(old.as_str(), &key, &mut Inactive).unwrap()),
        ("destroy", &|| lock().destroy_volume(old.as_str(), &mut Inactive).unwrap()),
        ("collect", &|| _ = lock().collect(&mut Inactive).unwrap()),
    ];
    for (what, change) in changes {
        change();
        assert_kept(&record(&path(&key)), what);
    }
    // What the host's own tapdisk holds, and takes back in parts.
    let lock_file = fixture.root().join(".held");
    let held = fs::File::create(&lock_file).unwrap();
    held.lock().unwrap();
    let serving = Serving { pid: 1, control_dir: "/c".into(), minor: 0, read_only: false };
    fixture.lock().set_external_holder(&key, &ExternalHolder::new(serving, lock_file)).unwrap();
    edit(&path(&key), |it| it["loan"][ADDED.0] = json!({ "value": ADDED.1 }));
    let mut returned = fixture.lock().begin_write_back(&key).unwrap();
    returned.disk().write(0, &[1; BLOCK]).unwrap();
    returned.commit_part().unwrap();
    let after = record(&path(&key));
    assert_eq!(after["loan"]["partial"], true);
    assert_kept(&after, "the volume, written back");
    assert_kept(&after["loan"], "its holder");
    fixture.lock().clear_external_holder(&key).unwrap();
    assert_kept(&record(&path(&key)), "the volume, whose holder is gone");
    // The SR's own record.
    let own = metadata(sr).join("sr.json");
    add(&own);
    fixture.lock().detach().unwrap();
    assert_kept(&record(&own), "the detached SR");
    host.attach(&attachment(host, 8 << 20)).unwrap();
    assert_kept(&record(&own), "the attached SR");
}
