//! A guest that does to its ring what harms others, where that is possible: slots of blkif's corpus, damaged, with grants
//! that are its own or are not, pages that change while they are looked at, indices that lie.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    sync::atomic::Ordering::Relaxed,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use blkif::{
    PAGE_BYTES,
    mock::{Channel, Machine},
};
use xen::GuestPages;

use crate::device::{Device, state};

/// A request of the layout x86_64, and where its fields are (`xen/io/blkif.h`).
const SLOT_BYTES: usize = 112;
const SLOTS: u32 = 32;
const HEADER_BYTES: usize = 64;
const INDIRECT: u8 = 6;
const SEGMENTS_AT: usize = 24;
const SEGMENT_BYTES: usize = 8;
const SEGMENTS_MAX: usize = 11;
const INDIRECT_GREFS_AT: usize = 28;
const INDIRECT_GREFS_MAX: usize = 8;
/// Words of the ring's header.
const REQ_PROD: usize = 0;
const REQ_EVENT: usize = 1;
const RSP_EVENT: usize = 3;
/// Pages that requests name.
const PAGES: u32 = 64;

type Slot = [u8; SLOT_BYTES];

pub(crate) fn attack(devid: u32, corpus: &Path, time: Duration, seed: u64) -> Result<()> {
    let device = Device::open(devid)?;
    let machine = GuestPages::grant(device.backend)?;
    let ring = machine.take_pages(1);
    let pages = machine.take_pages(PAGES);
    let corpus: Vec<Slot> = fs::read_dir(corpus)?
        .map(|entry| fs::read(entry?.path())?[..].try_into().context("a slot has 112 bytes"))
        .collect::<Result<_>>()?;
    ensure!(corpus.len() > 10, "that is no corpus");
    let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut attacker = Attacker { device, machine, ring, pages, corpus, random };
    let end = Instant::now() + time;
    let (mut sent, mut connections) = (0, 0);
    while Instant::now() < end {
        sent += attacker.once(end)?;
        connections += 1;
    }
    // Another driver may have the disk.
    attacker.device.close()?;
    attacker.device.begin()?;
    let said = writeln!(io::stdout(), "hostile: {sent} slots, {connections} connections");
    Ok(said?)
}

struct Attacker {
    device: Device,
    machine: GuestPages,
    ring: u32,
    /// The first of them.
    pages: u32,
    corpus: Vec<Slot>,
    random: u64,
}

impl Attacker {
    /// Connects the ring and uses it until it lies; how many slots it has sent.
    fn once(&mut self, end: Instant) -> Result<u64> {
        self.device.close()?;
        self.device.begin()?;
        self.machine.write(self.ring, 0, &[0; PAGE_BYTES]);
        self.word(REQ_EVENT, 1);
        self.word(RSP_EVENT, 1);
        let (port, channel) = self.machine.open_port()?;
        self.device.tell([
            ("ring-ref", self.machine.gref(self.ring).to_string()),
            ("event-channel", port.to_string()),
            ("protocol", "x86_64-abi".to_owned()),
        ])?;
        self.device.connect()?;
        self.device.set_state(state::CONNECTED)?;
        let mut sent = 0_u32;
        while Instant::now() < end {
            for _ in 0..=self.below(SLOTS as usize) {
                let slot = self.slot();
                let at = HEADER_BYTES + (sent % SLOTS) as usize * SLOT_BYTES;
                self.machine.write(self.ring, at, &slot);
                sent += 1;
            }
            self.word(REQ_PROD, sent);
            notify(&*channel);
            // Segments of indirect requests, as they are read.
            let page = self.pages + self.below(PAGES as usize) as u32;
            let bytes = self.segments();
            self.machine.write(page, 0, &bytes);
            thread::sleep(Duration::from_micros(self.below(3000) as u64));
            if self.below(40) == 0 {
                let value = self.next() as u32 >> self.below(32);
                let word = self.below(4);
                self.word(word, value);
                notify(&*channel);
                thread::sleep(Duration::from_millis(2));
                break;
            }
        }
        Ok(sent.into())
    }

    fn word(&self, index: usize, value: u32) {
        self.machine.word(self.ring, index).store(value, Relaxed);
    }

    fn slot(&mut self) -> Slot {
        let index = self.below(self.corpus.len());
        let mut slot = self.corpus[index];
        let (at, stride, count) = match slot[0] {
            INDIRECT => (INDIRECT_GREFS_AT, 4, INDIRECT_GREFS_MAX),
            _ => (SEGMENTS_AT, SEGMENT_BYTES, SEGMENTS_MAX),
        };
        for index in 0..count {
            let gref = self.gref().to_le_bytes();
            slot[at + index * stride..][..4].copy_from_slice(&gref);
        }
        for _ in 0..self.below(4) {
            let at = self.below(slot.len());
            slot[at] = match self.below(2) {
                0 => slot[at] ^ 1 << self.below(8),
                _ => self.next() as u8,
            };
        }
        slot
    }

    /// A page of segments.
    fn segments(&mut self) -> [u8; PAGE_BYTES] {
        let mut bytes = [0; PAGE_BYTES];
        for segment in bytes.chunks_exact_mut(SEGMENT_BYTES) {
            segment[..4].copy_from_slice(&self.gref().to_le_bytes());
            segment[4] = self.below(8) as u8;
            segment[5] = 7 - self.below(4) as u8;
        }
        bytes
    }

    /// A page of its own, mostly; its ring, a grant that Xen reserves, or none at all.
    fn gref(&mut self) -> u32 {
        match self.below(32) {
            0 => self.machine.gref(self.ring),
            // Behind those of its console and of its xenstore, which are not to be destroyed.
            1 => 2 + self.below(6) as u32,
            2 => self.next() as u32,
            _ => {
                let page = self.pages + self.below(PAGES as usize) as u32;
                self.machine.gref(page)
            }
        }
    }

    /// xorshift64*: the same numbers each time.
    fn next(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 16) as usize % limit
    }
}

/// A backend that has given the ring up has closed its end.
fn notify(channel: &dyn Channel) {
    let _closed = channel.notify();
}
