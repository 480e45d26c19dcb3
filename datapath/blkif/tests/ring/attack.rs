//! A guest that writes what it likes into its ring: slots that are random, almost right, or right; indices
//! that lie; pages that it changes while they are looked at. It is after panics, hangs, memory that grows,
//! bytes that change beside the disk's own, and other guests that are disturbed.
//!
//! The corpus in `corpus/` is sent first: a slot of 112 bytes in each file. `FUZZ_SECONDS` says how long
//! the random part takes (default 3), `BLKIF_SEED` where it begins.

use std::{
    io::Write,
    path::Path,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use blkif::{
    Abi,
    mock::{FrontendRequest, Span},
};
use block::{Budget, Progress};

use crate::{random::Random, rig::Rig};

/// How long one turn may take on a machine that others use as well.
const TURN_MAX: Duration = Duration::from_secs(5);
/// Memory that the process may take while it is attacked. Bytes.
const GROWTH_MAX: u64 = 64 << 20;

type Slot = [u8; 112];

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn corpus() -> Vec<Slot> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut paths: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() > 10, "a corpus");
    let read = |path| std::fs::read(path).unwrap().try_into().expect("a slot of 112 bytes");
    paths.iter().map(read).collect()
}

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    let kib = line.split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() << 10
}

fn mutate(random: &mut Random, slot: &mut Slot) {
    for _ in 0..random.below(4) {
        let at = random.below(112) as usize;
        slot[at] = match random.below(3) {
            0 => slot[at] ^ 1 << random.below(8),
            1 => [0, 1, 7, 8, 11, 12, 0x7f, 0x80, 0xff][random.below(9) as usize],
            _ => random.next() as u8,
        };
    }
    if random.one_in(30) {
        random.fill(slot);
    }
}

/// Another guest with a disk of its own, whose bytes are checked. (The attacker may write anything to its
/// own disk, also by having that read into its ring.)
struct Canary {
    rig: Rig,
    page: u32,
}

impl Canary {
    fn new() -> Self {
        let rig = Rig::new(Abi::X86_64, 0);
        let page = rig.guest().take_pages(1);
        rig.guest().write(page, 0, &[0xca; 4096]);
        let mut canary = Self { rig, page };
        canary.ask(FrontendRequest::Write(8, vec![Span::page(page)]));
        canary
    }

    fn ask(&mut self, request: FrontendRequest) {
        let id = self.rig.submit(&[request])[0];
        self.rig.turn();
        let completions = self.rig.completions();
        assert!(completions.iter().any(|it| it.id == id), "the other guest has no answer");
    }

    fn check(&mut self) {
        self.rig.guest().write(self.page, 0, &[0; 4096]);
        self.ask(FrontendRequest::Read(8, vec![Span::page(self.page)]));
        let mut bytes = [0; 4096];
        self.rig.guest().read(self.page, 0, &mut bytes);
        assert!(bytes == [0xca; 4096], "the other guest's bytes have changed");
    }
}

#[test]
fn a_hostile_guest_harms_itself_alone() {
    let seed = setting("BLKIF_SEED", 1);
    let end = Instant::now() + Duration::from_secs(setting("FUZZ_SECONDS", 3));
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let corpus = corpus();
    let mut rig = Rig::new(Abi::X86_64, 0);
    let mut canary = Canary::new();
    let resident = resident_bytes();
    let mut slots = corpus.clone().into_iter();
    let (mut sent, mut given_up) = (0_u64, 0_u64);
    while Instant::now() < end || slots.len() > 0 {
        for _ in 0..1 + random.below(16) {
            let slot = slots.next().unwrap_or_else(|| {
                let mut slot = corpus[random.below(corpus.len() as u64) as usize];
                mutate(&mut random, &mut slot);
                slot
            });
            rig.frontend.put(&slot);
            sent += 1;
        }
        rig.frontend.push().unwrap();
        if random.one_in(64) {
            // An index that lies, or an event that is asked for at a strange place.
            let value =
                if random.one_in(2) { random.next() as u32 } else { random.below(80) as u32 };
            rig.frontend.word(random.below(4) as usize).store(value, Relaxed);
        }
        if random.one_in(16) {
            // Segments of indirect requests, in the pages that the corpus names.
            let mut page = [0; 4096];
            random.fill(&mut page);
            rig.guest().write(random.below(64) as u32 + 1, 0, &page);
        }
        let start = Instant::now();
        let mut progress = rig.turn();
        assert!(start.elapsed() < TURN_MAX, "a turn took {:?}", start.elapsed());
        while progress == Progress::More || rig.drive.attachments().has_work() {
            if let Progress::Closed { .. } = progress {
                break;
            }
            rig.drive.work(&mut Budget::turn());
            progress = rig.turn();
        }
        if let Progress::Closed { fault } = progress {
            assert!(fault.is_some_and(|it| it.contains("says that it has")));
            given_up += 1;
            rig.reconnect();
        }
        if sent % 512 < 16 {
            canary.check();
            let grown = resident_bytes().saturating_sub(resident);
            assert!(grown < GROWTH_MAX, "{grown} bytes more after {sent} requests");
        }
    }
    canary.check();
    assert!(sent > 1000 && given_up > 0, "{sent} slots and {given_up} lies are no test");
    let mut stderr = std::io::stderr();
    writeln!(stderr, "seed {seed}: {sent} slots, {given_up} rings given up").unwrap();
}
