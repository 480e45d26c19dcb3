//! A backend in a process of its own that is killed between two stores to shared memory, again and
//! again, and succeeded by another one. The guest's half must not notice: every request is answered once,
//! with success, and every byte is what was written. It is after a request that is lost or answered
//! twice, an answer that is overwritten, and an old change that is done after a newer one was answered.
//!
//! `BLKIF_KILLS` says how many processes have to die (default 150), `BLKIF_SEED` where to begin.

use std::{
    fs::File,
    io::{Read, Write},
    ops::Range,
    os::{
        fd::{AsFd, AsRawFd},
        unix::process::ExitStatusExt,
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    rc::Rc,
    time::{Duration, Instant},
};

use blkif::{
    Abi, Journal, Location, PAGE_BYTES, Ring, Status, Xen, failpoints,
    mock::{Completion, Frontend, FrontendRequest, Guest, MockXen, Span},
};
use block::{Budget, Drive, Frontend as _, Progress};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use scratch::Scratch;

use crate::{file_disk::FileDisk, random::Random};

const TASK: &str = "BLKIF_BACKEND";
const DOMID: u32 = 3;
const ORDER: u32 = 0;
const DISK_BYTES: u64 = 12 << 20;
/// Requests go to so many blocks at the beginning, so that they meet.
const BLOCKS: u64 = 24;
const SECTORS_IN_BLOCK: u64 = 8;
const SIGKILL: i32 = 9;
/// How long the guest waits for an answer, whatever happens.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the other process is told.
struct Task {
    guests: PathBuf,
    disk: PathBuf,
    journal: String,
    first_gref: u32,
    port: u32,
    /// Whether there was a process before it.
    resume: bool,
    /// How many stores it may make.
    steps: u32,
}

impl Task {
    fn text(&self) -> String {
        let Self { guests, disk, journal, first_gref, port, resume, steps } = self;
        let (guests, disk) = (guests.display(), disk.display());
        format!("{guests}\n{disk}\n{journal}\n{first_gref}\n{port}\n{resume}\n{steps}")
    }

    fn parse(text: &str) -> Self {
        let parts: Vec<&str> = text.lines().collect();
        let [guests, disk, journal, first_gref, port, resume, steps] = parts[..] else {
            panic!("{text:?} is no task");
        };
        Self {
            guests: guests.into(),
            disk: disk.into(),
            journal: journal.into(),
            first_gref: first_gref.parse().unwrap(),
            port: port.parse().unwrap(),
            resume: resume.parse().unwrap(),
            steps: steps.parse().unwrap(),
        }
    }
}

/// The process that is killed; as a test it does nothing.
#[test]
fn backend_process() {
    let Ok(task) = std::env::var(TASK) else { return };
    let task = Task::parse(&task);
    let journal = File::options().read(true).write(true).open(&task.journal).unwrap();
    let protocol = Abi::X86_64.protocol();
    let location = Location { grefs: vec![task.first_gref], protocol, port: task.port };
    let domain = MockXen::new(&task.guests).domain(DOMID).unwrap();
    let mut drive = Drive::new(FileDisk::open(task.disk.to_str().unwrap()));
    let mut ring = if task.resume {
        failpoints::die_after(task.steps);
        Ring::resume(domain, &location, journal).unwrap()
    } else {
        let ring = Ring::connect(domain, &location, journal).unwrap();
        failpoints::die_after(task.steps);
        ring
    };
    let stdin = std::io::stdin();
    loop {
        let progress = ring.turn(&mut drive, &mut Budget::turn());
        assert!(!matches!(progress, Progress::Closed { .. }), "{progress:?}");
        let busy = progress == Progress::More || drive.attachments().has_work();
        drive.work(&mut Budget::turn());
        let wait = Timespec { tv_sec: if busy { 0 } else { 60 }, tv_nsec: 0 };
        let ring = PollFd::from_borrowed_fd(ring.as_fd(), PollFlags::IN);
        let mut fds = [ring, PollFd::new(&stdin, PollFlags::IN)];
        poll(&mut fds, Some(&wait)).unwrap();
        if !fds[1].revents().is_empty() {
            // The test is over.
            return;
        }
    }
}

/// The process that serves, and what it takes to start the next one.
struct Keeper {
    task: Task,
    random: Random,
    child: Child,
    kills: u32,
    /// Since when no process serves, until the next answer.
    dead_since: Option<Instant>,
    stalls: Vec<Duration>,
}

impl Keeper {
    fn start(task: &Task) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::backend_process", "--nocapture"])
            .env(TASK, task.text())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Starts the next process if the one before has died.
    fn check(&mut self) {
        let Some(status) = self.child.try_wait().unwrap() else { return };
        if status.signal() != Some(SIGKILL) {
            let mut said = String::new();
            self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("the backend ended by itself, {status}: {said}");
        }
        self.kills += 1;
        self.dead_since.get_or_insert_with(Instant::now);
        self.task.resume = true;
        // Often so few that it dies while it takes over.
        let most = if self.random.one_in(3) { 12 } else { 300 };
        self.task.steps = self.random.below(most) as u32;
        self.child = Self::start(&self.task);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _dead = self.child.kill();
        let _waited = self.child.wait();
    }
}

/// A request that was sent.
struct Sent {
    id: u64,
    /// What it brings if it is a read and nothing that is under way with it changes the same blocks:
    /// a successor may read again after that was changed.
    expected: Option<Expected>,
}

struct Expected {
    page: u32,
    bytes: Vec<u8>,
    /// Where it reads.
    range: Range<usize>,
}

/// Submits a few requests, and does to the model what they do.
fn submit(frontend: &mut Frontend, random: &mut Random, model: &mut [u8], pages: u32) -> Vec<Sent> {
    let mut sent: Vec<Sent> = Vec::new();
    // Behind a large discard reads may see the one or the other.
    let mut told = true;
    let changed = |sent: &mut Vec<Sent>, range: &Range<usize>| {
        for Sent { expected, .. } in sent {
            expected.take_if(|it| it.range.start < range.end && range.start < it.range.end);
        }
    };
    for index in 0..1 + random.below(16) as u32 {
        let page = pages + 2 * index;
        let count = 1 + random.below(2);
        let block = random.below(BLOCKS - count);
        let sector = block * SECTORS_IN_BLOCK;
        let spans: Vec<Span> = (page..page + count as u32).map(Span::page).collect();
        let range = block as usize * PAGE_BYTES..(block + count) as usize * PAGE_BYTES;
        let (request, expected) = match random.below(20) {
            0 => (FrontendRequest::Flush, None),
            1 => (FrontendRequest::Barrier(0, vec![]), None),
            2 => {
                told = false;
                changed(&mut sent, &(range.start..model.len()));
                model[range.start..].fill(0);
                let sectors = DISK_BYTES / 512 - sector;
                (FrontendRequest::Discard(sector, sectors), None)
            }
            3 => {
                changed(&mut sent, &range);
                model[range].fill(0);
                (FrontendRequest::Discard(sector, count * SECTORS_IN_BLOCK), None)
            }
            4..10 => {
                let bytes = model[range.clone()].to_vec();
                let expected = told.then_some(Expected { page, bytes, range });
                (FrontendRequest::Read(sector, spans), expected)
            }
            kind => {
                changed(&mut sent, &range);
                random.fill(&mut model[range.clone()]);
                frontend.guest().write(page, 0, &model[range]);
                let barrier = kind == 10;
                let make = if barrier { FrontendRequest::Barrier } else { FrontendRequest::Write };
                (make(sector, spans), None)
            }
        };
        sent.push(Sent { id: frontend.submit(&request).unwrap(), expected });
    }
    frontend.push().unwrap();
    sent
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// All answers to what was sent, from this process or its successor.
fn wait(frontend: &mut Frontend, keeper: &mut Keeper, count: usize) -> Vec<Completion> {
    let mut completions = Vec::new();
    let start = Instant::now();
    while completions.len() < count {
        assert!(start.elapsed() < PATIENCE, "{} of {count} were answered", completions.len());
        keeper.check();
        frontend.wait(Duration::from_millis(1)).unwrap();
        let before = completions.len();
        frontend.complete(&mut completions).unwrap();
        if completions.len() > before
            && let Some(since) = keeper.dead_since.take()
        {
            keeper.stalls.push(since.elapsed());
        }
    }
    completions
}

#[test]
fn a_guest_notices_nothing_of_processes_that_die() {
    let (kills, seed) = (setting("BLKIF_KILLS", 150) as u32, setting("BLKIF_SEED", 1));
    let root = Scratch::in_memory();
    let (guests, disk) = (root.path().join("guests"), root.path().join("disk"));
    File::create(&disk).unwrap().set_len(DISK_BYTES).unwrap();
    let guest = Rc::new(Guest::create(&guests, DOMID, 256).unwrap());
    let mut frontend = Frontend::create(&guest, Abi::X86_64, ORDER).unwrap();
    let pages = guest.take_pages(40);
    let journal = Journal::create().unwrap();
    let location = frontend.location();
    let task = Task {
        guests,
        disk,
        journal: format!("/proc/{}/fd/{}", std::process::id(), journal.as_raw_fd()),
        first_gref: location.grefs[0],
        port: location.port,
        resume: false,
        steps: 100,
    };
    let child = Keeper::start(&task);
    let random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut keeper = Keeper { task, random, child, kills: 0, dead_since: None, stalls: Vec::new() };
    let mut random = Random(seed.wrapping_add(17));
    let mut model = vec![0; BLOCKS as usize * PAGE_BYTES];
    let mut requests = 0;
    while keeper.kills < kills {
        let sent = submit(&mut frontend, &mut random, &mut model, pages);
        requests += sent.len();
        let completions = wait(&mut frontend, &mut keeper, sent.len());
        for Sent { id, expected } in sent {
            let found: Vec<_> = completions.iter().filter(|it| it.id == id).collect();
            assert!(matches!(found[..], [Completion { status: Status::Okay, .. }]), "{found:?}");
            if let Some(Expected { page, bytes, .. }) = expected {
                let mut read = vec![0; bytes.len()];
                guest.read(page, 0, &mut read);
                assert!(read == bytes, "seed {seed}: wrong bytes after {} kills", keeper.kills);
            }
        }
        // Everything is answered: the disk is what the model is.
        let mut content = vec![0; model.len()];
        File::open(&keeper.task.disk).unwrap().read_exact(&mut content).unwrap();
        assert!(content == model, "seed {seed}: the disk differs after {} kills", keeper.kills);
    }
    let mut stalls = std::mem::take(&mut keeper.stalls);
    stalls.sort();
    let share = |percent: usize| stalls[(stalls.len() - 1) * percent / 100];
    writeln!(
        std::io::stderr(),
        "{requests} requests, {} kills, no answer for {:?} (median), {:?} (99 %), {:?} (longest)",
        keeper.kills,
        share(50),
        share(99),
        share(100)
    )
    .unwrap();
}
