//! Swap and SRs: what a configuration asks for is what the mounts have, and free swap is promised to none. Run by
//! [`host_memory`](crate::host_memory) in its namespace.

use std::{fs, process::Command, thread};

use store::{Attachment, Disk, ErrorKind, Sr, Swap, SwapSpace, testing::attachment};

use crate::host_memory::{AGE, MIB, World, fill};

/// A host that says that it has swap of 8 GiB, all of it free and most of it zram.
fn with_swap(world: &World) -> Bound {
    let path = world.path().join(".swaps");
    let text = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
                /dev/zram9                              partition\t6291456\t\t0\t\t100\n\
                /dev/vda9                               partition\t2097152\t\t0\t\t-2\n";
    fs::write(&path, text).unwrap();
    world.write("SwapTotal:       8388608 kB\nSwapFree:        8388608 kB\n");
    let mut bind = Command::new("mount");
    assert!(bind.arg("--bind").arg(&path).arg("/proc/swaps").status().unwrap().success());
    assert_eq!(SwapSpace::now().unwrap().free(), 8192 * MIB);
    Bound
}

/// What is there in the place of /proc/swaps.
struct Bound;

impl Drop for Bound {
    fn drop(&mut self) {
        let _kept = Command::new("umount").arg("/proc/swaps").status();
    }
}

fn attach(world: &World, number: u32, size: u64, swap: bool) -> store::Result<Sr> {
    let uuid = World::uuid(number);
    world.host.attach(&Attachment { uuid, swap, ..attachment(&world.host, size) })
}

/// 2 GiB of memory, and swap of four times that: an SR is promised what is memory, and its disks stop at the
/// watermark as without swap. What the kernel has swapped is memory that is available, and they go on.
pub(crate) fn free_swap_is_neither_promised_nor_given_out() {
    let world = World::new(1500);
    let _swap = with_swap(&world);
    // A reserve of 128 MiB, and a margin.
    for swap in [false, true] {
        let error = attach(&world, 1, 1400 * MIB, swap).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        let text = error.to_string();
        assert!(text.contains("1.5 GiB are") && text.contains("at most"), "{text}");
    }
    let sr = attach(&world, 1, 1024 * MIB, true).unwrap();
    attach(&world, 2, 512 * MIB, true).unwrap_err();
    let mut disk = world.disk(&sr);
    let fill = |disk: &mut Disk| fill(std::slice::from_mut(disk), 0);
    world.available(20);
    thread::sleep(AGE);
    assert_eq!(fill(&mut disk), 0, "20 MiB are below the watermark of 136");
    assert_eq!(sr.stat().unwrap().free, 0);
    world.available(220);
    thread::sleep(AGE);
    disk.write(0, &vec![1; 1 << 20]).expect("swap has given 200 MiB");
}

/// What the kernel can do, a mount does: and that is told, also where the memory was made before.
pub(crate) fn a_configuration_decides_over_new_memory() {
    let world = World::new(1500);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|it| it.parse::<u32>().unwrap_or_default());
    let has_choice = (numbers.next(), numbers.next()) >= (Some(6), Some(4));
    let kept = |sr: &Sr| {
        let root = sr.layout().root().display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut ours = mounts.lines().filter(|line| line.contains(&root)).peekable();
        assert!(ours.peek().is_some());
        ours.map(|line| line.ends_with(",noswap") || line.contains(",noswap,")).collect::<Vec<_>>()
    };
    let is = |sr: &Sr, wanted: bool, state: Swap| {
        let stat = sr.stat().unwrap();
        assert_eq!(stat.swap, if has_choice { state } else { Swap::InAnyCase }, "{release}");
        assert_eq!((stat.swap_wanted, sr.swap().unwrap()), (wanted, (wanted, stat.swap)));
        let out = has_choice && !state.is_possible();
        assert_eq!(kept(sr), [out, out], "data and metadata");
    };
    let sr = attach(&world, 1, 64 * MIB, false).unwrap();
    is(&sr, false, Swap::Never);
    let other = attach(&world, 2, 64 * MIB, true).unwrap();
    is(&other, true, Swap::Wanted);
    for sr in [&sr, &other] {
        world.host.resize_sr(sr.uuid(), 96 * MIB).expect("with the option that it has");
        world.host.resize_sr(sr.uuid(), 64 * MIB).unwrap();
    }
    is(&sr, false, Swap::Never);
    is(&other, true, Swap::Wanted);
    // The configuration of memory that is there changes what comes next.
    let found = |number: u32| {
        let found = world.host.srs().unwrap();
        let found = found.into_iter().find(|sr| sr.stat.uuid == World::uuid(number)).unwrap();
        found.attachment.swap
    };
    let sr = attach(&world, 1, 64 * MIB, true).unwrap();
    is(&sr, true, Swap::NotYet);
    let other = attach(&world, 2, 64 * MIB, false).unwrap();
    is(&other, false, Swap::StillPossible);
    assert!(found(1) && !found(2), "what a probe tells is what was asked for last");
}
