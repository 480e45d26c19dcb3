//! How long destroying one snapshot among many takes, and what the disk that is written to meanwhile
//! notices of it. `cargo run --release -p store --example destroy [snapshots]`

use std::{
    error::Error,
    io::Write,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use store::{Disk, Live, Name, Open, Result as StoreResult, Serving, Sr, Switch, testing};

const BLOCK: u64 = 4096;
const DISK_BYTES: u64 = 8 << 30;
const SNAPSHOTS: usize = 200;
/// Destroyed of those: every twentieth.
const STEP: usize = 20;

/// What is written between two snapshots.
#[derive(Clone, Copy)]
enum Between {
    /// So many blocks, side by side.
    Run(u64),
    /// One block in so many bytes, over the whole disk.
    Everywhere(u64),
}

fn main() -> Result<(), Box<dyn Error>> {
    let count = std::env::args().nth(1).map_or(Ok(SNAPSHOTS), |text| text.parse())?;
    for (label, between) in [
        ("64 blocks side by side", Between::Run(64)),
        ("one block in 16 MiB", Between::Everywhere(16 << 20)),
    ] {
        for busy in [false, true] {
            let state = if busy { "busy" } else { "idle" };
            let line = measure(count, between, busy)?;
            writeln!(std::io::stdout(), "{label} between two of {count}, {state} disk: {line}")?;
        }
    }
    Ok(())
}

fn measure(count: usize, between: Between, busy: bool) -> Result<String, Box<dyn Error>> {
    let fixture = testing::Fixture::new(3 << 30);
    let sr = &fixture.sr;
    let key = testing::create(sr, i64::try_from(DISK_BYTES)?);
    let (to_disk, asked) = channel();
    let (answered, answers) = channel();
    let mut live = Distant { to_disk, answers };
    let writing = AtomicBool::new(false);
    thread::scope(|scope| {
        let writing = &writing;
        let key = &key;
        let server = scope.spawn(move || serve(open(sr, key)?, &asked, &answered, writing));
        // All pages of the map exist.
        live.ask(Ask::Write(Between::Everywhere(4 << 20), 0))?;
        let mut chance = 1_u64;
        let mut snapshots = Vec::new();
        for _ in 0..count {
            live.ask(Ask::Write(between, chance))?;
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            snapshots.push(sr.lock().unwrap().snapshot_volume(key.as_str(), &mut live)?.key);
        }
        writing.store(busy, Ordering::Relaxed);
        let (mut times, mut windows) = (Vec::new(), Vec::new());
        for snapshot in snapshots.iter().skip(STEP / 2).step_by(STEP) {
            thread::sleep(Duration::from_millis(50));
            let start = Instant::now();
            sr.lock().unwrap().destroy_volume(snapshot.as_str(), &mut live)?;
            times.push(start.elapsed());
            windows.push((start, Instant::now()));
        }
        thread::sleep(Duration::from_millis(50));
        drop(live);
        let pauses = server.join().map_err(|_| "the disk's thread panicked")??;
        let hit: Vec<Duration> = windows
            .iter()
            .map(|&(start, end)| {
                let during =
                    pauses.iter().filter(|(at, length)| *at < end && *at + *length > start);
                during.map(|&(_, length)| length).max().unwrap_or_default()
            })
            .collect();
        let wrong = sr.lock().unwrap().check()?;
        assert!(wrong.is_empty(), "{wrong:?}");
        Ok(format!("{}; longest write meanwhile {}", summary(times), summary(hit)))
    })
}

fn summary(mut times: Vec<Duration>) -> String {
    times.sort();
    let of = |time: Duration| time.as_secs_f64() * 1e3;
    let (middle, last) = (times[times.len() / 2], times[times.len() - 1]);
    format!("median {:.2} ms, slowest {:.2} ms", of(middle), of(last))
}

fn open(sr: &Sr, key: &Name) -> StoreResult<Disk> {
    let serving =
        Serving { pid: std::process::id(), control_dir: String::new(), minor: 0, read_only: false };
    Disk::open(&sr.layout().volume(key), &Open { serving })
}

/// What the disk's thread is asked for, between two writes.
enum Ask {
    Write(Between, u64),
    Switch(Switch),
    Sole,
}

struct Distant {
    to_disk: Sender<Ask>,
    answers: Receiver<StoreResult<()>>,
}

impl Distant {
    fn ask(&self, ask: Ask) -> StoreResult<()> {
        self.to_disk.send(ask).expect("the disk's thread lives");
        self.answers.recv().expect("the disk's thread lives")
    }
}

impl Live for Distant {
    fn switch(&mut self, _: &Name, _: &Serving, switch: &Switch) -> StoreResult<()> {
        self.ask(Ask::Switch(switch.clone()))
    }

    fn sole(&mut self, _: &Name, _: &Serving) -> StoreResult<()> {
        self.ask(Ask::Sole)
    }
}

/// Obeys until nobody can ask any more, and writes meanwhile if it is to; when each write that took
/// long began, and how long it took.
fn serve(
    mut disk: Disk,
    asked: &Receiver<Ask>,
    answered: &Sender<StoreResult<()>>,
    writing: &AtomicBool,
) -> StoreResult<Vec<(Instant, Duration)>> {
    let mut pauses = Vec::new();
    let mut chance = 1_u64;
    let mut last = Instant::now();
    loop {
        let ask = if writing.load(Ordering::Relaxed) {
            match asked.try_recv() {
                Ok(ask) => Some(ask),
                Err(std::sync::mpsc::TryRecvError::Empty) => None,
                Err(_) => return Ok(pauses),
            }
        } else {
            last = Instant::now();
            match asked.recv_timeout(Duration::from_millis(1)) {
                Ok(ask) => Some(ask),
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => continue,
                Err(_) => return Ok(pauses),
            }
        };
        if let Some(ask) = ask {
            let done = match ask {
                Ask::Write(between, chance) => write(&mut disk, between, chance),
                Ask::Switch(switch) => disk.switch(&switch),
                Ask::Sole => disk.reload_sole(),
            };
            answered.send(done).expect("whoever asked waits");
            continue;
        }
        // Within 64 MiB: what is written beside the measurement stays small.
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        disk.write((chance >> 40) % (16 << 10) * BLOCK, &[2; 4096])?;
        let now = Instant::now();
        // From the end of one write to the end of the next, whatever came between.
        if now - last > Duration::from_micros(50) {
            pauses.push((last, now - last));
        }
        last = now;
    }
}

fn write(disk: &mut Disk, between: Between, chance: u64) -> StoreResult<()> {
    match between {
        Between::Run(blocks) => {
            let at = (chance >> 20) % (DISK_BYTES / BLOCK - blocks);
            disk.write(at * BLOCK, &vec![3; usize::try_from(blocks * BLOCK).expect("few")])
        }
        Between::Everywhere(distance) => {
            for at in (0..DISK_BYTES).step_by(usize::try_from(distance).expect("64-bit host")) {
                let inside = (chance >> 20).wrapping_add(at >> 7) % (4 << 10);
                disk.write(at + inside / 4 * BLOCK, &[3; 4096])?;
            }
            Ok(())
        }
    }
}
