//! The clone of a non-persistent session: it is there until the session is ended, goes with its volume,
//! and what a killed call leaves of it is found. And what a plugin remembers of a volume meanwhile.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use store::{
    ErrorKind, Inactive, Name, PluginState, VolumeUri,
    testing::{Disks, Fixture, attachment, content, metadata},
};

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
        session.remember(Some(b"a session"));
        session.begin();
        let mut disk = session.fixture.open(session.clone.as_str(), false).unwrap();
        disk.write(BLOCK, &[2; 8192]).unwrap();
        session
    }

    fn begin(&self) {
        self.fixture.lock().clone_hidden(&self.key, &self.clone, &mut Inactive).unwrap();
    }

    fn remember(&self, text: Option<&[u8]>) {
        state(self, &self.key).write(text).unwrap();
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
    // Begun once more, it is the same.
    session.begin();
    let wanted = [[1; 4096], [2; 4096], [2; 4096], [0; 4096]].concat();
    let mut disk = session.fixture.open(session.clone.as_str(), true).unwrap();
    assert_eq!(content(&mut disk)[..4 * 4096], wanted);
}

#[test]
fn a_clone_goes_with_its_volume() {
    let session = Session::new();
    let snapshot = session.fixture.lock().snapshot_volume(&session.key, &mut Inactive).unwrap().key;
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
    assert_eq!(error.kind(), ErrorKind::VolumeInUse);
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
        assert_eq!(destroyed.unwrap_err().kind(), ErrorKind::VolumeInUse, "{file}");
        drop(disk);
        session.fixture.lock().destroy_volume(&session.key, &mut Inactive).unwrap();
        assert!(!session.lives(), "{file}");
        assert_eq!(session.used(), 0, "{file}");
        session.collect();
    }
}

#[test]
fn a_clone_that_is_served_is_not_thrown_away_with_its_session() {
    let session = Session::new();
    let disk = session.fixture.open(session.clone.as_str(), false).unwrap();
    let mut disks = Disks::default();
    disks.0.insert(session.clone.to_string(), disk);
    session.fixture.lock().collect(&mut disks).unwrap();
    let key = Name::parse(&session.key).unwrap();
    session.fixture.lock().end_sessions(&key, &mut disks).unwrap();
    assert!(session.lives());
    disks.0.clear();
    session.fixture.lock().end_sessions(&key, &mut disks).unwrap();
    assert!(!session.lives());
    assert_eq!(session.used(), 1);
    assert!(session.fixture.sr.volume(&session.key).is_ok());
}

/// Of several volumes with sessions, one is ended.
#[test]
fn the_end_of_a_session_is_that_of_no_other() {
    let session = Session::new();
    let other = session.fixture.create(1 << 20);
    let clone = session.fixture.sr.new_key().unwrap();
    state(&session, &other).write(Some(b"another session")).unwrap();
    session.fixture.lock().clone_hidden(&other, &clone, &mut Inactive).unwrap();
    session.fixture.lock().end_sessions(&Name::parse(&other).unwrap(), &mut Inactive).unwrap();
    assert!(session.lives());
    assert!(session.fixture.sr.volume(clone.as_str()).is_err());
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

fn state(session: &Session, key: &str) -> PluginState {
    let uri = VolumeUri { sr: session.fixture.sr.uuid().clone(), key: Name::parse(key).unwrap() };
    PluginState::lock(&session.fixture.host, &uri, Duration::from_secs(20)).unwrap()
}

/// The plugin's record was removed by hand, and the clone's key with it.
#[test]
fn a_collection_and_an_attach_drop_a_clone_of_which_nothing_is_remembered() {
    for attach in [false, true] {
        let session = Session::new();
        session.remember(None);
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

#[test]
fn what_a_plugin_remembers_is_kept_and_goes_with_the_volume() {
    let session = Session::new();
    let directory = metadata(&session.fixture.sr).join("datapath");
    let files = || fs::read_dir(&directory).unwrap().count();
    session.remember(None);
    assert_eq!(state(&session, &session.key).read().unwrap(), None);
    assert_eq!(files(), 0, "nothing to remember, no file");
    state(&session, &session.key).write(Some(b"\0anything")).unwrap();
    session.collect();
    assert_eq!(state(&session, &session.key).read().unwrap().unwrap(), b"\0anything");
    let mode = fs::metadata(directory.join(&session.key)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    state(&session, &session.key).write(None).unwrap();
    assert_eq!(files(), 0);
    state(&session, &session.key).write(Some(b"of a volume")).unwrap();
    session.fixture.lock().destroy_volume(&session.key, &mut Inactive).unwrap();
    session.collect();
    assert_eq!(files(), 0);
}

#[test]
fn what_a_plugin_remembers_is_locked_by_one_at_a_time_though_the_lock_comes_and_goes() {
    let session = Session::new();
    let inside = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let _state = state(&session, &session.key);
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                }
            });
        }
    });
}

/// Two calls of a plugin on one volume wait for each other by a lock file. Were its name removed while
/// the first one holds it, the second would make another one, and would not wait.
#[test]
fn a_collection_leaves_the_locks_of_plugin_calls_alone() {
    let session = Session::new();
    let directory = metadata(&session.fixture.sr).join("datapath");
    let of = |key: &str| directory.join(format!("{key}.lock"));
    session.remember(Some(b"something"));
    let held = state(&session, "no-volume-yet");
    session.collect();
    assert!(of(&session.key).exists() && of("no-volume-yet").exists());
    drop(held);
    fs::write(of("no-volume-yet"), "").unwrap();
    session.collect();
    assert!(of(&session.key).exists() && !of("no-volume-yet").exists());
}

/// Composing removes the parent, as destroying it does.
#[test]
fn a_parent_is_not_composed_while_its_session_is_served_and_takes_the_clone_with_it() {
    let session = Session::new();
    let (key, clone) = (&session.key, session.clone.as_str());
    let child = session.fixture.lock().clone_volume(key, &mut Inactive).unwrap().key;
    let disk = session.fixture.open(clone, false).unwrap();
    let refused = session.fixture.lock().compose_volumes(child.as_str(), key, &mut Inactive);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::VolumeInUse);
    assert!(session.lives() && session.fixture.sr.volume(key).is_ok());
    drop(disk);
    session.fixture.lock().compose_volumes(child.as_str(), key, &mut Inactive).unwrap();
    assert!(!session.lives());
    assert_eq!(session.used(), 1, "what the child reads");
    session.fixture.lock().destroy_volume(child.as_str(), &mut Inactive).unwrap();
    assert_eq!(session.used(), 0);
    session.collect();
    session.fixture.lock().detach().unwrap();
}
