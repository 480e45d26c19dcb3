//! Windows' PV driver with its whole dialogue: what win-xenvbd 9.1 and its crash dump driver, xencrsh, write and read in
//! xenstore and in which order (`src/xenvbd/frontend.c`, `src/xencrsh/frontend.c`), around the rings that
//! `blkif::mock::Xenvbd` plays.
//!
//! It closes the device, connects, moves data and compares, closes and connects again, and crashes in the middle of
//! requests; a dump is written through a ring of one page. Then all of the disk is compared.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use blkif::{
    Abi,
    mock::{Buffer, Command, Driver, Machine, SrbStatus, Xenvbd},
};
use xen::GuestPages;

use crate::device::{Device, PATIENCE, state};

const SECTOR: usize = 512;
/// The most of one request of Windows here, in sectors; of 4 MiB the guest has no room.
const SECTORS_MAX: usize = 256;
/// The same of the crash dump driver: two requests of the ring.
const DUMP_MAX: usize = 160;
/// How often the driver connects before it crashes, and how many pairs of a write and a read it makes each time.
const ROUNDS: u64 = 3;
const PAIRS: u64 = 60;

/// `abi`: as xenstore names the layout of requests, which is that of Windows with 64 bits or with 32. `file`: has what is
/// on the disk, where it was used before, and gets it.
pub(crate) fn play(devid: u32, abi: &str, file: &Path) -> Result<()> {
    let abi = match abi {
        "x86_64-abi" => Abi::X86_64,
        "x86_32-abi" => Abi::X86_32,
        other => bail!("{other}: it may be x86_64-abi or x86_32-abi"),
    };
    let mut windows = Windows::new(devid, abi)?;
    if file.exists() {
        windows.model = fs::read(file)?;
    }
    for round in 0..ROUNDS {
        windows.device.close()?;
        windows.prepare()?;
        let mut driver = windows.connect(false)?;
        windows.load(&mut driver, round)?;
        if round + 1 < ROUNDS {
            // `FrontendDisable`, before the states.
            driver.disable(|| thread::sleep(Duration::from_millis(1)));
            windows.note(&driver)?;
        } else {
            windows.crash(driver)?;
        }
    }
    Ok(fs::write(file, &windows.model)?)
}

struct Windows {
    device: Device,
    machine: Rc<GuestPages>,
    abi: Abi,
    buffers: [Buffer; 2],
    /// What has to be on the disk.
    model: Vec<u8>,
    random: u64,
}

impl Windows {
    fn new(devid: u32, abi: Abi) -> Result<Self> {
        let device = Device::open(devid)?;
        let machine = Rc::new(GuestPages::grant(device.backend)?);
        let buffers = [0; 2].map(|_| {
            // A byte further than a page, and not in the order in which they lie.
            let count = (SECTORS_MAX / 8 + 1) as u32;
            let first = machine.take_pages(count);
            Buffer { pages: (first..first + count).rev().collect(), offset: 0 }
        });
        let (model, random) = (Vec::new(), 0x5eed);
        Ok(Self { device, machine, abi, buffers, model, random })
    }

    fn say(&self, text: &str) -> Result<()> {
        Ok(writeln!(io::stdout(), "guest: {text}")?)
    }

    /// What became of a ring.
    fn note(&self, driver: &Xenvbd) -> Result<()> {
        let Xenvbd { unsupported, unknown, notified, .. } = driver;
        self.say(&format!("unsupported {unsupported}, unknown {unknown}, notified {notified}"))?;
        ensure!((*unsupported, *unknown) == (0, 0), "answers that cannot be");
        Ok(())
    }

    fn below(&mut self, limit: usize) -> usize {
        self.random =
            self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.random >> 33) as usize % limit
    }

    /// `FrontendPrepare`.
    fn prepare(&mut self) -> Result<()> {
        let frontend = self.device.frontend.clone();
        let devid = frontend.rsplit('/').next().unwrap_or_default();
        for (key, value) in [
            ("paging", "0"),
            ("hibernation", "0"),
            ("dump", "0"),
            ("frontend", &frontend),
            ("device", devid),
        ] {
            self.device.keys.write(&format!("data/scsi/target/0/{key}"), value)?;
        }
        self.device.begin()
    }

    /// `FrontendConnect`, `RingStoreWrite`, `BlkifRingStoreWrite`, and `__WriteRing` of xencrsh.
    fn connect(&mut self, is_dump: bool) -> Result<Xenvbd> {
        let order = self.device.told("max-ring-page-order")?.unwrap_or(0).min(4) as u32;
        // What is offered is read when the backend is connected; it is checked below.
        let driver = Driver::Xenvbd { order, indirect_segments_max: 0 };
        let driver = if is_dump { Driver::CrashDump } else { driver };
        let driver = Xenvbd::connect(self.machine.clone(), driver, self.abi)?;
        let location = driver.location();
        let mut keys = vec![("event-channel", location.port.to_string())];
        let numbered: Vec<String> =
            (0..location.grefs.len()).map(|it| format!("ring-ref{it}")).collect();
        match location.grefs[..] {
            [gref] => keys.push(("ring-ref", gref.to_string())),
            ref grefs => {
                keys.extend(
                    numbered.iter().map(String::as_str).zip(grefs.iter().map(u32::to_string)),
                );
                keys.push(("ring-page-order", grefs.len().ilog2().to_string()));
            }
        }
        let written =
            ["feature-surprise-remove", "feature-online-resize", "feature-large-sector-size"];
        keys.extend(written.map(|key| (key, "1".to_owned())));
        keys.push(("multi-queue-num-queues", "1".to_owned()));
        keys.push(("protocol", self.protocol().to_owned()));
        if !is_dump {
            keys.push(("target-id", "0".to_owned()));
        }
        self.device.tell(keys)?;
        self.device.connect()?;
        self.read_disk(location.grefs.len())?;
        self.device.set_state(state::CONNECTED)?;
        Ok(driver)
    }

    /// `XEN_IO_PROTO_ABI_NATIVE`.
    fn protocol(&self) -> &'static str {
        match self.abi {
            Abi::X86_64 => "x86_64-abi",
            Abi::X86_32 => "x86_32-abi",
        }
    }

    /// `__ReadDiskInfo`, `FrontendReadDiskInfo`, `FrontendReadFeatures`.
    fn read_disk(&mut self, pages: usize) -> Result<()> {
        let mut told = vec![format!("offered pages={pages}")];
        for key in [
            "sectors",
            "sector-size",
            "info",
            "feature-barrier",
            "feature-flush-cache",
            "feature-discard",
            "discard-granularity",
            "feature-max-indirect-segments",
        ] {
            let value = self.device.told(key)?;
            told.push(format!("{key}={}", value.map_or("-".to_owned(), |it| it.to_string())));
        }
        self.say(&told.join(" "))?;
        let bytes = self.device.told("sectors")?.context("no sectors")? as usize * SECTOR;
        self.model.resize(bytes, 0);
        Ok(())
    }

    /// Waits for a request as Windows does, by events; the crash dump driver looks again and again.
    fn wait_for(&self, driver: &mut Xenvbd, srb: usize, is_dump: bool) -> Result<()> {
        let start = Instant::now();
        while driver.status(srb) == SrbStatus::Pending {
            if is_dump || driver.take_event()? {
                driver.interrupt();
            } else {
                thread::sleep(Duration::from_micros(200));
            }
            ensure!(start.elapsed() < PATIENCE, "no event comes, or no answer");
        }
        ensure!(driver.status(srb) == SrbStatus::Success, "a request has failed");
        Ok(())
    }

    /// Writes and reads of every shape, unmaps and flushes.
    fn load(&mut self, driver: &mut Xenvbd, round: u64) -> Result<()> {
        for pair in 0..PAIRS {
            self.pair(driver, SECTORS_MAX, false)?;
            if pair % 10 == 0 {
                let (at, count) =
                    (self.below(self.model.len() / SECTOR - 100), 1 + self.below(100));
                let unmap = driver.start(Command::Unmap(vec![(at as u64, count as u64), (0, 0)]));
                self.wait_for(driver, unmap, false)?;
                // Of whole blocks nothing stays, of others all.
                let (begin, end) = (at.next_multiple_of(8), (at + count) / 8 * 8);
                self.model[begin * SECTOR..end.max(begin) * SECTOR].fill(0);
                let flush = driver.start(Command::SynchronizeCache(at as u64));
                self.wait_for(driver, flush, false)?;
            }
        }
        self.compare(driver, false)?;
        self.say(&format!("{} round {round} is right", self.protocol()))
    }

    /// A write, and a read of it that is asked for before the write is answered.
    fn pair(&mut self, driver: &mut Xenvbd, longest: usize, is_dump: bool) -> Result<()> {
        let count = 1 + self.below(longest);
        let at = self.below(self.model.len() / SECTOR - count);
        let range = at * SECTOR..(at + count) * SECTOR;
        for offset in 0..2 {
            // A page, a sector in a page, or any word.
            self.buffers[offset].offset =
                [0, 512 * self.below(8), 4 * self.below(1024)][self.below(3)];
        }
        let mut bytes = vec![0; range.len()];
        for part in bytes.chunks_mut(4) {
            let word = (self.below(1 << 30) as u32).to_le_bytes();
            part.copy_from_slice(&word);
        }
        let [from, into] = self.buffers.clone();
        from.fill(&*self.machine, &bytes);
        let write = driver.start(Command::Write(at as u64, count, from));
        let read = driver.start(Command::Read(at as u64, count, into.clone()));
        self.wait_for(driver, write, is_dump)?;
        self.wait_for(driver, read, is_dump)?;
        ensure!(into.bytes(&*self.machine, bytes.len()) == bytes, "{count} sectors at {at} differ");
        self.model[range].copy_from_slice(&bytes);
        Ok(())
    }

    /// All of the disk.
    fn compare(&mut self, driver: &mut Xenvbd, is_dump: bool) -> Result<()> {
        let mut into = self.buffers[0].clone();
        into.offset = 0;
        for (index, expected) in self.model.chunks(DUMP_MAX * SECTOR).enumerate() {
            let (at, count) = (index * DUMP_MAX, expected.len() / SECTOR);
            let read = driver.start(Command::Read(at as u64, count, into.clone()));
            self.wait_for(driver, read, is_dump)?;
            let found = into.bytes(&*self.machine, expected.len());
            ensure!(found == expected, "the disk differs in {count} sectors at {at}");
        }
        Ok(())
    }

    /// Ends the first driver with requests under way, and does what xencrsh does: it closes the device, connects
    /// with one page, and writes. At last it closes the device and leaves it as a driver expects it.
    fn crash(&mut self, mut crashed: Xenvbd) -> Result<()> {
        // What is written is there already, so that it does not matter how many of them are carried out.
        let [mut from, into] = self.buffers.clone();
        from.offset = 0;
        for at in (0..self.model.len() / SECTOR).step_by(SECTORS_MAX).take(16) {
            let range = at * SECTOR..((at + SECTORS_MAX) * SECTOR).min(self.model.len());
            if at == 0 {
                from.fill(&*self.machine, &self.model[range.clone()]);
                crashed.start(Command::Write(0, range.len() / SECTOR, from.clone()));
            }
            crashed.start(Command::Read(at as u64, range.len() / SECTOR, into.clone()));
        }
        let lost = crashed.under_way();
        self.device.close()?;
        self.forget()?;
        self.prepare()?;
        let mut driver = self.connect(true)?;
        for _ in 0..PAIRS {
            self.pair(&mut driver, DUMP_MAX, true)?;
        }
        let flush = driver.start(Command::SynchronizeCache(0));
        self.wait_for(&mut driver, flush, true)?;
        self.compare(&mut driver, true)?;
        self.note(&driver)?;
        self.say(&format!("{} dump is right, {lost} requests were lost", self.protocol()))?;
        self.device.close()?;
        self.forget()?;
        self.prepare()
    }

    /// The end of `FrontendClose` of xencrsh.
    fn forget(&mut self) -> Result<()> {
        for key in [
            "ring-page-order",
            "feature-online-resize",
            "feature-surprise-remove",
            "multi-queue-num-queues",
        ] {
            self.device.forget(key)?;
        }
        Ok(())
    }
}
