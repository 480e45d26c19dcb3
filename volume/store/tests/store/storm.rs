//! Callers that do every operation on the same volumes at the same time, each in a process of its own, and
//! some of them killed at any step. Whatever they leave, the SR is sound, its count is right, and once
//! all volumes but one are destroyed, which no caller touches, it takes no memory beside that one, to the
//! page, without a collection being asked for. After a kill the next operation collects garbage, so every
//! other part goes without kills, and without operations that collect.
//!
//! `STORE_STORM_SECONDS` makes it last longer, `STORE_SEED` begins from other numbers.

use std::{
    env,
    io::{Read, Write},
    os::unix::{
        fs::MetadataExt,
        net::{UnixListener, UnixStream},
        process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use store::{
    Disk, Error, ErrorKind, Exclusive, Inactive, Live, Name, NewVolume, Open, PluginState, Result,
    Serving, Sr, Switch, VolumeUri,
    testing::{Fixture, attachment, counted, failpoints, host},
};

use crate::{dying::SIGKILL, numbers::Numbers, operations::other_sr};

/// Where a caller is told what to do: its seed, whether it collects, its steps, the SR root.
const TASK: &str = "STORE_STORM_TASK";
const CALLERS: u64 = 12;
/// How many processes each caller has, one after the other, unless a time is set.
const ROUNDS: u64 = 4;
/// How many operations a process does, unless it is killed.
const OPERATIONS: u64 = 30;
/// The name of the volume that stays.
const UNTOUCHED: &str = "untouched";
const SR_BYTES: u64 = 64 << 20;
/// More than two chunks.
const SIZE: i64 = (8 << 20) + 5 * 4096;
const BLOCKS: u64 = 2048;

/// Reaches the disks of all callers, by the sockets that they serve.
struct Callers;

impl Callers {
    fn ask(serving: &Serving, text: &str) -> Result<()> {
        let silent = |error: std::io::Error| Error::new(ErrorKind::Unresponsive, error.to_string());
        let mut stream = UnixStream::connect(&serving.control_dir).map_err(silent)?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(silent)?;
        stream.write_all(text.as_bytes()).map_err(silent)?;
        stream.shutdown(std::net::Shutdown::Write).map_err(silent)?;
        let mut said = String::new();
        stream.read_to_string(&mut said).map_err(silent)?;
        match &*said {
            "done" => Ok(()),
            "" => Err(Error::new(ErrorKind::Unresponsive, "it has gone")),
            refused => Err(Error::new(ErrorKind::BadArgument, refused)),
        }
    }
}

impl Live for Callers {
    fn switch(&mut self, _: &Name, serving: &Serving, switch: &Switch) -> Result<()> {
        Self::ask(serving, &format!("{}\n{}", switch.top, switch.index.display()))
    }

    fn sole(&mut self, _: &Name, serving: &Serving) -> Result<()> {
        Self::ask(serving, "")
    }
}

/// One caller.
struct Caller {
    sr: Sr,
    numbers: Numbers,
    socket: PathBuf,
    /// Whether operations that collect garbage are among its own.
    collects: bool,
}

impl Caller {
    /// The key of any volume.
    fn any(&mut self) -> Result<String> {
        let mut keys: Vec<String> = (self.sr.volumes()?.into_iter())
            .filter(|it| it.name != UNTOUCHED)
            .map(|it| it.key.to_string())
            .collect();
        if keys.is_empty() {
            return Ok("no-such-volume".to_owned());
        }
        let position = self.numbers.next(keys.len() as u64);
        Ok(keys.swap_remove(usize::try_from(position).unwrap()))
    }

    fn lock(&self) -> Exclusive<'_> {
        self.sr.lock().unwrap()
    }

    fn operate(&mut self) -> Result<()> {
        let (one, other) = (self.any()?, self.any()?);
        let live = &mut Callers;
        match self.numbers.next(if self.collects { 20 } else { 18 }) {
            0..4 => self.serve(&one),
            4 | 5 => {
                let new = NewVolume { name: "storm", description: "", size: SIZE, sharable: false };
                self.lock().create_volume(&new).map(drop)
            }
            6 | 7 => self.lock().snapshot_volume(&one, live).map(drop),
            8 => self.lock().clone_volume(&one, live).map(drop),
            9 => self.lock().revert_volume(&one, &other, live),
            10 => self.lock().compose_volumes(&one, &other, live),
            11 => self.lock().destroy_volume_data(&one, live),
            12..15 => self.lock().destroy_volume(&one, live),
            15 => self.lock().set_volume_key(&one, "key", &other),
            16 => self.lock().resize_volume(&one, SIZE + 4096).map(drop),
            17 => self.copy(&one),
            18 => self.session(&one),
            _ => self.lock().collect(live).map(drop),
        }
    }

    /// Serves a volume for a moment, writes to it, and does what others ask for.
    fn serve(&mut self, key: &str) -> Result<()> {
        let path = self.sr.layout().volume(&Name::parse(key)?);
        let _left = std::fs::remove_file(&self.socket);
        let listener = UnixListener::bind(&self.socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let control_dir = self.socket.display().to_string();
        let serving = Serving { pid: process::id(), control_dir, minor: 0, read_only: false };
        let mut disk = Disk::try_open(&path, &Open { serving })?;
        for _ in 0..self.numbers.next(60) {
            if let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(false).unwrap();
                answer(&mut disk, stream);
            }
            let (block, count) = (self.numbers.next(BLOCKS - 64), 1 + self.numbers.next(63));
            let (at, bytes) = (block * 4096, count * 4096);
            match self.numbers.next(8) {
                0 => disk.discard(at, bytes)?,
                1 => disk.write_zeroes(at, bytes, false)?,
                2 => thread::sleep(Duration::from_millis(1)),
                _ => disk.write(at, &vec![7; usize::try_from(bytes).unwrap()])?,
            }
        }
        Ok(())
    }

    fn copy(&self, key: &str) -> Result<()> {
        let there = other_sr(&host(self.sr.layout().root().parent().unwrap()));
        let copy = self.sr.copy_volume(key, &there, &mut Callers, &mut Callers)?;
        there.lock().unwrap().destroy_volume(copy.key.as_str(), &mut Callers)
    }

    /// The session of a non-persistent disk.
    fn session(&self, key: &str) -> Result<()> {
        let uri = VolumeUri { sr: self.sr.uuid().clone(), key: Name::parse(key)? };
        let host = host(self.sr.layout().root().parent().unwrap());
        let state = PluginState::lock(&host, &uri, Duration::from_secs(60))?;
        state.write(Some(b"a session"))?;
        let clone = self.sr.new_key()?;
        let begun = self.lock().clone_hidden(key, &clone, &mut Callers);
        let ended = self.lock().end_sessions(&uri.key, &mut Callers);
        state.write(None)?;
        begun.and(ended)
    }
}

/// Does to a disk what another caller asks for: a switch, or to read its sole set again.
fn answer(disk: &mut Disk, mut stream: UnixStream) {
    let mut said = String::new();
    if stream.read_to_string(&mut said).is_err() {
        return;
    }
    let done = match said.split_once('\n') {
        Some((top, index)) => {
            disk.switch(&Switch { top: top.parse().unwrap(), index: index.into() })
        }
        None => disk.reload_sole(),
    };
    let text = done.map_or_else(|error| error.to_string(), |()| "done".to_owned());
    let _dead = stream.write_all(text.as_bytes());
}

/// Whether an operation may fail so, as another caller has come before.
fn is_expected(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::VolumeMissing
            | ErrorKind::VolumeInUse
            | ErrorKind::ReadOnly
            | ErrorKind::NoData
            | ErrorKind::NoSpace
            | ErrorKind::BadArgument
            | ErrorKind::BadSize
            | ErrorKind::Busy
            | ErrorKind::Unresponsive
    )
}

#[test]
#[ignore = "no test by itself: what each of the child processes does that the test below starts"]
fn caller() {
    let Ok(task) = env::var(TASK) else { return };
    let [seed, collects, steps, root] = task.lines().collect::<Vec<_>>()[..] else {
        panic!("{task}")
    };
    let host = host(Path::new(root));
    let sr = Sr::open(&host, attachment(&host, SR_BYTES).uuid.as_str()).unwrap();
    let socket = Path::new(root).join(format!(".caller-{}", process::id()));
    let (numbers, collects) = (Numbers::new(seed.parse().unwrap()), collects == "true");
    let mut caller = Caller { sr, numbers, socket, collects };
    if let Ok(steps) = steps.parse() {
        failpoints::die_after(steps);
    }
    for _ in 0..OPERATIONS {
        match caller.operate() {
            Err(error) if !is_expected(&error) => panic!("{:?}: {}", error.kind(), error.chain()),
            _ => {}
        }
    }
    let _none = std::fs::remove_file(&caller.socket);
}

/// Runs the processes of one caller until the end; how many were killed.
fn call(root: &Path, seed: u64, with_kills: bool) -> u64 {
    let mut numbers = Numbers::new(seed);
    let mut killed = 0;
    for round in 0..ROUNDS {
        let steps = match numbers.next(2) {
            0 if with_kills => numbers.next(600).to_string(),
            _ => "as many as it likes".to_owned(),
        };
        let run = Command::new(env::current_exe().unwrap())
            .args(["--exact", "storm::caller", "--ignored", "--test-threads", "1", "--nocapture"])
            .env(
                TASK,
                format!("{}\n{with_kills}\n{steps}\n{}", numbers.next(u64::MAX), root.display()),
            )
            .stdin(Stdio::null())
            .output()
            .unwrap();
        killed += u64::from(run.status.signal() == Some(SIGKILL));
        let said = String::from_utf8_lossy(&[run.stdout, run.stderr].concat()).into_owned();
        assert!(
            run.status.success() || run.status.signal() == Some(SIGKILL),
            "seed {seed}, round {round}: {said}"
        );
    }
    killed
}

#[test]
fn a_storm_of_callers_leaves_nothing_behind() {
    let number = |name| env::var(name).ok().and_then(|it| it.parse::<u64>().ok());
    let seed = number("STORE_SEED").unwrap_or(1);
    let begun = Instant::now();
    let seconds = number("STORE_STORM_SECONDS").map(Duration::from_secs);
    let mut killed = 0;
    let mut part = 0;
    // From time to time all is destroyed, so that what a part leaves is seen.
    while part < 2 || seconds.is_some_and(|seconds| begun.elapsed() < seconds) {
        let fixture = Fixture::new(SR_BYTES);
        for sr in [&fixture.sr, &other_sr(&fixture.host)] {
            let new = NewVolume { name: UNTOUCHED, description: "", size: SIZE, sharable: false };
            sr.lock().unwrap().create_volume(&new).unwrap();
        }
        let root = fixture.root();
        let callers = |caller| seed + part * CALLERS + caller;
        killed += thread::scope(|scope| {
            let callers: Vec<_> = (0..CALLERS)
                .map(|caller| scope.spawn(move || call(root, callers(caller), part % 2 == 0)))
                .collect();
            callers.into_iter().map(|caller| caller.join().unwrap()).sum::<u64>()
        });
        let when = format!("STORE_SEED={seed}, part {part}, {killed} killed");
        assert_nothing_stays(&fixture.sr, &when);
        assert_nothing_stays(&other_sr(&fixture.host), &when);
        part += 1;
    }
    assert!(killed > 0, "some were killed");
    writeln!(std::io::stderr(), "{} processes, {killed} killed", part * CALLERS * ROUNDS).unwrap();
}

fn assert_nothing_stays(sr: &Sr, when: &str) {
    assert_eq!(sr.lock().unwrap().check().unwrap(), [""; 0], "{when}");
    let stat = sr.stat().unwrap();
    let (counted, real) = counted(sr);
    assert_eq!(counted, real, "{when}");
    assert_eq!(stat.free, stat.total.saturating_sub(real), "{when}");
    for volume in sr.volumes().unwrap().into_iter().filter(|it| it.name != UNTOUCHED) {
        sr.lock().unwrap().destroy_volume(volume.key.as_str(), &mut Inactive).unwrap();
    }
    let record = 4096;
    let stat = sr.stat().unwrap();
    assert_eq!((stat.used, stat.metadata), (0, record), "{when}: what stays in {:?}", files(sr));
}

/// The files that an SR has, but for those of an empty one, and what each takes in blocks of 512 bytes.
fn files(sr: &Sr) -> Vec<(PathBuf, u64)> {
    let below = |name: &str| sr.layout().root().join(name).read_dir().into_iter().flatten();
    ["data", "meta/volume", "meta/index", "meta/map", "meta/serving", "meta/datapath", "meta/tmp"]
        .into_iter()
        .flat_map(below)
        .map(|entry| (entry.as_ref().unwrap().path(), entry.unwrap().metadata().unwrap().blocks()))
        .collect()
}
