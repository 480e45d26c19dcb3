//! A hostile guest beside an honest one and an NBD client, in the real program: slots of blkif's corpus,
//! damaged, indices that lie, and its ring connected again and again. The others have to be served all the
//! time, with their bytes as they were.
//!
//! `FUZZ_SECONDS` says how long (default 3), `BLKIF_SEED` where it begins.

use std::{
    io::Write,
    path::Path,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use blkif::mock::GuestDisk;

use crate::host::{DEVID, Host, frontend};

const IMAGE_BYTES: usize = 8 << 20;
/// How long an answer to the honest guest may take on a machine that others use as well.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Memory of the process beyond what it has when the attack begins. Bytes.
const GROWTH_MAX: u64 = 64 << 20;

type Slot = [u8; 112];

/// xorshift64*: the same numbers each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from((self.next() >> 16) % limit as u64).unwrap()
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn corpus() -> Vec<Slot> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../blkif/corpus");
    let mut paths: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap().try_into().unwrap()).collect()
}

fn damaged(random: &mut Random, corpus: &[Slot]) -> Slot {
    let mut slot = corpus[random.below(corpus.len())];
    for _ in 0..random.below(4) {
        let at = random.below(slot.len());
        slot[at] = match random.below(2) {
            0 => slot[at] ^ 1 << random.below(8),
            _ => random.next() as u8,
        };
    }
    slot
}

/// Anonymous memory of the process. Bytes.
fn resident(host: &Host) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", host.server().pid)).unwrap();
    let line = text.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

fn check(disk: &mut GuestDisk, host: &Host) {
    let (start, mut bytes) = (Instant::now(), [0; 64 << 10]);
    disk.read(1 << 20, &mut bytes).unwrap();
    assert!(bytes == [0xca; 64 << 10], "another disk's bytes have changed");
    assert!(host.nbd(0).read(0, 4096).unwrap().iter().all(|&byte| byte == 0xca));
    assert!(start.elapsed() < ANSWER_MAX, "others have waited {:?}", start.elapsed());
}

#[test]
fn a_hostile_guest_disturbs_no_other() {
    let seed = setting("BLKIF_SEED", 1);
    let end = Instant::now() + Duration::from_secs(setting("FUZZ_SECONDS", 3));
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let corpus = corpus();
    let host = Host::start();
    host.open(0, &host.image("canary", IMAGE_BYTES, 0xca));
    host.open(1, &host.image("attacked", IMAGE_BYTES, 1));
    let (honest, hostile) = (host.guest(1), host.guest(2));
    let (mut disk, ring) = frontend(&honest, 0);
    host.client().connect(0, ring).unwrap();
    let (mut attacker, ring) = frontend(&hostile, 0);
    host.client().connect(1, ring.clone()).unwrap();
    check(&mut disk, &host);
    let before = resident(&host);
    let (mut sent, mut connects, mut in_ring) = (0_u64, 0, 0_u32);
    while Instant::now() < end {
        for _ in 0..1 + random.below(31) {
            attacker.frontend.put(&damaged(&mut random, &corpus));
            sent += 1;
            in_ring = in_ring.wrapping_add(1);
        }
        attacker.frontend.push().unwrap();
        // More than the ring holds is a lie, of which there are enough below.
        let start = Instant::now();
        while attacker.frontend.word(2).load(Relaxed) != in_ring
            && start.elapsed() < Duration::from_millis(2)
        {
            std::thread::yield_now();
        }
        if random.below(8) == 0 {
            attacker.frontend.notify().unwrap();
        }
        if random.below(400) == 0 {
            let value = random.next() as u32 >> random.below(32);
            attacker.frontend.word(random.below(4)).store(value, Relaxed);
            attacker.frontend.notify().unwrap();
        }
        if random.below(200) == 0 {
            // Whether it was given up or not.
            host.client().disconnect(2, DEVID).unwrap();
            attacker.frontend.reset();
            in_ring = 0;
            host.client().connect(1, ring.clone()).unwrap();
            connects += 1;
        }
        if random.below(100) == 0 {
            check(&mut disk, &host);
            let grown = resident(&host).saturating_sub(before);
            assert!(grown < GROWTH_MAX, "{grown} bytes more after {sent} slots");
        }
    }
    check(&mut disk, &host);
    host.client().close(1).unwrap();
    host.client().close(0).unwrap();
    writeln!(std::io::stderr(), "seed {seed}: {sent} slots, {connects} connections").unwrap();
    assert!(sent > 1000 && connects > 0);
}
