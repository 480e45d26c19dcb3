//! Windows' PV driver (win-xenvbd) on a ring: the requests that it makes of what Windows asks for, how it uses
//! the ring, and its second driver, which writes a crash dump through a ring of its own. `mock::Xenvbd` does what
//! the functions do that are named here.

use std::path::PathBuf;

use blkif::{
    Abi, Journal, Ring, Xen,
    mock::{Buffer, Command, Driver, Guest, MockXen, SrbStatus, Xenvbd},
};
use block::{Budget, Drive, Frontend as _, Progress, memory::Memory};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use scratch::Scratch;

use crate::{
    random::Random,
    rig::{SECTOR, SIZE},
};

const DOMID: u32 = 7;
/// As much as Windows asks for at once (`XENVBD_MAX_TRANSFER_LENGTH`), in sectors: 4 MiB.
const TRANSFER_MAX: usize = 8192;
/// As much as the crash dump driver is asked for at once, from any byte of a page on: two requests.
const DUMP_MAX: usize = 168;
/// As tapback and tapdisk-ram offer them, if the driver were offered indirect requests.
const WITH_INDIRECT: Driver = Driver::Xenvbd { order: 3, indirect_segments_max: 256 };
const WITHOUT_INDIRECT: Driver = Driver::Xenvbd { order: 3, indirect_segments_max: 0 };

/// A guest with the driver, and the backend's half in the same process.
struct Windows {
    driver: Xenvbd,
    ring: Ring,
    drive: Drive<Memory>,
    guest: std::rc::Rc<Guest>,
    xen: MockXen,
    // Behind what is in it.
    _root: Scratch,
}

impl Windows {
    fn new(driver: Driver) -> Self {
        Self::of(driver, Abi::X86_64)
    }

    fn of(driver: Driver, abi: Abi) -> Self {
        let root = Scratch::in_memory();
        let dir: PathBuf = root.path().join("guests");
        let guest = std::rc::Rc::new(Guest::create(&dir, DOMID, 16384).unwrap());
        let driver = Xenvbd::connect(guest.clone(), driver, abi).unwrap();
        let xen = MockXen::new(dir);
        let ring = ring(&xen, &driver);
        let drive = Drive::new(Memory::new(SIZE).unwrap());
        Self { driver, ring, drive, guest, xen, _root: root }
    }

    /// Turns of the backend until it has nothing to do.
    fn serve(&mut self) {
        loop {
            let progress = self.ring.turn(&mut self.drive, &mut Budget::turn());
            assert!(!matches!(progress, Progress::Closed { .. }), "{progress:?}");
            let has_work = self.drive.attachments().has_work();
            self.drive.work(&mut Budget::turn());
            if progress == Progress::Idle && !has_work {
                return;
            }
        }
    }

    /// Both sides go on as they are told by events, and not otherwise, until neither has any.
    fn go_on(&mut self) {
        loop {
            let has_event = self.has_event();
            if has_event {
                self.serve();
            }
            let was_told = self.driver.take_event().unwrap();
            if was_told {
                self.driver.interrupt();
            }
            if !has_event && !was_told {
                return;
            }
        }
    }

    fn has_event(&self) -> bool {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&self.ring, PollFlags::IN)], Some(&zero)).unwrap() == 1
    }

    /// Another process serves the ring from now on, as after a death of this one.
    fn take_over(&mut self) {
        let journal = self.ring.journal().file().try_clone().unwrap();
        let domain = self.xen.domain(DOMID).unwrap();
        self.ring = Ring::resume(domain, &self.driver.location(), journal).unwrap();
        self.serve();
    }

    /// Asks for one thing and waits for it.
    fn ask(&mut self, command: Command) -> SrbStatus {
        let srb = self.driver.start(command);
        self.go_on();
        self.driver.status(srb)
    }

    /// A buffer of so many sectors that begins at that byte of its first page; no two pages are neighbours.
    fn buffer(&self, offset: usize, sectors: usize) -> Buffer {
        let pages = (offset + sectors * SECTOR as usize).div_ceil(4096) as u32;
        let first = self.guest.take_pages(pages);
        Buffer { pages: (first..first + pages).rev().collect(), offset }
    }

    fn fill(&self, buffer: &Buffer, bytes: &[u8]) {
        buffer.fill(&*self.guest, bytes);
    }

    fn bytes(&self, buffer: &Buffer, sectors: usize) -> Vec<u8> {
        buffer.bytes(&*self.guest, sectors * SECTOR as usize)
    }

    /// What the disk has, in parts as the crash dump driver may ask for them, too.
    fn disk(&mut self, sector: u64, sectors: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let buffer = self.buffer(0, DUMP_MAX);
        for at in (0..sectors).step_by(DUMP_MAX) {
            let (begin, count) = (sector + at as u64, DUMP_MAX.min(sectors - at));
            assert_eq!(self.ask(Command::Read(begin, count, buffer.clone())), SrbStatus::Success);
            bytes.extend(self.bytes(&buffer, count));
        }
        bytes
    }
}

fn ring(xen: &MockXen, driver: &Xenvbd) -> Ring {
    let domain = xen.domain(DOMID).unwrap();
    Ring::connect(domain, &driver.location(), Journal::create().unwrap()).unwrap()
}

/// Buffers that begin at a page, at a sector in a page, or at any byte, when the driver uses pages of its own; from
/// one sector to the most (`BlkifRingPrepareReadWrite`, `BlkifRingPrepareSegment`, `__UseIndirect`, and
/// `PrepareReadWrite` of xencrsh). Of drivers with 64 bits and with 32.
fn transfers(driver: Driver, count: usize) {
    for abi in [Abi::X86_64, Abi::X86_32] {
        transfers_of(Windows::of(driver, abi), driver, count);
    }
}

fn transfers_of(mut windows: Windows, driver: Driver, count: usize) {
    let mut random = Random(0x5eed);
    let mut model = vec![0; SIZE as usize];
    let sectors_max = if driver == Driver::CrashDump { DUMP_MAX } else { 400 };
    // Around one direct request, and the most of one indirect request and of one command.
    let whole = [1, 8, 87, 88, 89, 95, 96, 167, 2048, 2049, TRANSFER_MAX];
    let whole = whole.into_iter().filter(|it| *it <= DUMP_MAX || driver != Driver::CrashDump);
    let some = (0..count).map(|_| 1 + random.below(sectors_max as u64) as usize);
    for sectors in whole.chain(some).collect::<Vec<_>>() {
        let sector = random.below(SIZE / SECTOR - sectors as u64 + 1);
        let range = (sector * SECTOR) as usize..sector as usize * 512 + sectors * 512;
        let offset = match random.below(3) {
            0 => 0,
            1 => 512 * random.below(8) as usize,
            // Word-aligned, as a program may ask for it.
            _ => 4 * random.below(1024) as usize,
        };
        let (from, into) = (windows.buffer(offset, sectors), windows.buffer(offset, sectors));
        random.fill(&mut model[range.clone()]);
        windows.fill(&from, &model[range.clone()]);
        // Both at once: the read was asked for later, and the backend keeps the order.
        let write = windows.driver.start(Command::Write(sector, sectors, from));
        let read = windows.driver.start(Command::Read(sector, sectors, into.clone()));
        windows.go_on();
        let states = [write, read].map(|srb| windows.driver.status(srb));
        assert_eq!(states, [SrbStatus::Success; 2], "{sectors} sectors at {sector}, {offset}");
        let found = windows.bytes(&into, sectors);
        assert!(found == model[range], "{sectors} sectors at {sector}, byte {offset} of a page");
    }
    assert_eq!((windows.driver.unsupported, windows.driver.unknown), (0, 0));
    let at_end = windows.disk(0, 4096);
    assert!(at_end == model[..4096 * 512]);
}

#[test]
fn transfers_of_every_shape_are_carried_out() {
    transfers(WITHOUT_INDIRECT, 40);
}

#[test]
fn transfers_with_indirect_requests_are_carried_out() {
    transfers(WITH_INDIRECT, 40);
}

#[test]
fn transfers_of_the_crash_dump_driver_are_carried_out() {
    transfers(Driver::CrashDump, 20);
}

/// `BlkifRingPrepareSyncCache`: a flush, or a barrier, without segments, but with the sector of the command, and
/// with the segments of an earlier request still in the slot.
#[test]
fn a_synchronize_cache_is_a_flush_or_a_barrier_whatever_else_is_in_its_slot() {
    let mut windows = Windows::new(WITHOUT_INDIRECT);
    for (round, flush) in [true, false].into_iter().enumerate() {
        windows.driver.has_flush = flush;
        // All slots of the ring have segments then.
        let buffer = windows.buffer(0, TRANSFER_MAX);
        for _ in 0..3 {
            let write = Command::Write(0, TRANSFER_MAX, buffer.clone());
            assert_eq!(windows.ask(write), SrbStatus::Success);
        }
        let (changes, sectors) = (windows.drive.structure().changes, SIZE / SECTOR);
        for sector in [0, 77, sectors - 1, sectors, u64::MAX] {
            assert_eq!(windows.ask(Command::SynchronizeCache(sector)), SrbStatus::Success);
        }
        assert_eq!(windows.drive.structure().flushes, 5 * (round as u64 + 1));
        assert_eq!(windows.drive.structure().changes, changes);
    }
    assert_eq!(windows.driver.unsupported, 0);
}

/// `BlkifRingPrepareUnmap`: one discard for each range of the command, none of them a secure one; of many ranges
/// there are more than slots. A range may be empty, and of any alignment.
#[test]
fn an_unmap_is_a_discard_for_each_of_its_ranges() {
    let mut windows = Windows::of(WITHOUT_INDIRECT, Abi::X86_32);
    let buffer = windows.buffer(0, TRANSFER_MAX);
    windows.fill(&buffer, &vec![0x77; TRANSFER_MAX * 512]);
    assert_eq!(windows.ask(Command::Write(0, TRANSFER_MAX, buffer)), SrbStatus::Success);
    let mut ranges = vec![(3, 0), (SIZE / SECTOR, 0), (8, 8), (17, 30)];
    ranges.extend((0..600).map(|index| (1000 + 8 * index, 4)));
    assert_eq!(windows.ask(Command::Unmap(ranges.clone())), SrbStatus::Success);
    let found = windows.disk(0, TRANSFER_MAX);
    for (sector, bytes) in found.chunks(512).enumerate() {
        let discarded =
            ranges.iter().any(|(at, count)| (*at..at + count).contains(&(sector as u64)));
        let expected = if discarded { 0 } else { 0x77 };
        assert!(bytes.iter().all(|&byte| byte == expected), "sector {sector}");
    }
    // All of the disk, which takes several turns, and what is asked for meanwhile.
    let unmap = windows.driver.start(Command::Unmap(vec![(0, SIZE / SECTOR)]));
    let flush = windows.driver.start(Command::SynchronizeCache(0));
    windows.go_on();
    assert_eq!([unmap, flush].map(|it| windows.driver.status(it)), [SrbStatus::Success; 2]);
    assert!(windows.disk(0, TRANSFER_MAX).iter().all(|&byte| byte == 0));
    assert_eq!(windows.driver.unsupported, 0);
}

/// `__BlkifRingCompleteResponse`: "not supported" is success to the driver, also where nothing was read or written.
/// What fails is answered as an error, whatever the reason.
#[test]
fn a_transfer_that_fails_is_an_error_and_never_not_supported() {
    for driver in [WITHOUT_INDIRECT, WITH_INDIRECT, Driver::CrashDump] {
        let mut windows = Windows::new(driver);
        for sectors in [1, 88, 160] {
            let beyond = SIZE / SECTOR - sectors as u64 + 1;
            let buffer = windows.buffer(512, sectors);
            // No page of the guest has that number.
            let wrong = Buffer { pages: vec![1 << 20; 22], offset: 0 };
            let transfers = |sector: u64, buffer: &Buffer| {
                [
                    Command::Read(sector, sectors, buffer.clone()),
                    Command::Write(sector, sectors, buffer.clone()),
                ]
            };
            let mut failing = transfers(beyond, &buffer).to_vec();
            failing.extend(transfers(u64::MAX / 512, &buffer));
            failing.extend(transfers(0, &wrong));
            for command in failing {
                assert_eq!(windows.ask(command.clone()), SrbStatus::Error, "{command:?}");
            }
            for command in transfers(0, &buffer) {
                windows.drive.structure().fail_next = Some(std::io::Error::other("no"));
                assert_eq!(windows.ask(command.clone()), SrbStatus::Error, "{command:?}");
            }
            windows.drive.structure().read_only = true;
            let [read, write] = transfers(0, &buffer);
            assert_eq!(windows.ask(read), SrbStatus::Success);
            assert_eq!(windows.ask(write), SrbStatus::Error);
            windows.drive.structure().read_only = false;
        }
        assert_eq!(windows.driver.unsupported, 0);
    }
}

/// `BlkifRingSchedule`, `BlkifRingPoll`: with many commands, of which most wait for room in the ring, neither side
/// ever waits for an event that the other one does not send, though the driver takes answers in parts, and though the
/// backend's process dies and is succeeded.
#[test]
fn no_event_is_missed_when_the_ring_is_full_again_and_again() {
    for driver in [WITHOUT_INDIRECT, WITH_INDIRECT, Driver::CrashDump] {
        let mut windows = Windows::new(driver);
        let buffer = windows.buffer(512, 64);
        let mut random = Random(4);
        let mut srbs = Vec::new();
        for _ in 0..200 {
            // Some of a queue of 254 commands (`XENVBD_MAX_QUEUE_DEPTH`).
            for _ in 0..random.below(20) {
                let count = 1 + random.below(64) as usize;
                let read = Command::Read(random.below(4096), count, buffer.clone());
                srbs.push(windows.driver.start(read));
            }
            match random.below(4) {
                0 => windows.go_on(),
                1 => windows.serve(),
                2 => windows.take_over(),
                _ => windows.driver.interrupt(),
            }
        }
        for _ in 0..254 {
            srbs.push(windows.driver.start(Command::Read(0, 64, buffer.clone())));
        }
        windows.go_on();
        assert_eq!(windows.driver.under_way(), 0);
        assert!(srbs.iter().all(|&srb| windows.driver.status(srb) == SrbStatus::Success));
    }
}

/// `RingWatchdog` and `BlkifRingDisable` send events for which there is no request.
#[test]
fn events_without_requests_do_no_harm() {
    let mut windows = Windows::new(WITHOUT_INDIRECT);
    for _ in 0..100 {
        windows.driver.send();
        windows.go_on();
        assert!(!windows.has_event());
    }
    assert_eq!(windows.ask(Command::SynchronizeCache(0)), SrbStatus::Success);
}

/// `FrontendReset`, upon a command that takes Windows too long, as while the disk is paused: after a tenth of a second
/// the driver gives up what is under way, and goes on with the same ring. Answers come to what it no longer knows.
#[test]
fn a_reset_while_the_backend_is_paused_leaves_a_ring_that_works() {
    let mut windows = Windows::new(WITHOUT_INDIRECT);
    let buffer = windows.buffer(0, 800);
    let write = Command::Write(0, 800, buffer);
    let given_up: Vec<usize> = (0..40).map(|_| windows.driver.start(write.clone())).collect();
    assert_eq!(windows.driver.under_way(), 256, "the ring is full");
    let mut passed = 0;
    windows.driver.disable(|| passed += 1);
    assert_eq!(passed, 100);
    assert!(given_up.iter().all(|&srb| windows.driver.status(srb) == SrbStatus::Error));
    windows.driver.enable();
    // No room before the backend goes on.
    let flush = windows.driver.start(Command::SynchronizeCache(0));
    windows.go_on();
    assert_eq!(windows.driver.status(flush), SrbStatus::Success);
    assert_eq!((windows.driver.unknown, windows.driver.under_way()), (256, 0));
    let ranges = (0..2).map(|_| windows.disk(0, 800)).collect::<Vec<_>>();
    assert!(ranges[0] == ranges[1]);
    let counters = windows.ring.counters().get();
    assert_eq!(counters.taken, counters.answered);
}

/// A reset where the answers come within the time: nothing is given up.
#[test]
fn a_reset_waits_for_what_is_answered_soon() {
    let mut windows = Windows::new(WITHOUT_INDIRECT);
    let buffer = windows.buffer(0, 80);
    let read = windows.driver.start(Command::Read(0, 80, buffer));
    let Windows { driver, ring, drive, .. } = &mut windows;
    driver.disable(|| {
        ring.turn(drive, &mut Budget::turn());
    });
    assert_eq!(windows.driver.status(read), SrbStatus::Success);
    windows.driver.enable();
    assert_eq!(windows.ask(Command::SynchronizeCache(0)), SrbStatus::Success);
}

/// A crash: the ring of xenvbd stays as it was, with requests that were not taken, that wait, or whose answers
/// were not read. xencrsh has the backend close it (`FrontendClose`) and connects a ring of one page for the same
/// disk. What was under way does nothing any more, neither to the dump nor to pages that are something else now.
#[test]
fn a_crash_dump_is_written_through_a_second_ring_while_the_first_ones_requests_are_lost() {
    let mut windows = Windows::new(WITH_INDIRECT);
    let old = windows.buffer(0, 2048);
    windows.fill(&old, &vec![0x11; 2048 * 512]);
    assert_eq!(windows.ask(Command::Write(0, 2048, old.clone())), SrbStatus::Success);
    // A discard of all of the disk has begun, a write waits for it, a read is answered and more are not taken.
    windows.driver.start(Command::Unmap(vec![(0, SIZE / SECTOR)]));
    windows.driver.start(Command::Write(0, 2048, old.clone()));
    windows.driver.start(Command::Read(0, 8, old.clone()));
    windows.ring.turn(&mut windows.drive, &mut Budget::turn());
    let page = windows.buffer(0, 2048);
    windows.driver.start(Command::Read(4096, 2048, page.clone()));
    windows.driver.start(Command::Write(0, 2048, old.clone()));
    assert!(windows.driver.under_way() > 3);
    // The crashed system's pages are data of the dump now.
    windows.fill(&old, &vec![0x22; 2048 * 512]);
    windows.fill(&page, &vec![0x33; 2048 * 512]);

    let crashed = std::mem::replace(
        &mut windows.driver,
        Xenvbd::connect(windows.guest.clone(), Driver::CrashDump, Abi::X86_64).unwrap(),
    );
    windows.ring = ring(&windows.xen, &windows.driver);
    let mut dump = vec![0; 1600 * 512];
    Random(9).fill(&mut dump);
    for (index, part) in dump.chunks(160 * 512).enumerate() {
        let buffer = windows.buffer(512 * (index % 8), 160);
        windows.fill(&buffer, part);
        let write = Command::Write(160 * index as u64, 160, buffer);
        let srb = windows.driver.start(write);
        // It does not wait for events.
        while windows.driver.status(srb) == SrbStatus::Pending {
            windows.ring.turn(&mut windows.drive, &mut Budget::turn());
            windows.drive.work(&mut Budget::turn());
            windows.driver.interrupt();
        }
        assert_eq!(windows.driver.status(srb), SrbStatus::Success);
    }
    windows.driver.start(Command::SynchronizeCache(0));
    windows.serve();
    windows.driver.interrupt();
    assert_eq!((windows.driver.under_way(), windows.driver.unsupported), (0, 0));

    assert!(windows.disk(0, 1600) == dump, "the dump is as it was written");
    assert!(windows.disk(1600, 160).iter().all(|&byte| byte == 0), "the discard was carried out");
    assert!(windows.bytes(&old, 2048) == vec![0x22; 2048 * 512]);
    assert!(windows.bytes(&page, 2048) == vec![0x33; 2048 * 512]);
    assert!(crashed.under_way() > 3, "nothing was answered in the old ring");
}
