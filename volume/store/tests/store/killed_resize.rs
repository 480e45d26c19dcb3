//! Death at each step of a change of an SR's size, on mounts and beside a disk that goes on: afterwards the SR has
//! one of the two sizes, other SRs can be promised what that leaves of the host's memory, and the next change or
//! attach makes everything agree: the record, the limit that writers keep to, and what the mounts may hold. Run in a
//! namespace of its own.

use std::os::unix::process::ExitStatusExt;

use store::{
    Attachment, Disk, ErrorKind, Host, Sr,
    testing::{Disks, attachment, counted, failpoints},
};

use crate::{
    dying::{self, SIGKILL},
    host_memory::{MIB, World, mount_limit},
    mounts::{SR_BYTES, host_that_mounts, in_namespace, is_inside},
};

/// What an operation of [`dying`] begins with that is one of these.
pub(crate) const PREFIX: &str = "resized: ";
const BLOCK: u64 = 4096;
const LARGER: u64 = 24 * MIB;
const SMALLER: u64 = 8 * MIB;
/// What the disk holds before, in bytes.
const WRITTEN: u64 = 2 * MIB;
const OPERATIONS: [(&str, u64); 4] = [
    ("grow", LARGER),
    ("shrink", SMALLER),
    ("attach with a larger size", LARGER),
    ("attach with a smaller size", SMALLER),
];

/// What comes after the kill.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// The same once more.
    Repeat,
    /// A change to the size that it had.
    Back,
    /// A change to the size that it has now.
    Stay,
    /// A change to yet another size.
    Other,
    /// An attach, as xapi does when the toolstack starts: with what device-config says.
    Attach,
}

/// In the process that is to die.
pub(crate) fn die(what: &str, root: &std::path::Path, steps: u32) -> store::Result<()> {
    let host = host_that_mounts(root);
    failpoints::die_after(steps);
    operate(what, &host)
}

fn operate(what: &str, host: &Host) -> store::Result<()> {
    let (_, size) = OPERATIONS.into_iter().find(|(name, _)| *name == what).unwrap();
    if what.starts_with("attach") {
        host.attach(&attachment(host, size)).map(drop)
    } else {
        host.resize_sr(&attachment(host, size).uuid, size).map(drop)
    }
}

#[test]
fn an_sr_on_mounts_that_is_killed_while_its_size_changes() {
    in_namespace("killed_resize::inside");
}

#[test]
#[ignore = "no test by itself: the test above runs it in each run, in a mount namespace of its own"]
fn inside() {
    if is_inside() {
        for (what, size) in OPERATIONS {
            at_every_step(what, size);
        }
    }
}

fn at_every_step(what: &str, size: u64) {
    let [before, after] = [SR_BYTES, size].map(room_beside);
    // A size is promised with 2 % for page tables.
    let difference = before.abs_diff(after) * 51 / 50;
    assert!(difference.abs_diff(SR_BYTES.abs_diff(size)) < BLOCK, "{what}: {before} {after}");
    let mut sizes = Vec::new();
    for steps in 0.. {
        let mut done = false;
        for next in [Next::Repeat, Next::Back, Next::Stay, Next::Other, Next::Attach] {
            let when = format!("{what}, killed after {steps} steps, then {next:?}");
            let (world, sr, mut disk) = begin(SR_BYTES);
            let task = format!("{PREFIX}{what}");
            let status = dying::run(&world.host.sr_root, &mut Disks::default(), &task, steps);
            done = status.success();
            assert!(done || status.signal() == Some(SIGKILL), "{when}: {status}");
            let found = sr.size().unwrap();
            sizes.push(found);
            assert!(found == size || (found == SR_BYTES && !done), "{when}: {found}");
            let room = if found == size { after } else { before };
            // A record that was being written is in use, and no longer promised.
            let left = room_for_another(&world);
            assert!((room..=room + BLOCK).contains(&left), "{when}: room for {left}, not {room}");
            let wanted = go_on(what, next, &world, found);
            assert_agrees(&sr, &mut disk, wanted.unwrap_or(found), &when);
        }
        if done {
            assert!(steps > 3, "{what} has only {steps} steps");
            assert!(sizes.contains(&SR_BYTES), "no kill was before the record");
            let kills = sizes.len() - 5;
            // The record is the last step of a command that lets an SR grow.
            let is_after = sizes[..kills].contains(&size);
            assert!(is_after || what == "grow", "{what}: no kill was after the record");
            return;
        }
    }
}

/// A host with 1500 MiB and an SR, and a disk of it that is open here and has data.
fn begin(size: u64) -> (World, Sr, Disk) {
    let world = World::new(1500);
    let sr = world.host.attach(&attachment(&world.host, size)).unwrap();
    let mut disk = world.disk(&sr);
    disk.write(0, &vec![1; 2 << 20]).unwrap();
    (world, sr, disk)
}

/// The size that another SR could have beside one of this size, in bytes.
fn room_beside(size: u64) -> u64 {
    let (world, _sr, _disk) = begin(size);
    room_for_another(&world)
}

fn room_for_another(world: &World) -> u64 {
    let refused = world
        .host
        .check_new(&Attachment { uuid: World::uuid(9), ..attachment(&world.host, 1 << 40) });
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    let text = error.to_string();
    let (_, rest) = text.split_once("at most device-config:size=").unwrap();
    rest.split(|it: char| !it.is_ascii_digit()).next().unwrap().parse().unwrap()
}

/// Does what comes next; the size that is due then, if it is another one than before.
fn go_on(what: &str, next: Next, world: &World, found: u64) -> Option<u64> {
    let host = &world.host;
    let uuid = attachment(host, SR_BYTES).uuid;
    let resize = |size: u64| {
        assert_eq!(host.resize_sr(&uuid, size).unwrap().before, found);
        Some(size)
    };
    match next {
        Next::Repeat => {
            operate(what, host).unwrap();
            OPERATIONS.iter().find(|(name, _)| *name == what).map(|(_, size)| *size)
        }
        Next::Back => resize(SR_BYTES),
        Next::Stay => resize(found),
        Next::Other => resize(12 * MIB),
        Next::Attach => {
            // An attach with another size leaves that in device-config; a command leaves it as it is.
            let configured = if what.starts_with("attach") { found } else { SR_BYTES };
            host.attach(&attachment(host, configured)).unwrap();
            None
        }
    }
}

/// Everything has one size: a disk finds room up to it and no further.
fn assert_agrees(sr: &Sr, disk: &mut Disk, size: u64, when: &str) {
    assert_eq!((sr.size().unwrap(), sr.stat().unwrap().total), (size, size), "{when}");
    for place in ["data", "meta"] {
        // 4 MiB beside it are for changes of structure and what is not counted.
        assert_eq!(mount_limit(sr, place) * BLOCK, size + 4 * MIB, "{when}: what {place} may hold");
    }
    let mut at = WRITTEN;
    for bytes in [MIB, BLOCK] {
        let piece = vec![2; usize::try_from(bytes).unwrap()];
        while disk.write(at, &piece).is_ok() {
            at += bytes;
        }
    }
    let (used, real) = counted(sr);
    assert!(used == real && used <= size, "{when}: {used} are counted, {real} in use of {size}");
    assert!(size - used < 4 * BLOCK, "{when}: a disk found room for {used} of {size}");
    assert_eq!(sr.lock().unwrap().check().unwrap(), [""; 0], "{when}");
}
