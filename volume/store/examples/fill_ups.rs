//! SRs are filled to the end again and again beside another program that takes memory and gives it back, and
//! `/proc/meminfo` is read without a pause: the host keeps its reserve, its promises where it can, and gets
//! everything back.
//!
//! `fill_ups [ROUNDS]`, as root. It takes all memory of its machine, so `tests/xen/memory.sh` boots one for it
//! (`make test-memory`).

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use scratch::Scratch;
use store::{
    Attachment, ErrorKind, Host, Inactive, Memory, Name, Sr,
    testing::{attachment, counted, create, host, open},
};

const MIB: u64 = 1 << 20;
/// A machine with more of it has other work.
const MEMORY_MAX: u64 = 4 << 30;
/// SRs that are filled together.
const SRS: u64 = 3;
/// Bytes that the other program takes or gives back at a time, and what it leaves of the memory above the
/// reserve: it is not the one to take the last.
const STEP: usize = 4 << 20;
const LEFT: u64 = 64 << 20;
/// What is read of `/proc/meminfo` when everything is freed. The first has all that SRs hold, data and metadata.
const FIELDS: [&str; 4] = ["Shmem:", "MemFree:", "AnonPages:", "Slab:"];
/// The same, and free pages that a processor keeps at hand, which are not in "MemFree".
type Left = [u64; FIELDS.len() + 1];
/// Bytes of the kernel's own that come with files.
const SLACK: u64 = 8 << 20;
/// The argument that makes the other program of this one.
const USER: &str = "user";

fn main() {
    match env::args().nth(1).as_deref() {
        Some(USER) => use_memory(),
        rounds => fill_ups(rounds.map_or(3, |rounds| rounds.parse().expect("a number of rounds"))),
    }
}

/// A number of `/proc/meminfo`, in bytes.
fn meminfo(field: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Free pages that processors keep at hand, which may be a few per cent of all memory. Bytes.
fn at_hand() -> u64 {
    let text = fs::read_to_string("/proc/zoneinfo").unwrap();
    let counts = text.lines().filter_map(|line| line.trim().strip_prefix("count:"));
    counts.map(|count| count.trim().parse::<u64>().unwrap()).sum::<u64>() * 4096
}

/// What is left when the kernel has let go of what it keeps only for as long as nothing else needs the memory, and of
/// what it frees a little later.
fn caches_dropped() -> Left {
    for _ in 0..3 {
        fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
        thread::sleep(Duration::from_millis(100));
    }
    let [shared, free, own, slab] = FIELDS.map(meminfo);
    [shared, free, own, slab, at_hand()]
}

/// Another program: takes memory and gives it back in turns, while it is told to.
struct User {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl User {
    fn start() -> Self {
        let mut process = Command::new(env::current_exe().unwrap())
            .arg(USER)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        Self { process, orders, answers }
    }

    fn order(&mut self, what: &str) {
        self.orders.write_all(what.as_bytes()).unwrap();
    }

    /// Has it give everything back; how often it has taken something since.
    fn rest(&mut self) -> u64 {
        self.order("rest\n");
        loop {
            let mut line = String::new();
            assert!(self.answers.read_line(&mut line).unwrap() > 0, "it has died");
            if let Some((_, count)) = line.split_once("taken ") {
                return count.trim().parse().unwrap();
            }
        }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _dead = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// What the other program is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Rest,
    /// To take memory and give it back, in turns.
    Take,
    /// To take memory and keep it.
    Keep,
}

/// What the other program does.
fn use_memory() {
    let (order, counted) = (Mutex::new(Order::Rest), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut held: Vec<Vec<u8>> = Vec::new();
            for step in 0_u64.. {
                let order = order.lock().unwrap();
                let memory = Memory::now().unwrap();
                let is_growing = *order == Order::Keep || step / 40 % 3 < 2;
                if *order == Order::Rest {
                    held.clear();
                } else if is_growing && memory.available > memory.reserve() + LEFT {
                    held.push(vec![1; STEP]);
                    counted.fetch_add(1, Ordering::Relaxed);
                } else if *order == Order::Take {
                    held.pop();
                }
                drop(order);
                thread::sleep(Duration::from_millis(1));
            }
        });
        for line in std::io::stdin().lines() {
            let told = match line.unwrap().as_str() {
                "take" => Order::Take,
                "keep" => Order::Keep,
                _ => Order::Rest,
            };
            *order.lock().unwrap() = told;
            if told == Order::Rest {
                thread::sleep(Duration::from_millis(100));
                // It is at rest when this lock has been had after a step.
                drop(order.lock().unwrap());
                let text = format!("\ntaken {}\n", counted.swap(0, Ordering::Relaxed));
                std::io::stdout().write_all(text.as_bytes()).unwrap();
            }
        }
        std::process::exit(0);
    });
}

/// Three SRs that were promised all that a host can promise.
fn attach(host: &Host) -> Vec<Sr> {
    let uuid = |number| format!("0f0e0d0c-0000-4000-8000-00000000000{number}");
    let attach = |number, size| {
        let uuid = Name::parse(&uuid(number)).unwrap();
        host.attach(&Attachment { uuid, ..attachment(host, size) })
    };
    // The error tells the largest size.
    let error = attach(1, 1 << 40).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    let text = error.to_string();
    let (_, rest) = text.split_once("device-config:size=").unwrap();
    let most: u64 = rest.split_once(' ').unwrap().0.parse().unwrap();
    // Each has some metadata beside its size, and the kernel has the files.
    let size = (most - SLACK - (SRS - 1) * 4 * MIB) / SRS / 4096 * 4096;
    (1..=SRS).map(|number| attach(number, size).unwrap()).collect()
}

/// Fills all SRs at once; whether the host ended that of each.
fn fill(srs: &[Sr], keys: &[Name]) -> Vec<bool> {
    thread::scope(|scope| {
        let threads: Vec<_> = srs
            .iter()
            .zip(keys)
            .map(|(sr, key)| {
                scope.spawn(move || {
                    let mut disk = open(sr, key.as_str(), false).unwrap();
                    let bytes = vec![1; 1 << 20];
                    let refused = (0..).find_map(|at| disk.write(at * MIB, &bytes).err());
                    let error = refused.expect("the disk is larger than the memory");
                    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
                    error.to_string().contains("no memory left")
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn fill_ups(rounds: u64) {
    let memory = Memory::now().unwrap();
    assert!(memory.total < MEMORY_MAX, "this machine is too large to be filled");
    let root = Scratch::in_memory();
    let host = Host { may_mount: true, ..host(root.path()) };
    let srs = attach(&host);
    let (shared, mut before) = (caches_dropped()[0], None);
    let (lowest, over) = (AtomicU64::new(u64::MAX), AtomicBool::new(false));
    let (mut by_host, mut by_size, mut taken, mut least) = (0, 0, 0, u64::MAX);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                lowest.fetch_min(Memory::now().unwrap().available, Ordering::Relaxed);
            }
        });
        for round in 0..rounds {
            let keys: Vec<Name> = srs.iter().map(|sr| create(sr, 64 << 30)).collect();
            // In every other round the host is left alone, and keeps its promises.
            let is_alone = round % 2 == 1;
            let mut user = (!is_alone).then(User::start);
            if let Some(user) = &mut user {
                // Where it keeps what it takes, the SRs cannot have all that they were promised.
                user.order(if round % 4 == 0 { "take\n" } else { "keep\n" });
            }
            let ended_by_host = fill(&srs, &keys);
            let space = srs.iter().map(|sr| sr.stat().unwrap()).collect::<Vec<_>>();
            taken += user.as_mut().map_or(0, User::rest);
            // Its end gives back what its allocator has kept.
            drop(user);
            for (by, stat) in ended_by_host.iter().zip(&space) {
                if is_alone {
                    assert!(!by, "round {round}: the host did not keep its promise: {stat:?}");
                    assert!(stat.used + stat.metadata > stat.total - MIB, "{stat:?}");
                }
            }
            by_host += ended_by_host.iter().filter(|by| **by).count();
            by_size += ended_by_host.iter().filter(|by| !**by).count();
            for (sr, key) in srs.iter().zip(keys) {
                sr.lock().unwrap().destroy_volume(key.as_str(), &mut Inactive).unwrap();
                assert_eq!(counted(sr), (0, 0), "round {round}");
            }
            let low = lowest.swap(u64::MAX, Ordering::Relaxed);
            least = least.min(low);
            let after = caches_dropped();
            // The first round has the kernel and this program fill the caches that they keep.
            let mut before = *before.get_or_insert(after);
            before[0] = shared;
            let text = format!(
                "round {round}: {by_host} disks ended by the host so far; lowest {} KiB, reserve {} KiB; {FIELDS:?} and \
                 free at hand {:?} to {:?} KiB\n",
                low >> 10,
                memory.reserve() >> 10,
                before.map(|bytes| bytes >> 10),
                after.map(|bytes| bytes >> 10),
            );
            std::io::stdout().write_all(text.as_bytes()).unwrap();
            // What is left is free, or of this program, or kept by the kernel for objects to come.
            let others = |it: Left| it[1..].iter().sum::<u64>();
            let is_freed = after[0] <= before[0] + MIB && others(after) + MIB >= others(before);
            if low < memory.reserve() || !is_freed {
                over.store(true, Ordering::Relaxed);
                let all = fs::read_to_string("/proc/meminfo").unwrap();
                panic!("{text}{all}");
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    for sr in &srs {
        host.destroy(sr.uuid()).unwrap();
    }
    let text = format!(
        "{rounds} rounds: {by_host} ended by the host, {by_size} by the size, {taken} times the other program took \
         {} MiB; the least was {} KiB above the reserve\n",
        STEP >> 20,
        (least - memory.reserve()) >> 10
    );
    std::io::stdout().write_all(text.as_bytes()).unwrap();
    assert!(by_host > 0 && by_size > 0 && taken > 0, "{text}");
}
