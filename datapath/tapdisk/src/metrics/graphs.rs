//! The graphs of the SRs whose disks this process serves: a thread of its own, which knows of the disks what
//! the files in shared memory say, and waits for xenstore where it has to.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use blkif::{Xen, mock::MockXen};
use graphs::{Elected, GuestDisk, INTERVAL, Space};
use smapiv3_syslog::{Severity, Syslog};
use store::{Host, Sr};
use tapctl::MetricsDir;

/// How often the thread looks whether disks have come or gone.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// It calls few functions with small frames.
const STACK_BYTES: usize = 256 << 10;
/// How many guests' disks are remembered before all of them are asked for anew.
const GUESTS_MAX: usize = 1024;

/// What the thread has to know.
pub(crate) struct Setup {
    /// The number under which disks are served.
    pub(crate) pid: u32,
    pub(crate) dir: MetricsDir,
    pub(crate) host: Host,
    pub(crate) mock_xen: Option<PathBuf>,
    pub(crate) log: Syslog,
}

/// Starts the thread, which ends with the process.
pub(crate) fn start(setup: Setup) -> io::Result<()> {
    let thread = thread::Builder::new().name("graphs".into()).stack_size(STACK_BYTES);
    thread.spawn(move || run(&setup)).map(drop)
}

fn run(setup: &Setup) {
    let xen: Box<dyn Xen> = match &setup.mock_xen {
        Some(guests) => Box::new(MockXen::new(guests)),
        None => Box::new(xen::Host::default()),
    };
    let mut guests = Guests { xen, known: BTreeMap::new() };
    let mut elected: BTreeMap<String, Elected> = BTreeMap::new();
    let mut failed = Failed::default();
    let mut due = Instant::now();
    loop {
        let served: BTreeSet<String> =
            setup.dir.served_by(setup.pid).into_iter().map(|(_, sr)| sr).collect();
        // What is not served any more is written by another process, which can have the lock now.
        elected.retain(|sr, _| served.contains(sr));
        for sr in &served {
            if elected.contains_key(sr) {
                continue;
            }
            match Elected::take(&setup.dir, sr) {
                Ok(writer) => elected.extend(writer.map(|writer| (sr.clone(), writer))),
                Err(error) => _ = failed.tell(setup, sr, &error),
            }
        }
        if due <= Instant::now() {
            due = Instant::now() + INTERVAL;
            elected.retain(|sr, writer| match write(setup, sr, writer, &mut guests) {
                Ok(is_ours) => is_ours,
                Err(error) => failed.tell(setup, sr, &error),
            });
        }
        thread::sleep(LOOK_INTERVAL);
    }
}

/// Writes the file of an SR; whether it is the SR's still.
fn write(
    setup: &Setup,
    sr: &str,
    writer: &mut Elected,
    guests: &mut Guests,
) -> Result<bool, Box<dyn std::error::Error>> {
    let (used, free) = Sr::open(&setup.host, sr)?.space()?;
    let guest = &mut |domid, devid| guests.disk(domid, devid);
    Ok(writer.write(Space { used, free }, guest)?)
}

/// The SRs whose graphs could not be written. That is told once, and not every few seconds.
#[derive(Default)]
struct Failed(BTreeSet<String>);

impl Failed {
    /// Whether to go on: no.
    fn tell(&mut self, setup: &Setup, sr: &str, error: &dyn fmt::Display) -> bool {
        if self.0.insert(sr.to_owned()) {
            setup.log.send(Severity::Warning, format_args!("graphs of SR {sr}: {error}"));
        }
        false
    }
}

/// The guests that are known by their numbers.
struct Guests {
    xen: Box<dyn Xen>,
    known: BTreeMap<(u32, u32), GuestDisk>,
}

impl Guests {
    /// Whose disk a ring is. One that xenstore does not tell has no graphs until it does.
    fn disk(&mut self, domid: u32, devid: u32) -> Option<GuestDisk> {
        if let Some(known) = self.known.get(&(domid, devid)) {
            return Some(known.clone());
        }
        let [machine, device] = self.xen.guest_disk(domid, devid).ok()?;
        if self.known.len() >= GUESTS_MAX {
            self.known.clear();
        }
        let disk = GuestDisk { machine, device };
        self.known.insert((domid, devid), disk.clone());
        Some(disk)
    }
}
