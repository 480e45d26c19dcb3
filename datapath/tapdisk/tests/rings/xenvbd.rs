//! Windows' PV driver (win-xenvbd) and the real program, with what tapback asks of it meanwhile. What the driver
//! writes to xenstore and reads of it is tapback's; each state of it that tapback answers with a message is here.

use std::{rc::Rc, thread, time::Duration};

use blkif::{
    Abi,
    mock::{Buffer, Command, Driver, Guest, SrbStatus, Xenvbd},
};
use tapctl::Resume;

use crate::host::{DEVID, Host, message_of, until};

const IMAGE_BYTES: usize = 32 << 20;
const SECTORS: u64 = IMAGE_BYTES as u64 / 512;
const DOMID: u32 = 4;
const ENODEV: i32 = 19;
const EALREADY: i32 = 114;
/// No indirect requests, as the driver is offered none.
const XENVBD: Driver = Driver::Xenvbd { order: 3, indirect_segments_max: 0 };

/// `FrontendPrepare`, `FrontendConnect`: INITIALISING, INITIALISED, upon which tapback connects.
fn connect(host: &Host, guest: &Rc<Guest>, driver: Driver, abi: Abi) -> Xenvbd {
    let driver = Xenvbd::connect(guest.clone(), driver, abi).unwrap();
    host.client().connect(0, message_of(&driver.location(), DOMID)).unwrap();
    driver
}

/// Waits for a request, as Windows does by events, and as the crash dump driver does without.
fn done(driver: &mut Xenvbd, srb: usize) -> SrbStatus {
    until("the disk answers", || {
        driver.take_event().unwrap();
        driver.interrupt();
        driver.status(srb) != SrbStatus::Pending
    });
    driver.status(srb)
}

fn ask(driver: &mut Xenvbd, command: Command) -> SrbStatus {
    let srb = driver.start(command);
    done(driver, srb)
}

/// So many sectors, from the second one of a page on, all of that byte.
fn buffer(guest: &Guest, sectors: usize, byte: u8) -> Buffer {
    let pages = (sectors as u32 + 1).div_ceil(8);
    let first = guest.take_pages(pages);
    (first..first + pages).for_each(|page| guest.write(page, 0, &[byte; 4096]));
    Buffer { pages: (first..first + pages).collect(), offset: 512 }
}

fn bytes(guest: &Guest, buffer: &Buffer, sectors: usize) -> Vec<u8> {
    buffer.bytes(guest, sectors * 512)
}

/// `FrontendClose`, and `FrontendSetState` upward again: a machine that is suspended, hibernated, or has its disk
/// unplugged. The driver closes once before it connects at all, of which tapback tells nothing.
#[test]
fn a_disk_is_closed_and_connected_again_with_another_ring() {
    let host = Host::start();
    host.open(0, &host.image("image", IMAGE_BYTES, 1));
    let guest = host.guest(DOMID);
    for round in 0..4_u8 {
        let order = u32::from(3 - round);
        let driver = Driver::Xenvbd { order, indirect_segments_max: 0 };
        // As from Windows with 64 bits to one with 32, and back.
        let abi = [Abi::X86_64, Abi::X86_32][usize::from(round % 2)];
        let mut driver = connect(&host, &guest, driver, abi);
        let place = u64::from(round) * 100;
        let written = buffer(&guest, 50, 10 + round);
        assert_eq!(ask(&mut driver, Command::Write(place, 50, written)), SrbStatus::Success);
        let read = buffer(&guest, 50, 0);
        for earlier in 0..=round {
            let command = Command::Read(u64::from(earlier) * 100, 50, read.clone());
            assert_eq!(ask(&mut driver, command), SrbStatus::Success);
            assert!(bytes(&guest, &read, 50) == vec![10 + earlier; 50 * 512]);
        }
        assert_eq!(ask(&mut driver, Command::SynchronizeCache(0)), SrbStatus::Success);
        assert_eq!(ask(&mut driver, Command::Unmap(vec![(5000, 9)])), SrbStatus::Success);
        driver.disable(|| ());
        host.client().disconnect(DOMID, DEVID).unwrap();
        assert_eq!(host.client().disconnect(DOMID, DEVID).unwrap_err().errno(), ENODEV);
        assert_eq!((driver.unsupported, driver.unknown), (0, 0));
    }
}

/// `FrontendReset`: a pause that takes Windows too long. What it has given up is answered all the same.
#[test]
fn a_pause_that_windows_gives_up_leaves_a_disk_that_works() {
    let host = Host::start();
    host.open(0, &host.image("image", IMAGE_BYTES, 1));
    let guest = host.guest(DOMID);
    let mut driver = connect(&host, &guest, XENVBD, Abi::X86_64);
    let written = buffer(&guest, 50, 2);
    assert_eq!(ask(&mut driver, Command::Write(0, 50, written.clone())), SrbStatus::Success);
    host.client().pause(0).unwrap();
    let given_up = driver.start(Command::Write(100, 50, written));
    driver.disable(|| thread::sleep(Duration::from_millis(1)));
    assert_eq!(driver.status(given_up), SrbStatus::Error);
    driver.enable();
    host.client().resume(0, Resume::default()).unwrap();
    let read = buffer(&guest, 50, 0);
    until("what was given up is answered", || {
        driver.interrupt();
        driver.unknown == 1
    });
    assert_eq!(ask(&mut driver, Command::Read(0, 50, read.clone())), SrbStatus::Success);
    assert!(bytes(&guest, &read, 50) == vec![2; 50 * 512]);
}

/// A crash of Windows with requests under way, some of them in a disk that is paused. The crash dump driver has the
/// backend close the old ring (`FrontendClose` of xencrsh), and connects one of its own.
#[test]
fn a_crash_dump_is_written_through_a_ring_of_its_own() {
    for paused in [false, true] {
        let host = Host::start();
        host.open(0, &host.image("image", IMAGE_BYTES, 1));
        let guest = host.guest(DOMID);
        let mut crashed = connect(&host, &guest, XENVBD, Abi::X86_64);
        let old = buffer(&guest, 160, 2);
        assert_eq!(ask(&mut crashed, Command::Write(0, 160, old.clone())), SrbStatus::Success);
        if paused {
            host.client().pause(0).unwrap();
        }
        crashed.start(Command::Unmap(vec![(0, SECTORS)]));
        crashed.start(Command::Write(0, 160, old.clone()));
        crashed.start(Command::Read(0, 160, old.clone()));
        let mut dump = Xenvbd::connect(guest.clone(), Driver::CrashDump, Abi::X86_64).unwrap();
        let ring = message_of(&dump.location(), DOMID);
        let early = host.client().connect(0, ring.clone()).unwrap_err();
        assert_eq!(early.errno(), EALREADY, "the old one has to be closed first");
        host.client().disconnect(DOMID, DEVID).unwrap();
        // What was answered is data of the dump now.
        old.pages.iter().for_each(|&page| guest.write(page, 0, &[3; 4096]));
        host.client().connect(0, ring).unwrap();
        let mut srb = 0;
        for part in 0..10 {
            let written = buffer(&guest, 120, 20 + part);
            srb = dump.start(Command::Write(u64::from(part) * 120, 120, written));
            if part == 5 && paused {
                thread::sleep(Duration::from_millis(50));
                assert_eq!(dump.status(srb), SrbStatus::Pending);
                host.client().resume(0, Resume::default()).unwrap();
            }
        }
        assert_eq!(done(&mut dump, srb), SrbStatus::Success);
        assert_eq!(ask(&mut dump, Command::SynchronizeCache(0)), SrbStatus::Success);
        let read = buffer(&guest, 120, 0);
        for part in 0..10_u8 {
            let command = Command::Read(u64::from(part) * 120, 120, read.clone());
            assert_eq!(ask(&mut dump, command), SrbStatus::Success);
            assert!(bytes(&guest, &read, 120) == vec![20 + part; 120 * 512], "part {part}");
        }
        assert!(bytes(&guest, &old, 160) == vec![3; 160 * 512]);
        assert_eq!((dump.unsupported, dump.unknown), (0, 0));
        host.client().disconnect(DOMID, DEVID).unwrap();
        assert!(host.files(DOMID).iter().all(|path| !path.exists()));
    }
}
