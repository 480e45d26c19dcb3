//! The life of an SR and of its volumes, as a plugin leads it.

use store::testing::{Fixture, attachment, content, host};
use store::{ErrorKind, Host, Inactive, Name, NewVolume};

const MIB: u64 = 1 << 20;

#[test]
fn a_detached_sr_keeps_its_memory_and_answers_nothing() {
    let fixture = Fixture::new(64 * MIB);
    let key = fixture.create(8 << 20);
    fixture.open(&key, false).unwrap().write(5000, b"kept").unwrap();
    fixture.lock().detach().unwrap();
    assert_eq!(fixture.sr.stat().unwrap_err().kind(), ErrorKind::SrNotAttached);
    assert_eq!(fixture.sr.volume(&key).unwrap_err().kind(), ErrorKind::SrNotAttached);
    assert!(!fixture.host.srs().unwrap()[0].stat.attached);

    fixture.host.attach(&attachment(&fixture.host, 64 * MIB)).unwrap();
    let mut got = [0; 4];
    fixture.open(&key, true).unwrap().read_into(5000, &mut got).unwrap();
    assert_eq!(&got, b"kept");
}

#[test]
fn a_volume_lost_in_a_reboot_is_told_from_one_that_never_was() {
    let fixture = Fixture::new(64 * MIB);
    let lost = fixture.create(4096);
    let uuid = fixture.sr.uuid().clone();
    // A reboot: the memory is gone without anybody having said so.
    std::fs::remove_dir_all(fixture.sr.layout().root()).unwrap();
    let sr = fixture.host.attach(&attachment(&fixture.host, 64 * MIB)).unwrap();
    assert_eq!(sr.uuid(), &uuid);
    assert!(sr.volumes().unwrap().is_empty());
    let error = sr.volume(&lost).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::VolumeLost);
    assert!(error.to_string().contains("xe sr-scan"), "{error}");

    let deleted = fixture.create(4096);
    sr.lock().unwrap().destroy_volume(&deleted, &mut Inactive).unwrap();
    assert_eq!(sr.volume(&deleted).unwrap_err().kind(), ErrorKind::VolumeMissing);
    sr.lock().unwrap().destroy_volume(&deleted, &mut Inactive).unwrap();
}

#[test]
fn another_hosts_memory_is_refused_by_name() {
    let fixture = Fixture::new(64 * MIB);
    let elsewhere = Host { uuid: "host-b".into(), ..fixture.host.clone() };
    let error = elsewhere.attach(&attachment(&fixture.host, MIB)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OtherHost);
    assert!(error.to_string().contains("host-b"), "{error}");
}

#[test]
fn an_active_disk_keeps_its_volume_and_its_sr() {
    let fixture = Fixture::new(64 * MIB);
    let key = fixture.create(8 << 20);
    let disk = fixture.open(&key, false).unwrap();
    assert_eq!(
        fixture.lock().destroy_volume(&key, &mut Inactive).unwrap_err().kind(),
        ErrorKind::VolumeInUse
    );
    assert_eq!(fixture.lock().detach().unwrap_err().kind(), ErrorKind::SrInUse);
    assert_eq!(fixture.host.destroy(fixture.sr.uuid()).unwrap_err().kind(), ErrorKind::SrInUse);
    let serving = fixture.sr.serving(&Name::parse(&key).unwrap()).unwrap().unwrap();
    assert_eq!(serving.pid, std::process::id());
    drop(disk);
    assert_eq!(fixture.sr.serving(&Name::parse(&key).unwrap()).unwrap(), None);
    fixture.host.destroy(fixture.sr.uuid()).unwrap();
    assert!(!fixture.sr.layout().root().exists());
    assert_eq!(fixture.host.destroy(fixture.sr.uuid()).unwrap_err().kind(), ErrorKind::SrMissing);
}

#[test]
fn sizes_are_rounded_up_and_never_shrink() {
    let fixture = Fixture::new(64 * MIB);
    for (asked, got) in [(0, 512), (1, 512), (4096, 4096), (4097, 4608)] {
        let key = fixture.create(asked);
        assert_eq!(fixture.sr.volume(&key).unwrap().size, got);
    }
    let key = fixture.create(8 << 20);
    assert_eq!(fixture.lock().resize_volume(&key, (8 << 20) + 1).unwrap(), (8 << 20) + 512);
    assert_eq!(fixture.lock().resize_volume(&key, 8 << 20).unwrap_err().kind(), ErrorKind::BadSize);
    for size in [-1, i64::MAX] {
        let new = NewVolume { name: "", description: "", size, sharable: false };
        assert_eq!(fixture.lock().create_volume(&new).unwrap_err().kind(), ErrorKind::BadSize);
    }
    let new = NewVolume { name: "", description: "", size: 20 << 40, sharable: false };
    let error = fixture.lock().create_volume(&new).unwrap_err();
    let says = "size 20 TiB (21990232555520 bytes) is too large: a volume holds at most 16 TiB";
    assert_eq!(error.to_string(), says);
    assert_eq!(fixture.open(&key, false).unwrap().size(), (8 << 20) + 512);
}

#[test]
fn an_sr_filled_to_the_last_block_says_so_and_deleting_helps() {
    let fixture = Fixture::new(8 * MIB);
    let (first, second) = (fixture.create(16 << 20), fixture.create(16 << 20));
    let mut disk = fixture.open(&first, false).unwrap();
    disk.write(0, &vec![1; 6 << 20]).unwrap();
    let mut other = fixture.open(&second, false).unwrap();
    let error = other.write(0, &vec![2; 3 << 20]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert_eq!(fixture.sr.stat().unwrap().used, 6 * MIB, "nothing of what was refused is kept");
    // To the last block: data, and the metadata that it needs.
    let refused = (0..).find(|block| other.write(block * 4096, &[2]).is_err()).unwrap();
    assert_eq!(other.write(8 << 20, &[3]).unwrap_err().kind(), ErrorKind::NoSpace);
    let stat = fixture.sr.stat().unwrap();
    assert_eq!((stat.used, stat.free), (6 * MIB + refused * 4096, 0));
    assert_eq!(stat.used + stat.metadata, 8 * MIB);
    assert!(stat.metadata < 64 << 10, "{stat:?}");
    // In place, a full SR can still be written, and structure still changes.
    other.write(0, &[4; 4096]).unwrap();
    fixture.lock().set_volume_name(&first, "renamed").unwrap();
    disk.discard(0, 8192).unwrap();
    other.write(8 << 20, &[3]).unwrap();
    drop(disk);
    fixture.lock().destroy_volume(&first, &mut Inactive).unwrap();
    assert_eq!(fixture.sr.stat().unwrap().used, (refused + 1) * 4096);
    other.write(9 << 20, &vec![5; 5 << 20]).unwrap();
    assert_eq!(content(&mut other)[8 << 20], 3);
}

#[test]
fn discarding_everything_gives_everything_back() {
    let fixture = Fixture::new(256 * MIB);
    let key = fixture.create(64 << 20);
    let mut disk = fixture.open(&key, false).unwrap();
    disk.write(0, &vec![7; 64 << 20]).unwrap();
    assert_eq!(fixture.sr.stat().unwrap().used, 64 * MIB);
    assert_eq!(fixture.sr.volume(&key).unwrap().utilisation, 64 * MIB);
    for start in (0..64 * MIB).step_by(1 << 20) {
        disk.discard(start, MIB).unwrap();
    }
    assert_eq!(fixture.sr.stat().unwrap().used, 0);
    assert!(content(&mut disk).iter().all(|&byte| byte == 0));
    assert_eq!(metadata_bytes(&fixture, "map"), 0, "no page of the map is left");
}

/// Bytes allocated below a directory of the SR's metadata.
fn metadata_bytes(fixture: &Fixture, directory: &str) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let directory = fixture.sr.layout().root().join("meta").join(directory);
    std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().blocks() * 512)
        .sum()
}

#[test]
fn a_promise_that_the_host_cannot_keep_is_refused() {
    let root = scratch::Scratch::in_memory();
    let host = host(root.path());
    let error = host.attach(&attachment(&host, 1 << 50)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(error.to_string().contains("device-config:size="), "{error}");
    assert!(host.srs().unwrap().is_empty(), "nothing is left behind");
    let locks = host.lock_dir.read_dir().unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(locks.collect::<Vec<_>>(), [".promises"], "nor a lock of an SR that is not there");
}

#[test]
fn a_plain_file_is_loaded_and_never_written_back() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let bytes: Vec<u8> = (0..1_000_003_u32).map(|n| (n / 5000) as u8).collect();
    std::fs::write(&file, &bytes).unwrap();
    let open = |path: &std::path::Path| {
        let serving =
            store::Serving { pid: 1, control_dir: String::new(), minor: 0, read_only: false };
        store::Disk::open(path, &store::Open { serving })
    };
    let mut disk = open(file.path()).unwrap();
    assert_eq!(disk.size(), 1_000_003 / 512 * 512);
    let size = usize::try_from(disk.size()).unwrap();
    assert!(content(&mut disk) == bytes[..size]);
    disk.write(disk.size() - 3, b"end").unwrap();
    disk.write_zeroes(0, 100_000, false).unwrap();
    assert_eq!(content(&mut disk)[size - 3..], *b"end");
    assert!(std::fs::read(file.path()).unwrap() == bytes);
    assert_eq!(
        open(std::path::Path::new("/dev/shm")).unwrap_err().errno(),
        rustix::io::Errno::ISDIR
    );
    assert_eq!(
        open(std::path::Path::new("/no/such")).unwrap_err().errno(),
        rustix::io::Errno::NOENT
    );
}

/// SRs of all types have their mounts below one root: what another one keeps there is never removed,
/// even if its directories have the names of ours.
#[test]
fn a_directory_of_somebody_else_is_left_alone() {
    for place in ["data/precious", "meta/precious", "precious"] {
        let root = scratch::Scratch::in_memory();
        let host = host(root.path());
        let wanted = attachment(&host, 64 * MIB);
        let file = root.path().join(wanted.uuid.as_str()).join(place);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "x").unwrap();
        let attached = host.attach(&wanted);
        let destroyed = host.destroy(&wanted.uuid);
        assert_eq!(attached.unwrap_err().kind(), ErrorKind::SrMissing, "{place}");
        assert_eq!(destroyed.unwrap_err().kind(), ErrorKind::SrMissing, "{place}");
        assert!(file.exists(), "{place}");
    }
}

#[test]
fn what_lies_beyond_the_end_of_the_newer_volume_has_not_changed() {
    let fixture = Fixture::new(64 * MIB);
    let new = fixture.create(5 * 4096);
    let old = fixture.lock().clone_volume(&new, &mut Inactive).unwrap().key.to_string();
    fixture.lock().resize_volume(&old, 10 * 4096).unwrap();
    fixture.open(&old, false).unwrap().write(6 * 4096, &[1]).unwrap();
    assert_eq!(fixture.lock().changed_blocks(&old, &new, 0, -1).unwrap().bitmap, [0]);
    assert_eq!(fixture.lock().changed_blocks(&new, &old, 0, -1).unwrap().bitmap, [0x80]);
}
