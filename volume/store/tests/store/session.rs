//! The clone of a non-persistent session: it is there for as long as anybody can ask for it, and not
//! a call longer. What says so is the datapath's record of the volume, of whatever format.

use std::fs;

use rustix::fs::{FlockOperation, flock};
use store::{Inactive, Kind, Name};

use store::testing::{Disks, Fixture, attachment, content};

const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;

/// A volume of one written block in a session whose clone holds two.
struct Session {
    fixture: Fixture,
    key: String,
    clone: Name,
}

impl Session {
    fn new() -> Self {
        let fixture = Fixture::new(64 * MIB);
        let key = fixture.create(8 << 20);
        fixture.open(&key, false).unwrap().write(0, &[1; 4096]).unwrap();
        let clone = fixture.sr.new_key().unwrap();
        let session = Self { fixture, key, clone };
        session.remember(&format!("{{\"clone\":\"{}\"}}", session.clone));
        session.begin();
        let mut disk = session.fixture.open(session.clone.as_str(), false).unwrap();
        disk.write(BLOCK, &[2; 8192]).unwrap();
        session
    }

    fn begin(&self) {
        self.fixture.lock().clone_hidden(&self.key, &self.clone, &mut Inactive).unwrap();
    }

    fn remember(&self, text: &str) {
        let key = Name::parse(&self.key).unwrap();
        fs::write(self.fixture.sr.layout().datapath(&key), text).unwrap();
    }

    fn used(&self) -> u64 {
        self.fixture.sr.stat().unwrap().used / BLOCK
    }

    fn lives(&self) -> bool {
        self.fixture.sr.volume(self.clone.as_str()).is_ok()
    }

    fn collect(&self) {
        self.fixture.lock().collect(&mut Inactive).unwrap();
        assert!(self.fixture.lock().check().unwrap().is_empty());
    }
}

/// A suspended guest has neither a process nor anything attached.
#[test]
fn the_clone_of_a_suspended_guest_outlives_collections_and_a_detached_sr() {
    let session = Session::new();
    session.collect();
    session.fixture.lock().detach().unwrap();
    let host = &session.fixture.host;
    host.attach(&attachment(host, 64 * MIB)).unwrap();
    let key = Name::parse(&session.key).unwrap();
    session.fixture.lock().drop_orphans(&key, &mut Inactive).unwrap();
    // Begun once more, it is the same.
    session.begin();
    let wanted = [[1; 4096], [2; 4096], [2; 4096], [0; 4096]].concat();
    let mut disk = session.fixture.open(session.clone.as_str(), true).unwrap();
    assert_eq!(content(&mut disk)[..4 * 4096], wanted);
    // Also when the record of it makes no sense any more, but for the key.
    session.remember(&format!("\0{}", session.clone));
    session.collect();
    assert!(session.lives());
}

#[test]
fn a_clone_goes_with_its_volume() {
    let session = Session::new();
    let snapshot = session.fixture.lock().snapshot(&session.key, &mut Inactive).unwrap().key;
    session.fixture.lock().destroy_volume(&session.key, &mut Inactive).unwrap();
    assert!(!session.lives());
    assert_eq!(session.used(), 1, "what the snapshot reads");
    session.fixture.lock().destroy_volume(snapshot.as_str(), &mut Inactive).unwrap();
    assert_eq!(session.used(), 0);
    session.collect();
    for directory in ["data", "meta/map", "meta/index", "meta/volume", "meta/serving"] {
        let path = session.fixture.sr.layout().root().join(directory);
        assert_eq!(fs::read_dir(path).unwrap().count(), 0, "{directory}");
    }
}

#[test]
fn a_volume_whose_clone_is_served_is_active() {
    let session = Session::new();
    let disk = session.fixture.open(session.clone.as_str(), false).unwrap();
    let destroyed = session.fixture.lock().destroy_volume(&session.key, &mut Inactive);
    let error = destroyed.unwrap_err();
    assert_eq!(error.kind(), Kind::VolumeInUse);
    assert!(error.to_string().starts_with(&format!("volume {}", session.key)), "{error}");
    assert!(session.fixture.sr.volume(&session.key).is_ok(), "and nothing has happened to it");
    drop(disk);
    session.fixture.lock().destroy_volume(&session.key, &mut Inactive).unwrap();
    assert_eq!(session.used(), 0);
}

#[test]
fn a_damaged_volume_is_destroyed_with_its_clone_and_not_while_that_is_served() {
    for file in ["volume", "index"] {
        let session = Session::new();
        let disk = session.fixture.open(session.clone.as_str(), false).unwrap();
        let root = session.fixture.sr.layout().root().to_owned();
        match file {
            "volume" => fs::write(root.join("meta/volume").join(&session.key), "{").unwrap(),
            _ => fs::remove_file(root.join("meta/index/00000002")).unwrap(),
        }
        let destroyed = session.fixture.lock().destroy_volume(&session.key, &mut Inactive);
        assert_eq!(destroyed.unwrap_err().kind(), Kind::VolumeInUse, "{file}");
        drop(disk);
        session.fixture.lock().destroy_volume(&session.key, &mut Inactive).unwrap();
        assert!(!session.lives(), "{file}");
        assert_eq!(session.used(), 0, "{file}");
        session.collect();
    }
}

#[test]
fn a_clone_that_is_served_is_never_dropped_whatever_is_remembered() {
    let session = Session::new();
    let disk = session.fixture.open(session.clone.as_str(), false).unwrap();
    session.remember("{}");
    let mut disks = Disks::default();
    disks.0.insert(session.clone.to_string(), disk);
    session.fixture.lock().collect(&mut disks).unwrap();
    let key = Name::parse(&session.key).unwrap();
    session.fixture.lock().drop_orphans(&key, &mut disks).unwrap();
    assert!(session.lives());
    disks.0.clear();
    session.fixture.lock().drop_orphans(&key, &mut disks).unwrap();
    assert!(!session.lives());
    assert_eq!(session.used(), 1);
}

#[test]
fn a_collection_and_an_attach_drop_a_clone_that_nothing_names() {
    for attach in [false, true] {
        let session = Session::new();
        session.remember("{\"clone\":\"another\"}");
        if attach {
            let host = &session.fixture.host;
            host.attach(&attachment(host, 64 * MIB)).unwrap();
        } else {
            session.collect();
        }
        assert!(!session.lives());
        assert_eq!(session.used(), 1);
        assert!(session.fixture.sr.volume(&session.key).is_ok());
    }
}

/// The volume went while its clone was served; a second destroy, or a collection, finishes it.
#[test]
fn what_a_killed_destruction_left_of_a_session_is_dropped_later() {
    for again in [false, true] {
        let session = Session::new();
        let key = Name::parse(&session.key).unwrap();
        fs::remove_file(session.fixture.sr.layout().volume(&key)).unwrap();
        if again {
            session.fixture.lock().destroy_volume(&session.key, &mut Inactive).unwrap();
        } else {
            session.collect();
        }
        assert!(!session.lives());
        assert_eq!(session.used(), 0);
    }
}

/// Two calls of the datapath on one volume wait for each other by a lock file. Were its name removed
/// while the first one holds it, the second would make another one, and wait for nobody.
#[test]
fn a_collection_leaves_the_locks_of_datapath_calls_alone() {
    let session = Session::new();
    let layout = session.fixture.sr.layout();
    let lock_of = |key: &str| {
        let path = layout.datapath(&Name::parse(key).unwrap());
        let mut path = path.into_os_string();
        path.push(store::DATAPATH_LOCK_SUFFIX);
        (fs::File::create(&path).unwrap(), std::path::PathBuf::from(path))
    };
    let (_free, of_a_volume) = lock_of(&session.key);
    let (held, of_none) = lock_of("no-volume-yet");
    flock(&held, FlockOperation::LockExclusive).unwrap();
    session.collect();
    assert!(of_a_volume.exists() && of_none.exists());
    drop(held);
    session.collect();
    assert!(of_a_volume.exists() && !of_none.exists(), "what nobody holds of nothing is garbage");
}
