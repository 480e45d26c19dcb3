//! What SRs may take of the host's memory: promises that count everything, and a watermark that all disks
//! of an SR see at once. On mounts, and with a made-up `/proc/meminfo`, in a namespace of its own.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    thread,
    time::Duration,
};

use scratch::Scratch;
use store::{
    Attachment, Disk, ErrorKind, Host, Inactive, Memory, Name, Sr,
    testing::{attachment, counted, create, open},
};

use crate::{
    mounts::{host_that_mounts, in_namespace, is_inside},
    swap,
};

pub(crate) const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;
/// After so long the host's memory is looked at again.
pub(crate) const AGE: Duration = Duration::from_millis(200);

/// A host whose memory is as the test says.
pub(crate) struct World {
    pub(crate) host: Host,
    meminfo: PathBuf,
    root: Scratch,
}

impl World {
    /// With 2 GiB, of which so many MiB are available.
    pub(crate) fn new(available: u64) -> Self {
        let root = Scratch::in_memory();
        let meminfo = root.path().join(".meminfo");
        let world = Self { host: host_that_mounts(root.path()), meminfo, root };
        world.available(available);
        let mut bind = Command::new("mount");
        bind.arg("--bind").arg(&world.meminfo).arg("/proc/meminfo");
        assert!(bind.status().unwrap().success());
        assert_eq!(Memory::now().unwrap().available, available * MIB);
        world
    }

    pub(crate) fn available(&self, mib: u64) {
        let text = format!("MemTotal: {} kB\nMemAvailable: {:>8} kB\n", 2 << 20, mib << 10);
        // At no moment is it empty.
        let file = File::options().write(true).create(true).truncate(false).open(&self.meminfo);
        file.unwrap().write_all_at(text.as_bytes(), 0).unwrap();
    }

    /// Has it say more, behind what it says of memory.
    pub(crate) fn write(&self, more: &str) {
        let file = File::options().append(true).open(&self.meminfo);
        file.unwrap().write_all(more.as_bytes()).unwrap();
    }

    /// A directory for the test.
    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn uuid(number: u32) -> Name {
        Name::parse(&format!("0f0e0d0c-0000-4000-8000-0000000000{number:02}")).unwrap()
    }

    fn attach(&self, number: u32, size: u64) -> store::Result<Sr> {
        let uuid = Self::uuid(number);
        self.host.attach(&Attachment { uuid, ..attachment(&self.host, size) })
    }

    /// A disk of 256 MiB.
    pub(crate) fn disk(&self, sr: &Sr) -> Disk {
        open(sr, create(sr, 256 << 20).as_str(), false).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for sr in self.host.srs().unwrap_or_default() {
            let _kept = self.host.destroy(&sr.stat.uuid);
        }
        let _kept = Command::new("umount").arg("/proc/meminfo").status();
    }
}

#[test]
fn memory_is_promised_once_and_given_out_above_the_watermark() {
    in_namespace("host_memory::inside");
}

#[test]
#[ignore = "no test by itself: the test above runs it in each run, in a mount namespace of its own"]
fn inside() {
    if is_inside() {
        an_sr_of_another_format_keeps_what_it_was_promised();
        tiny_srs_are_promised_their_metadata();
        ten_disks_see_the_watermark_at_once();
        disks_of_ten_srs_see_the_watermark_at_once();
        an_sr_grows_and_shrinks_with_its_mounts();
        fill_ups_leave_the_host_its_reserve();
        a_full_sr_on_mounts_is_full_to_the_page();
        swap::free_swap_is_neither_promised_nor_given_out();
        swap::a_configuration_decides_over_new_memory();
    }
}

fn an_sr_of_another_format_keeps_what_it_was_promised() {
    let world = World::new(1500);
    let first = world.attach(1, 1024 * MIB).unwrap();
    let refused = |what: &str| {
        let error = world.attach(2, 1024 * MIB).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{what}");
        assert!(error.to_string().contains("1 GiB are promised to other ram SRs"), "{error}");
    };
    refused("the first one is ours");
    let path = first.layout().root().join("meta/sr.json");
    let record = fs::read_to_string(&path).unwrap();
    fs::write(&path, record.replace("\"format\":1", "\"format\":2")).unwrap();
    refused("the first one has another format");
    fs::write(&path, record).unwrap();
}

fn tiny_srs_are_promised_their_metadata() {
    let world = World::new(300);
    // A reserve of 128 MiB and 49 MiB beside it, and 4 MiB of each SR beside its size.
    let made = (0..99).find(|&number| world.attach(number, MIB).is_err()).unwrap();
    assert!((22..=24).contains(&made), "{made} SRs of 1 MiB in 123 MiB");
    for sr in world.host.srs().unwrap() {
        let sr = Sr::open(&world.host, sr.stat.uuid.as_str()).unwrap();
        for place in ["data", "meta"] {
            let limit = Command::new("stat")
                .args(["-f", "-c", "%b"])
                .arg(sr.layout().root().join(place))
                .output()
                .unwrap();
            let blocks: u64 = String::from_utf8(limit.stdout).unwrap().trim().parse().unwrap();
            assert!(blocks * BLOCK <= 5 * MIB, "the limit of {place} is a backstop");
        }
    }
}

/// Writes to disk after disk, 1 MiB each, until all are refused; how many MiB were taken.
pub(crate) fn fill(disks: &mut [Disk], first: u64) -> u64 {
    let mut taken = 0;
    for disk in disks {
        for at in first.. {
            match disk.write(at * MIB, &vec![1; 1 << 20]) {
                Ok(()) => taken += 1,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::NoSpace);
                    assert!(error.to_string().contains("watermark"), "{error}");
                    break;
                }
            }
        }
    }
    taken
}

fn ten_disks_see_the_watermark_at_once() {
    let world = World::new(1500);
    let sr = world.attach(1, 1024 * MIB).unwrap();
    let keys: Vec<Name> = (0..10).map(|_| create(&sr, 256 << 20)).collect();
    let mut disks: Vec<Disk> =
        keys.iter().map(|key| open(&sr, key.as_str(), false).unwrap()).collect();
    disks.iter_mut().for_each(|disk| disk.write(0, &[1; 4096]).unwrap());
    // 136 MiB are the watermark. What was granted is granted to all together.
    world.available(20);
    let taken = fill(&mut disks, 1);
    assert!(taken <= 16, "{taken} MiB were taken of a host that has 20 left");
    world.available(1500);
    thread::sleep(AGE);
    disks.iter_mut().for_each(|disk| disk.write(MIB / 2, &[1; 4096]).unwrap());
    world.available(20);
    thread::sleep(AGE);
    assert_eq!(fill(&mut disks, 64), 0, "what was granted does not keep");
    let stat = sr.stat().unwrap();
    assert_eq!(stat.free, 0, "SR.stat knows of the watermark");
    // Everything else goes on.
    disks[0].write(100, &[2; 100]).unwrap();
    disks[0].discard(0, 4096).unwrap();
    drop(disks);
    sr.lock().unwrap().snapshot_volume(keys[0].as_str(), &mut Inactive).unwrap();
    sr.lock().unwrap().set_volume_name(keys[0].as_str(), "renamed").unwrap();
    world.available(156);
    assert!(sr.stat().unwrap().free <= 20 * MIB, "20 MiB are left above the watermark");
    let mut disk = open(&sr, keys[0].as_str(), false).unwrap();
    disk.write(200 * MIB, &vec![3; 1 << 20]).unwrap();
    drop(disk);
    for key in keys {
        sr.lock().unwrap().destroy_volume(key.as_str(), &mut Inactive).unwrap();
    }
}

/// There is one host, and one watermark.
fn disks_of_ten_srs_see_the_watermark_at_once() {
    let world = World::new(1500);
    let srs: Vec<Sr> = (1..=10).map(|number| world.attach(number, 64 * MIB).unwrap()).collect();
    let mut disks: Vec<Disk> =
        srs.iter().map(|sr| open(sr, create(sr, 256 << 20).as_str(), false).unwrap()).collect();
    disks.iter_mut().for_each(|disk| disk.write(0, &[1; 4096]).unwrap());
    // What was granted before was granted to all together.
    world.available(20);
    let taken = fill(&mut disks, 1);
    assert!(taken <= 16, "{taken} MiB were taken of a host that has 20 left");
    for sr in &srs {
        let stat = sr.stat().unwrap();
        assert_eq!((stat.total, stat.free), (64 * MIB, 0), "SR.stat knows of the watermark");
    }
}

/// Blocks that a place of an SR may hold.
pub(crate) fn mount_limit(sr: &Sr, place: &str) -> u64 {
    let path = sr.layout().root().join(place);
    let shown = Command::new("stat").args(["-f", "-c", "%b"]).arg(path).output().unwrap();
    String::from_utf8(shown.stdout).unwrap().trim().parse().unwrap()
}

fn an_sr_grows_and_shrinks_with_its_mounts() {
    let world = World::new(1500);
    let sr = world.attach(1, 64 * MIB).unwrap();
    let limits = |mib: u64| {
        for place in ["data", "meta"] {
            let limit = mount_limit(&sr, place) * BLOCK;
            assert!((mib * MIB..(mib + 8) * MIB).contains(&limit), "{place} holds {limit}");
        }
    };
    limits(64);
    world.host.resize_sr(sr.uuid(), 128 * MIB).unwrap();
    limits(128);
    let mut disk = open(&sr, create(&sr, 256 << 20).as_str(), false).unwrap();
    (0..100).for_each(|at| disk.write(at * MIB, &vec![1; 1 << 20]).unwrap());
    world.host.resize_sr(sr.uuid(), 110 * MIB).unwrap();
    limits(110);
    world.host.resize_sr(sr.uuid(), 64 * MIB).unwrap_err();
    limits(110);
    // The other SR was promised what is left, but for the reserve of 128 MiB and what is kept beside it.
    let other = world.attach(2, 1270 * MIB).unwrap();
    let error = world.host.resize_sr(sr.uuid(), 256 * MIB).unwrap_err().to_string();
    for part in ["beside the 100.", "1.2 GiB are promised", "177 MiB are kept", "at most"] {
        assert!(error.contains(part), "{part:?} is missing in {error:?}");
    }
    world.host.resize_sr(other.uuid(), 1000 * MIB).unwrap();
    world.host.resize_sr(sr.uuid(), 256 * MIB).unwrap();
    // The host is short of what it has promised. An SR may promise less in any case.
    world.available(300);
    world.host.resize_sr(sr.uuid(), 200 * MIB).unwrap();
    world.host.resize_sr(other.uuid(), 100 * MIB).unwrap();
    assert!(sr.stat().unwrap().free < 99 * MIB + MIB);
}

/// What the host has, but for what other programs and the SRs take of it at the moment.
struct Ledger<'a> {
    world: &'a World,
    srs: &'a [Sr],
    /// MiB that programs take, and the least that was available.
    state: Mutex<(u64, u64)>,
}

impl Ledger<'_> {
    const ALL: u64 = 700;

    /// Has programs take more or less, and the host say what is left, in MiB.
    fn balance(&self, change: impl FnOnce(&mut u64, u64)) {
        let mut state = self.state.lock().unwrap();
        let used: u64 = self.srs.iter().map(|sr| counted(sr).0.div_ceil(MIB)).sum();
        let left = |others: u64| Self::ALL.saturating_sub(used + others);
        let before = left(state.0);
        change(&mut state.0, before);
        let left = left(state.0);
        state.1 = state.1.min(left);
        self.world.available(left);
    }
}

/// Three SRs are filled together, again and again, beside a program that takes what it can get and gives it
/// back: no fill-up takes anything of the reserve of 128 MiB, and all that was taken comes back. The same with the
/// memory that a machine really has: `examples/fill_ups.rs`.
/// `STORE_FILL_UPS` sets how many.
fn fill_ups_leave_the_host_its_reserve() {
    let rounds = std::env::var("STORE_FILL_UPS").map_or(3, |count| count.parse().unwrap());
    let world = World::new(Ledger::ALL);
    let srs: Vec<Sr> = (1..=3).map(|number| world.attach(number, 150 * MIB).unwrap()).collect();
    let (mut by_host, mut by_size) = (0, 0);
    for round in 0..rounds {
        let keys: Vec<Name> = srs.iter().map(|sr| create(sr, 512 << 20)).collect();
        // In every other round not all of the SRs can be full.
        let least = if round % 2 == 0 { 250 } else { 0 };
        let ledger = Ledger { world: &world, srs: &srs, state: Mutex::new((least, u64::MAX)) };
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for (sr, key) in srs.iter().zip(&keys) {
                let ledger = &ledger;
                threads.push(scope.spawn(move || {
                    let mut disk = open(sr, key.as_str(), false).unwrap();
                    let refused = (0..512).find_map(|at| {
                        ledger.balance(|_, _| {});
                        disk.write(at * MIB, &vec![1; 1 << 20]).err()
                    });
                    refused.expect("it is larger than the SR").to_string().contains("watermark")
                }));
            }
            for step in round * 7.. {
                if threads.iter().all(|thread| thread.is_finished()) {
                    break;
                }
                ledger.balance(|others, left| match step % 64 {
                    // The program does not take the last memory itself.
                    0..48 if left > 180 => *others += 8,
                    0..48 => {}
                    _ => *others = others.saturating_sub(16).max(least),
                });
                thread::sleep(Duration::from_micros(200));
            }
            for thread in threads {
                let count = if thread.join().unwrap() { &mut by_host } else { &mut by_size };
                *count += 1;
            }
        });
        ledger.balance(|_, _| {});
        let lowest = ledger.state.into_inner().unwrap().1;
        assert!(lowest >= 128, "{lowest} MiB were left of the reserve of 128 MiB");
        // The program ends.
        world.available(Ledger::ALL);
        for (sr, key) in srs.iter().zip(keys) {
            sr.lock().unwrap().destroy_volume(key.as_str(), &mut Inactive).unwrap();
            let stat = sr.stat().unwrap();
            assert_eq!((stat.used, stat.metadata, counted(sr)), (0, 0, (0, 0)), "round {round}");
        }
    }
    assert!(by_host > 0, "of {} fill-ups the host ended none", by_host + by_size);
}

fn a_full_sr_on_mounts_is_full_to_the_page() {
    let world = World::new(1500);
    let sr = world.attach(1, 16 * MIB).unwrap();
    let key = create(&sr, 64 << 30);
    let mut disk = open(&sr, key.as_str(), false).unwrap();
    // A block in each chunk: there is a page of slots for 64 of them.
    let written = (0..).find(|at| disk.write(at * 4 * MIB, &[1; 4096]).is_err()).unwrap();
    assert!((4000..=4032).contains(&written), "{written} blocks and their slots");
    let stat = sr.stat().unwrap();
    assert!(stat.free < 3 * BLOCK && stat.used + stat.metadata <= 16 * MIB, "{stat:?}");
    assert_eq!(counted(&sr).0, stat.used + stat.metadata);
    drop(disk);
    let snapshot = sr.lock().unwrap().snapshot_volume(key.as_str(), &mut Inactive).unwrap().key;
    for key in [key, snapshot] {
        sr.lock().unwrap().destroy_volume(key.as_str(), &mut Inactive).unwrap();
    }
    let stat = sr.stat().unwrap();
    assert_eq!((stat.used, stat.metadata, counted(&sr)), (0, 0, (0, 0)));
}
