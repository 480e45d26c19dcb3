//! Files of an SR that are not what they should be, and an SR that is not the one it was: nothing
//! outside an SR is read or removed, nothing waits for ever, and nothing of another SR is freed.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use store::{
    Attachment, ErrorKind, Inactive, Name, Sr,
    testing::{self, Disks, Fixture, attachment, content, metadata},
};

const MIB: u64 = 1 << 20;

/// Does something in a thread of its own, and fails where that waits.
fn within_seconds<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, received) = mpsc::channel();
    thread::spawn(move || send.send(act()));
    received.recv_timeout(Duration::from_secs(20)).expect("it waits for something")
}

/// A destruction lets go of the SR's lock and then frees, which may take seconds. Meanwhile the SR is
/// destroyed, and one with the same UUID is made, whose layers have the same numbers.
#[test]
fn what_a_destruction_frees_is_never_that_of_an_sr_made_anew() {
    let fixture = Fixture::new(64 * MIB);
    let old = fixture.create(8 << 20);
    fixture.open(&old, false).unwrap().write(0, &[1; 8 << 20]).unwrap();
    let (host, uuid) = (fixture.host.clone(), fixture.sr.uuid().clone());
    // Runs when the lock is let go of, before anything is freed.
    let made = testing::at_unlock(move || {
        host.destroy(&uuid).unwrap();
        let sr = host.attach(&attachment(&host, 64 * MIB)).unwrap();
        let new = testing::create(&sr, 8 << 20).to_string();
        testing::open(&sr, &new, false).unwrap().write(0, &[2; 4 << 20]).unwrap();
        new
    });
    fixture.lock().destroy_volume(&old, &mut Inactive).unwrap();
    let new = made.recv().unwrap();
    let sr = Sr::open(&fixture.host, fixture.sr.uuid().as_str()).unwrap();
    assert_eq!(sr.lock().unwrap().check().unwrap(), [""; 0]);
    assert_eq!(sr.stat().unwrap().used, 4 * MIB);
    let bytes = content(&mut testing::open(&sr, &new, true).unwrap());
    assert!(bytes[..4 << 20] == [2; 4 << 20]);
    // Also by its own count: exactly what is left can be written.
    let mut disk = testing::open(&sr, &new, false).unwrap();
    disk.write(4 << 20, &[3; 4 << 20]).unwrap();
    assert_eq!(sr.stat().unwrap().used, 8 * MIB);
}

/// Whether a volume is served is looked up by many processes at once; none of them serves it.
#[test]
fn looks_at_an_idle_sr_do_not_make_it_active() {
    let fixture = Fixture::new(64 * MIB);
    let key = Name::parse(&fixture.create(1 << 20)).unwrap();
    drop(fixture.open(key.as_str(), false).unwrap());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // While the SR is detached there is an error.
                    let _found = fixture.sr.serving(&key);
                }
            });
        }
        let detached: Result<(), _> = (0..300).try_for_each(|_| {
            fixture.lock().detach()?;
            fixture.host.attach(&attachment(&fixture.host, 64 * MIB)).map(drop)
        });
        stop.store(true, Ordering::Relaxed);
        detached.unwrap();
    });
}

fn precious(root: &Path) -> PathBuf {
    let outside = root.join(".outside");
    fs::create_dir_all(&outside).unwrap();
    for name in ["deadbeef", "00000001", "cafe0001"] {
        fs::write(outside.join(name), "precious").unwrap();
    }
    outside
}

fn assert_precious(outside: &Path) {
    for name in ["deadbeef", "00000001", "cafe0001"] {
        assert_eq!(fs::read_to_string(outside.join(name)).unwrap(), "precious", "{name}");
    }
}

/// Before the SR is attached for the first time.
#[test]
fn a_link_in_the_place_of_a_directory_of_an_sr_is_refused_and_what_it_leads_to_is_left_alone() {
    for planted in ["", "data", "meta"] {
        let root = testing::root();
        let host = testing::host(root.path());
        let wanted = attachment(&host, 64 * MIB);
        let outside = precious(root.path());
        let sr = root.path().join(wanted.uuid.as_str());
        if planted.is_empty() {
            symlink(&outside, &sr).unwrap();
        } else {
            fs::create_dir(&sr).unwrap();
            symlink(&outside, sr.join(planted)).unwrap();
        }
        assert_eq!(host.attach(&wanted).unwrap_err().kind(), ErrorKind::SrMissing, "{planted:?}");
        assert_eq!(
            host.destroy(&wanted.uuid).unwrap_err().kind(),
            ErrorKind::SrMissing,
            "{planted:?}"
        );
        assert!(host.srs().unwrap().is_empty());
        assert_precious(&outside);
    }
}

#[test]
fn links_and_fifos_among_the_files_of_an_sr_lead_nowhere_and_make_nothing_wait() {
    let fixture = Fixture::new(64 * MIB);
    let outside = precious(fixture.root());
    let (meta, data) = (metadata(&fixture.sr), fixture.sr.layout().root().join("data"));
    let key = fixture.create(4 << 20);
    let link = |to: &str, from: PathBuf| symlink(outside.join(to), from).unwrap();
    link("deadbeef", meta.join("volume/link"));
    link("cafe0001", meta.join("serving/link"));
    link("00000001", meta.join("datapath/link"));
    link("", meta.join("tmp/directory"));
    link("00000001", data.join("00000099"));
    symlink("/dev/zero", meta.join("volume/zero")).unwrap();
    let fifos = ["volume/fifo", "serving/fifo", "index/00000098"].map(|it| meta.join(it));
    let made = Command::new("mkfifo").args(&fifos).status().unwrap();
    assert!(made.success());
    let (host, sr) = (fixture.host.clone(), fixture.sr.clone());
    within_seconds(move || {
        let (volumes, damaged) = sr.list().unwrap();
        assert_eq!((volumes.len(), damaged.len()), (1, 3));
        sr.stat().unwrap();
        assert!(!sr.lock().unwrap().check().unwrap().is_empty());
        host.attach(&attachment(&host, 64 * MIB)).unwrap();
        for damaged in ["link", "zero", "fifo"] {
            let error = sr.volume(damaged).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{damaged}");
            assert!(error.chain().contains("plain file"), "{}", error.chain());
            sr.lock().unwrap().destroy_volume(damaged, &mut Inactive).unwrap();
        }
        sr.lock().unwrap().collect(&mut Inactive).unwrap();
        sr.lock().unwrap().destroy_volume(&key, &mut Inactive).unwrap();
        host.destroy(sr.uuid()).unwrap();
    });
    assert_precious(&outside);
}

/// Each record is read once under one lock, and that of the SR not at all where nothing has changed. The
/// count of memory is mapped once, whatever is counted.
#[test]
fn an_operation_reads_each_record_once() {
    let fixture = Fixture::new(64 * MIB);
    let key = fixture.create(8 << 20);
    let sr = Sr::open(&fixture.host, fixture.sr.uuid().as_str()).unwrap();
    let other = fixture.create(8 << 20);
    let snapshot = fixture.lock().snapshot_volume(&key, &mut Disks::default()).unwrap().key;
    let parsed = |what: &str, srs: usize, volumes: usize| {
        let work = testing::work();
        assert_eq!((work.srs, work.volumes), (srs, volumes), "{what}");
        assert!(work.counts <= 1, "{what}: {work:?}");
    };
    testing::work();
    sr.stat().unwrap();
    sr.volume(&key).unwrap();
    sr.serving(&Name::parse(&key).unwrap()).unwrap();
    parsed("looking", 0, 1);
    sr.lock().unwrap().destroy_volume(snapshot.as_str(), &mut Inactive).unwrap();
    parsed("destroying one of three", 0, 3);
    sr.lock().unwrap().snapshot_volume(&key, &mut Inactive).unwrap();
    parsed("a snapshot", 0, 1);
    sr.lock().unwrap().compose_volumes(&other, &key, &mut Inactive).unwrap();
    parsed("composing two of three", 0, 3);
    sr.lock().unwrap().set_name("renamed").unwrap();
    parsed("a new name", 0, 0);
    assert_eq!(sr.stat().unwrap().name, "renamed");
    parsed("what has changed", 1, 0);
    let detached =
        Attachment { uuid: Name::parse("another").unwrap(), ..attachment(&fixture.host, MIB) };
    fixture.host.attach(&detached).unwrap().lock().unwrap().detach().unwrap();
    assert_eq!(fixture.host.srs().unwrap().len(), 2);
}

/// A user who owns the directory of locks can plant links in it, and hold every lock.
#[test]
fn a_directory_of_locks_that_others_may_write_to_is_refused_by_name() {
    let fixture = Fixture::new(MIB);
    let directory = fixture.host.lock_dir.clone();
    let refused = || {
        let error = fixture.sr.lock().map(drop).unwrap_err();
        let told = error.to_string();
        assert!(told.contains(directory.to_str().unwrap()), "{told}");
    };
    for mode in [0o777, 0o770, 0o1777] {
        fs::set_permissions(&directory, PermissionsExt::from_mode(mode)).unwrap();
        refused();
    }
    fs::set_permissions(&directory, PermissionsExt::from_mode(0o755)).unwrap();
    drop(fixture.lock());
    // A link in its place leads to a directory that is good in itself.
    let elsewhere = directory.with_extension("elsewhere");
    fs::rename(&directory, &elsewhere).unwrap();
    symlink(&elsewhere, &directory).unwrap();
    refused();
    // And a planted link in the place of a lock creates nothing.
    fs::remove_file(&directory).unwrap();
    fs::rename(&elsewhere, &directory).unwrap();
    let (lock, planted) = (directory.join(fixture.sr.uuid().as_str()), directory.join("planted"));
    fs::remove_file(&lock).unwrap();
    symlink(&planted, &lock).unwrap();
    refused();
    assert!(!planted.exists());
}

/// What this is after: two holders of one SR's lock, as its file goes with the SR and comes again.
#[test]
fn the_file_of_a_lock_goes_with_its_sr_and_the_lock_still_has_one_holder() {
    let fixture = Fixture::new(MIB);
    let inside = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let Ok(sr) = fixture.host.attach(&attachment(&fixture.host, MIB)) else {
                        continue;
                    };
                    if let Ok(lock) = sr.lock() {
                        assert!(!inside.swap(true, Ordering::SeqCst), "two holders");
                        thread::yield_now();
                        inside.store(false, Ordering::SeqCst);
                        drop(lock);
                    }
                    let _destroyed_already = fixture.host.destroy(sr.uuid());
                }
            });
        }
    });
    let _destroyed_already = fixture.host.destroy(fixture.sr.uuid());
    let left = fs::read_dir(&fixture.host.lock_dir).unwrap();
    let left: Vec<_> = left.map(|it| it.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name == fixture.sr.uuid().as_str()), "{left:?}");
}
