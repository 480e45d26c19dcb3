//! Volumes that a foreign process serves from a copy: what they refuse meanwhile, what comes back,
//! and what is left of a loan whose borrower died.

use std::{fs::File, path::PathBuf};

use rustix::fs::{FlockOperation, flock};
use store::{ErrorKind, ExternalHolder, Inactive, Name, Result, Serving};

use store::testing::{Fixture, attachment, content};

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;

/// A borrower: alive for as long as its file is locked.
struct Borrower {
    path: PathBuf,
    file: File,
}

impl Borrower {
    fn new(fixture: &Fixture) -> Self {
        let path = fixture.host.sr_root.join("borrower");
        let file = File::create(&path).unwrap();
        flock(&file, FlockOperation::LockExclusive).unwrap();
        Self { path, file }
    }

    fn external_holder(&self, read_only: bool) -> ExternalHolder {
        let serving = Serving { pid: 77, control_dir: "/x".into(), minor: 5, read_only };
        ExternalHolder::new(serving, self.path.clone())
    }

    fn die(self) {
        drop(self.file);
    }
}

#[track_caller]
fn in_use<T>(result: Result<T>) {
    let Err(error) = result else { panic!("it has to be refused") };
    assert_eq!(error.kind(), ErrorKind::VolumeInUse, "{error}");
    assert!(error.to_string().contains("process 77, minor 5"), "{error}");
}

#[test]
fn a_lent_volume_refuses_everything_that_its_borrower_would_not_see() {
    let fixture = Fixture::new(64 * MIB);
    let (sr, key) = (&fixture.sr, fixture.create(1 << 20));
    let snapshot = sr.lock().unwrap().snapshot_volume(&key, &mut Inactive).unwrap().key.to_string();
    let clone = sr.lock().unwrap().clone_volume(&key, &mut Inactive).unwrap().key.to_string();
    let living_holder = Borrower::new(&fixture);
    sr.lock().unwrap().set_external_holder(&key, &living_holder.external_holder(false)).unwrap();
    in_use(sr.lock().unwrap().snapshot_volume(&key, &mut Inactive));
    in_use(sr.lock().unwrap().clone_volume(&key, &mut Inactive));
    in_use(sr.lock().unwrap().clone_hidden(&key, &Name::parse("hidden").unwrap(), &mut Inactive));
    in_use(sr.lock().unwrap().resize_volume(&key, 2 << 20));
    in_use(sr.lock().unwrap().revert_volume(&snapshot, &key, &mut Inactive));
    in_use(sr.lock().unwrap().compose_volumes(&clone, &key, &mut Inactive));
    in_use(sr.lock().unwrap().compose_volumes(&key, &clone, &mut Inactive));
    in_use(sr.lock().unwrap().destroy_volume(&key, &mut Inactive));
    in_use(sr.lock().unwrap().set_external_holder(&key, &living_holder.external_holder(false)));
    in_use(fixture.open(&key, true));
    assert_eq!(sr.lock().unwrap().detach().unwrap_err().kind(), ErrorKind::SrInUse);
    // What is said of it may change, and what it shares with others is theirs.
    sr.lock().unwrap().set_volume_name(&key, "still lent").unwrap();
    sr.lock().unwrap().destroy_volume(&snapshot, &mut Inactive).unwrap();
    sr.lock().unwrap().destroy_volume(&clone, &mut Inactive).unwrap();
    sr.lock().unwrap().collect(&mut Inactive).unwrap();
    assert_eq!(sr.external_holder(&key).unwrap(), Some(living_holder.external_holder(false)));
    sr.lock().unwrap().clear_external_holder(&key).unwrap();
    sr.lock().unwrap().clear_external_holder(&key).unwrap();
    sr.lock().unwrap().resize_volume(&key, 2 << 20).unwrap();
    sr.lock().unwrap().destroy_volume(&key, &mut Inactive).unwrap();
}

/// Nothing that it could see changes then.
#[test]
fn a_volume_that_is_lent_for_reading_can_be_snapshotted_and_stays_lent() {
    let fixture = Fixture::new(64 * MIB);
    let (sr, key) = (&fixture.sr, fixture.create(1 << 20));
    let living_holder = Borrower::new(&fixture);
    sr.lock().unwrap().set_external_holder(&key, &living_holder.external_holder(true)).unwrap();
    let snapshot = sr.lock().unwrap().snapshot_volume(&key, &mut Inactive).unwrap().key;
    assert_eq!(sr.external_holder(snapshot.as_str()).unwrap(), None);
    in_use(sr.lock().unwrap().destroy_volume(&key, &mut Inactive));
}

#[test]
fn a_borrower_that_died_protects_nothing() {
    let fixture = Fixture::new(64 * MIB);
    let (sr, key) = (&fixture.sr, fixture.create(1 << 20));
    fixture.open(&key, false).unwrap().write(0, b"as it was lent").unwrap();
    let living_holder = Borrower::new(&fixture);
    sr.lock().unwrap().set_external_holder(&key, &living_holder.external_holder(false)).unwrap();
    living_holder.die();
    assert_eq!(sr.living_holder(&Name::parse(&key).unwrap()).unwrap(), None);
    let mut read = [0; 14];
    fixture.open(&key, true).unwrap().read_into(0, &mut read).unwrap();
    assert_eq!(&read, b"as it was lent");
    sr.lock().unwrap().snapshot_volume(&key, &mut Inactive).unwrap();
    sr.lock().unwrap().destroy_volume(&key, &mut Inactive).unwrap();
}

#[test]
fn what_comes_back_is_read_and_what_is_given_up_is_not() {
    let fixture = Fixture::new(64 * MIB);
    let (sr, key) = (&fixture.sr, fixture.create(1 << 20));
    fixture.open(&key, false).unwrap().write(0, &[1; 3 * 4096]).unwrap();
    let before = sr.lock().unwrap().snapshot_volume(&key, &mut Inactive).unwrap().key.to_string();
    let living_holder = Borrower::new(&fixture);
    sr.lock().unwrap().set_external_holder(&key, &living_holder.external_holder(false)).unwrap();
    let mut given_up = sr.lock().unwrap().begin_write_back(&key).unwrap();
    given_up.disk().write(0, &[7; 4096]).unwrap();
    given_up.abandon().unwrap();
    // One that is killed leaves the same as one that is forgotten; the next one tidies up.
    let mut forgotten = sr.lock().unwrap().begin_write_back(&key).unwrap();
    forgotten.disk().write(MIB / 2, &[8; 4096]).unwrap();
    drop(forgotten);
    let mut returned = sr.lock().unwrap().begin_write_back(&key).unwrap();
    assert_eq!(sr.stat().unwrap().used, 3 * BLOCK, "nothing of the two before is left");
    returned.disk().write(BLOCK, &[2; 4096]).unwrap();
    returned.disk().write_zeroes(2 * BLOCK, BLOCK, false).unwrap();
    assert_eq!(sr.volumes().unwrap().len(), 2, "it is nobody's volume");
    returned.commit().unwrap();
    assert_eq!(sr.external_holder(&key).unwrap(), None);
    let bytes = content(&mut fixture.open(&key, true).unwrap());
    assert_eq!((bytes[0], bytes[4096], bytes[8192]), (1, 2, 0));
    let old = content(&mut fixture.open(&before, true).unwrap());
    assert_eq!((old[0], old[4096], old[8192]), (1, 1, 1), "a snapshot stays what it is");
    sr.lock().unwrap().destroy_volume(&before, &mut Inactive).unwrap();
    assert_eq!(sr.stat().unwrap().used, 2 * BLOCK);
    assert_eq!(sr.lock().unwrap().check().unwrap(), [""; 0]);
}

/// Room for the disk once: what comes back has to take the place of what was there bit by bit.
#[test]
fn a_part_that_is_committed_frees_what_was_there() {
    let fixture = Fixture::new(9 * MIB + (64 << 10));
    let (sr, key) = (&fixture.sr, fixture.create(8 << 20));
    fixture.open(&key, false).unwrap().write(0, &[1; 8 << 20]).unwrap();
    let living_holder = Borrower::new(&fixture);
    sr.lock().unwrap().set_external_holder(&key, &living_holder.external_holder(false)).unwrap();
    for part in 0..8 {
        let mut returned = sr.lock().unwrap().begin_write_back(&key).unwrap();
        returned.disk().write(part * MIB, &[2; 1 << 20]).unwrap();
        returned.commit_part().unwrap();
        assert!(sr.external_holder(&key).unwrap().unwrap().partial, "it reads as a mixture by now");
        assert_eq!(sr.stat().unwrap().used, 8 * MIB);
        in_use(sr.lock().unwrap().destroy_volume(&key, &mut Inactive));
    }
    sr.lock().unwrap().begin_write_back(&key).unwrap().commit().unwrap();
    assert!(content(&mut fixture.open(&key, true).unwrap()) == [2; 8 << 20]);
    assert_eq!(sr.lock().unwrap().check().unwrap(), [""; 0]);
}

/// What the plugins keep with an SR is kept as it is, and goes with the attaching of the SR.
#[test]
fn what_the_plugins_keep_with_an_sr_changes_when_it_is_attached_with_something_else() {
    let fixture = Fixture::new(64 * MIB);
    let key = fixture.create(600 << 20);
    assert_eq!(fixture.sr.provider().unwrap(), "");
    let blktap =
        store::Attachment { provider: "blktap".to_owned(), ..attachment(&fixture.host, 64 * MIB) };
    let sr = fixture.host.attach(&blktap).unwrap();
    assert_eq!(sr.provider().unwrap(), "blktap", "the attached one is the new one");
    assert_eq!(fixture.host.srs().unwrap()[0].attachment, blktap);
    sr.volume(&key).unwrap();
}
