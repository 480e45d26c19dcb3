//! Minors under locks, by several at the same time. An flock belongs to an open file, so threads
//! that open the files themselves stand for processes.

use std::{collections::BTreeSet, os::unix::fs::PermissionsExt, thread};

use rustix::io::Errno;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(20);

fn dir() -> (tempfile::TempDir, ControlDir) {
    let root = tempfile::tempdir().unwrap();
    let dir = ControlDir::new(root.path().join("control"));
    (root, dir)
}

#[test]
fn the_first_free_number_is_given_out() {
    let (_root, dir) = dir();
    assert_eq!(allocate(&dir, TIMEOUT).unwrap(), 0);
    assert_eq!(allocate(&dir, TIMEOUT).unwrap(), 1);
    assert_eq!(allocate(&dir, TIMEOUT).unwrap(), 2);
    free(&dir, 1, TIMEOUT).unwrap();
    assert_eq!(allocate(&dir, TIMEOUT).unwrap(), 1);
    let metadata = fs::metadata(dir.minor(1)).unwrap();
    assert_eq!((metadata.permissions().mode() & 0o7777, metadata.len()), (0o600, 0));
}

#[test]
fn freeing_fails_as_tap_ctl_does() {
    let (_root, dir) = dir();
    assert_eq!(free(&dir, 0, TIMEOUT).unwrap_err().errno(), Errno::NOENT.raw_os_error());
    let minor = allocate(&dir, TIMEOUT).unwrap();
    let error = free(&dir, minor + 1, TIMEOUT).unwrap_err();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::NotFound, Errno::NOENT.raw_os_error()));
    let lock = MinorLock::take(&dir, minor).unwrap();
    let error = free(&dir, minor, TIMEOUT).unwrap_err();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Busy, Errno::AGAIN.raw_os_error()));
    assert!(is_attached(&dir, minor).unwrap());
    drop(lock);
    assert!(!is_attached(&dir, minor).unwrap());
    free(&dir, minor, TIMEOUT).unwrap();
    assert_eq!(is_attached(&dir, minor).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_minor_is_attached_by_one() {
    let (_root, dir) = dir();
    assert_eq!(MinorLock::take(&dir, 0).unwrap_err().kind(), ErrorKind::NotFound);
    let minor = allocate(&dir, TIMEOUT).unwrap();
    let lock = MinorLock::take(&dir, minor).unwrap();
    assert_eq!(lock.minor(), minor);
    assert_eq!(MinorLock::take(&dir, minor).unwrap_err().kind(), ErrorKind::Busy);
    drop(lock);
    MinorLock::take(&dir, minor).unwrap();
}

#[test]
fn a_directory_that_stays_locked_is_an_error_and_no_wait() {
    let (_root, dir) = dir();
    dir.create().unwrap();
    let _held = lock_directory(&dir, "hold", TIMEOUT).unwrap();
    let short = Duration::from_millis(30);
    assert_eq!(allocate(&dir, short).unwrap_err().kind(), ErrorKind::Timeout);
}

#[test]
fn when_all_are_taken_it_says_so() {
    let (_root, dir) = dir();
    dir.create().unwrap();
    for minor in 0..MINORS_MAX {
        File::create(dir.minor(minor)).unwrap();
    }
    assert_eq!(allocate(&dir, TIMEOUT).unwrap_err().kind(), ErrorKind::Full);
    free(&dir, MINORS_MAX - 1, TIMEOUT).unwrap();
    assert_eq!(allocate(&dir, TIMEOUT).unwrap(), MINORS_MAX - 1);
}

/// What this is after: two owners of one number, and numbers lost on the way.
#[test]
fn many_at_once_never_share_a_number() {
    let (_root, dir) = dir();
    let dir = &dir;
    let kept: Vec<MinorLock> = thread::scope(|scope| {
        let turns: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(move || {
                    let mut kept = Vec::new();
                    for turn in 0..24 {
                        let minor = allocate(dir, TIMEOUT).unwrap();
                        let lock = MinorLock::take(dir, minor).unwrap();
                        assert!(free(dir, minor, TIMEOUT).is_err());
                        if turn % 2 == 0 {
                            kept.push(lock);
                        } else {
                            drop(lock);
                            free(dir, minor, TIMEOUT).unwrap();
                        }
                    }
                    kept
                })
            })
            .collect();
        turns.into_iter().flat_map(|turn| turn.join().unwrap()).collect()
    });
    let numbers: BTreeSet<Minor> = kept.iter().map(MinorLock::minor).collect();
    assert_eq!(numbers.len(), 8 * 12);
    let reserved: BTreeSet<Minor> = dir.reserved().unwrap().into_iter().collect();
    assert_eq!(reserved, numbers);
}

#[test]
fn a_minor_is_found_by_what_it_is_reserved_for() {
    let (_root, dir) = dir();
    assert_eq!(reserved_for(&dir, "a").unwrap(), [0; 0]);
    assert_eq!(allocate(&dir, TIMEOUT).unwrap(), 0);
    // What a call left that was killed before its file had a number.
    fs::write(dir.minors().join(NEW_NAME), "b").unwrap();
    assert_eq!(allocate_for(&dir, "a", TIMEOUT).unwrap(), 1);
    assert_eq!(allocate_for(&dir, "a b", TIMEOUT).unwrap(), 2);
    assert_eq!(allocate_for(&dir, "a", TIMEOUT).unwrap(), 3);
    assert_eq!(reserved_for(&dir, "a").unwrap(), [1, 3]);
    assert_eq!(reserved_for(&dir, "a b").unwrap(), [2]);
    assert_eq!(reserved_for(&dir, "b").unwrap(), [0; 0]);
    let metadata = fs::metadata(dir.minor(1)).unwrap();
    assert_eq!((metadata.permissions().mode() & 0o7777), 0o600);
    let _lock = MinorLock::take(&dir, 1).unwrap();
    free(&dir, 3, TIMEOUT).unwrap();
    assert_eq!(reserved_for(&dir, "a").unwrap(), [1]);
    assert_eq!(dir.reserved().unwrap(), [0, 1, 2]);
    let names = fs::read_dir(dir.minors()).unwrap().count();
    assert_eq!(names, 3, "no other file is left");
}

/// Something has emptied the directory under a tapdisk.
#[test]
fn a_minor_whose_file_was_removed_is_reserved_again_for_its_owner() {
    let (_root, dir) = dir();
    let minor = allocate_for(&dir, "a volume", TIMEOUT).unwrap();
    let mut lock = MinorLock::take(&dir, minor).unwrap();
    assert!(!lock.restore(&dir).unwrap(), "nothing is lost");
    for _ in 0..2 {
        std::fs::remove_dir_all(dir.minors()).unwrap();
        assert!(lock.restore(&dir).unwrap());
        assert!(is_attached(&dir, minor).unwrap());
        assert_eq!(reserved_for(&dir, "a volume").unwrap(), [minor]);
        assert_eq!(std::fs::read_dir(dir.minors()).unwrap().count(), 1);
    }
    // Another process was faster.
    std::fs::remove_file(dir.minor(minor)).unwrap();
    assert_eq!(allocate(&dir, TIMEOUT).unwrap(), minor);
    assert_eq!(lock.restore(&dir).unwrap_err().kind(), ErrorKind::Busy);
    assert!(!is_attached(&dir, minor).unwrap());
    assert_eq!(std::fs::read_dir(dir.minors()).unwrap().count(), 1);
}
