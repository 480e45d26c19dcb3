//! A server that is killed again and again while a guest uses its disk. The guest's half must not notice:
//! every request is answered once, with success, and every byte is what was written.
//!
//! `KEEPER_KILLS` says how many servers have to die (default 100), `BLKIF_SEED` where to begin.

use std::{
    fs,
    io::Write,
    time::{Duration, Instant},
};

use blkif::{
    PAGE_BYTES, Status,
    mock::{Completion, Frontend, FrontendRequest, Span},
};
use rustix::process::{Pid, Signal, kill_process};
use store::{Name, testing::Fixture};
use tapctl::Identity;

use crate::host::{DEVID, Host, PATIENCE, message};

const MINOR: u16 = 0;
/// Requests go to so many blocks.
const BLOCKS: usize = 256;
const SECTORS_IN_BLOCK: u64 = 8;
/// The most requests of a round, each to another block.
const ROUND_MAX: usize = 16;

/// xorshift64*: the same numbers each time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Kills servers of a keeper.
struct Killer {
    keeper: u32,
    next: Instant,
    kills: u64,
    /// When the last was killed, until all requests of that round are answered.
    since: Option<Instant>,
    stalls: Vec<Duration>,
}

impl Killer {
    /// Kills the server if it is time to.
    fn check(&mut self, random: &mut Random) {
        if Instant::now() < self.next || self.since.is_some() {
            return;
        }
        let children = format!("/proc/{0}/task/{0}/children", self.keeper);
        let children = fs::read_to_string(children).expect("a kernel with CONFIG_PROC_CHILDREN");
        // Between two servers there is none, or one that is about to be waited for.
        let Some(server) = children.split_whitespace().next_back() else { return };
        let server = Pid::from_raw(server.parse().unwrap()).unwrap();
        let _dead = kill_process(server, Signal::KILL);
        self.kills += 1;
        self.since = Some(Instant::now());
        // Also while the successor takes over; a tenth of a second on average.
        self.next = Instant::now() + Duration::from_millis(random.below(200) + 10);
    }

    /// All requests of a round are answered.
    fn answered(&mut self) {
        self.stalls.extend(self.since.take().map(|since| since.elapsed()));
    }
}

/// What is expected of a request.
struct Sent {
    id: u64,
    read: Option<(u32, usize)>,
}

/// Submits a few requests, and does to the model what they do.
fn submit(frontend: &mut Frontend, random: &mut Random, model: &mut [u8], pages: u32) -> Vec<Sent> {
    let first = random.below(BLOCKS as u64) as usize;
    let count = 1 + random.below(ROUND_MAX as u64) as usize;
    let sent = (0..count).map(|index| {
        let block = (first + index * 37) % BLOCKS;
        let page = pages + index as u32;
        let (sector, spans) = (block as u64 * SECTORS_IN_BLOCK, vec![Span::page(page)]);
        let bytes = &mut model[block * PAGE_BYTES..(block + 1) * PAGE_BYTES];
        let (request, read) = match random.below(20) {
            0 => (FrontendRequest::Flush, None),
            1 => {
                bytes.fill(0);
                (FrontendRequest::Discard(sector, SECTORS_IN_BLOCK), None)
            }
            2..9 => (FrontendRequest::Read(sector, spans), Some((page, block))),
            kind => {
                let number = random.below(u64::MAX).to_ne_bytes();
                bytes.chunks_exact_mut(8).for_each(|part| part.copy_from_slice(&number));
                frontend.guest().write(page, 0, bytes);
                let barrier = kind == 9;
                let make = if barrier { FrontendRequest::Barrier } else { FrontendRequest::Write };
                (make(sector, spans), None)
            }
        };
        Sent { id: frontend.submit(&request).unwrap(), read }
    });
    let sent = sent.collect();
    frontend.push().unwrap();
    sent
}

#[test]
fn a_guest_notices_nothing_of_servers_that_die() {
    let (kills, seed) = (setting("KEEPER_KILLS", 100), setting("BLKIF_SEED", 1));
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut host = Host::start();
    let fixture = Fixture::new(64 << 20);
    let key = fixture.create((BLOCKS * PAGE_BYTES) as i64);
    let path = fixture.sr.layout().volume(&Name::parse(&key).unwrap());
    host.open(MINOR, &format!("ram:{}", path.display()));
    let guest = host.guest(4);
    let mut frontend = Frontend::create(&guest, blkif::Abi::X86_64, 0).unwrap();
    host.client().connect(MINOR, message(&frontend, 4)).unwrap();
    let pages = guest.take_pages(ROUND_MAX as u32);
    let mut model = vec![0; BLOCKS * PAGE_BYTES];
    let next = Instant::now() + Duration::from_millis(50);
    let mut killer = Killer { keeper: host.pid, next, kills: 0, since: None, stalls: Vec::new() };
    let mut requests = 0;
    while killer.kills < kills {
        let sent = submit(&mut frontend, &mut random, &mut model, pages);
        requests += sent.len();
        let mut completions: Vec<Completion> = Vec::new();
        let start = Instant::now();
        while completions.len() < sent.len() {
            let answered = completions.len();
            assert!(start.elapsed() < PATIENCE, "{answered} of {} were answered", sent.len());
            killer.check(&mut random);
            frontend.wait(Duration::from_millis(1)).unwrap();
            frontend.complete(&mut completions).unwrap();
        }
        killer.answered();
        for Sent { id, read } in sent {
            let found: Vec<_> = completions.iter().filter(|it| it.id == id).collect();
            assert!(matches!(found[..], [Completion { status: Status::Okay, .. }]), "{found:?}");
            if let Some((page, block)) = read {
                let mut bytes = vec![0; PAGE_BYTES];
                guest.read(page, 0, &mut bytes);
                let wanted = &model[block * PAGE_BYTES..(block + 1) * PAGE_BYTES];
                assert!(bytes == wanted, "seed {seed}: wrong bytes after {} kills", killer.kills);
            }
        }
    }
    let bytes = host.nbd(MINOR).read(0, model.len() as u32).unwrap();
    assert!(bytes == model, "seed {seed}: the disk differs after {kills} kills");
    let keeper = Identity::of(host.pid).unwrap().unwrap();
    assert_eq!(host.client().list().unwrap().len(), 1);
    let mut stalls = killer.stalls;
    stalls.sort();
    let share = |percent: usize| stalls[(stalls.len() - 1) * percent / 100];
    writeln!(
        std::io::stderr(),
        "{requests} requests, {kills} servers killed, a round not answered for {:?} (median), {:?} (99 %), \
         {:?} (longest)",
        share(50),
        share(99),
        share(100)
    )
    .unwrap();
    host.client().disconnect(4, DEVID).unwrap();
    host.client().close(MINOR).unwrap();
    host.client().detach(MINOR).unwrap();
    host.ends();
    assert!(!keeper.is_serving());
}

/// A ring that was connected while nothing is open, and a device whose guest has lied, are after a death what
/// they were before.
#[test]
fn rings_that_are_not_served_are_remembered_too() {
    let host = Host::start();
    host.client().attach(MINOR).unwrap();
    let guest = host.guest(4);
    let mut frontend = Frontend::create(&guest, blkif::Abi::X86_64, 0).unwrap();
    host.client().connect(MINOR, message(&frontend, 4)).unwrap();
    let kill_server = || {
        let server = host.server();
        server.kill_alone().unwrap();
        assert!(server.wait(PATIENCE).unwrap());
    };
    kill_server();
    let connected = host.client().connect(MINOR, message(&frontend, 4)).unwrap_err();
    assert_eq!(connected.errno(), 114, "EALREADY");
    let fixture = Fixture::new(64 << 20);
    let path = fixture.sr.layout().volume(&Name::parse(&fixture.create(1 << 20)).unwrap());
    let open = tapctl::Open::new(format!("ram:{}", path.display()));
    host.client().open(MINOR, open).unwrap();
    frontend.submit(&FrontendRequest::Flush).unwrap();
    frontend.push().unwrap();
    let mut completions = Vec::new();
    crate::host::until("an answer comes", || {
        frontend.complete(&mut completions).unwrap();
        completions.len() == 1
    });
    // `req_prod` beyond what the ring has room for.
    frontend.word(0).store(1000, std::sync::atomic::Ordering::Release);
    frontend.notify().unwrap();
    let text = || host.client().stats(MINOR).unwrap();
    crate::host::until("the ring is given up", || !text().contains("xenbus"));
    kill_server();
    let connected = host.client().connect(MINOR, message(&frontend, 4)).unwrap_err();
    assert_eq!(connected.errno(), 114, "EALREADY");
    host.client().disconnect(4, DEVID).unwrap();
    frontend.reset();
    host.client().connect(MINOR, message(&frontend, 4)).unwrap();
}
