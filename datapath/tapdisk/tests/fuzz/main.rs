//! An adversary against the real program and its real loop: messages and NBD sessions that are
//! random or almost right. It is after panics, hangs, and effects on a disk that was not meant: a
//! canary in the same process is read all the time. The sequence is the same each time; how far it
//! gets is a matter of time (`FUZZ_SECONDS`, default 3 for each test).

mod volume;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nbd::client::{Client as Nbd, Wish};
use tapctl::{Client, ControlDir, Identity, Open, message::MESSAGE_BYTES, minors};

/// The minor that is left alone.
const CANARY: u16 = 5;

const IMAGE_BYTES: u64 = 64 << 10;

/// How long anybody is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A process with minors 0 to 5, of which the last is the canary.
struct Target {
    root: scratch::Scratch,
    dir: ControlDir,
    pid: u32,
    process: Child,
    server: Identity,
}

impl Target {
    fn start() -> Self {
        let root = scratch::Scratch::on_disk();
        let dir = ControlDir::new(root.path().join("ctl"));
        for _ in 0..=CANARY {
            minors::allocate(&dir, PATIENCE).unwrap();
        }
        let mut process = Command::new(env!("CARGO_BIN_EXE_tapdisk-ram"))
            .arg("serve")
            .env("XAPI_RAM_CONTROL_DIR", dir.path())
            .env("XAPI_RAM_SYSLOG", "/dev/null")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "{line:?}");
        let pid = process.id();
        fs::write(root.path().join("canary"), vec![0xca; IMAGE_BYTES as usize]).unwrap();
        fs::write(root.path().join("image"), vec![0x11; IMAGE_BYTES as usize]).unwrap();
        let keeper = Identity::of(pid).unwrap().unwrap();
        let server = keeper.servers().unwrap().pop().unwrap();
        let target = Self { root, dir, pid, process, server };
        target.client().attach(CANARY).unwrap();
        target.client().open(CANARY, Open::new(target.params("canary"))).unwrap();
        target
    }

    fn client(&self) -> Client {
        Client::new(&self.dir, self.pid).timeout(PATIENCE)
    }

    fn params(&self, name: &str) -> String {
        format!("ram:{}", self.root.path().join(name).display())
    }

    /// The process lives, answers, and has not touched the canary.
    fn check(&mut self, after: &str) {
        let ended = self.process.try_wait().unwrap();
        assert!(ended.is_none(), "it ended ({ended:?}) after {after}");
        assert_eq!(self.client().pid().unwrap(), self.pid);
        // A successor would hide the death of a server.
        assert!(self.server.is_same(), "the server has died after {after}");
        let listed = self.client().list().unwrap();
        let canary = listed.iter().find(|vbd| vbd.minor == i32::from(CANARY)).unwrap();
        assert_eq!(canary.state, 0, "after {after}");
        let mut nbd = Nbd::connect(self.dir.nbd(self.pid, CANARY), &Wish::default()).unwrap();
        nbd.socket().set_read_timeout(Some(PATIENCE)).unwrap();
        let length = u32::try_from(IMAGE_BYTES).unwrap();
        assert!(nbd.read(0, length).unwrap().iter().all(|&byte| byte == 0xca), "after {after}");
        nbd.disconnect().unwrap();
    }

    /// Ends it as an administrator would: no panic, and nothing left.
    fn end(mut self) {
        self.check("everything");
        for vbd in self.client().list().unwrap() {
            let minor = u16::try_from(vbd.minor).unwrap();
            self.client().close(minor).unwrap();
            self.client().detach(minor).unwrap();
        }
        assert!(self.process.wait().unwrap().success());
        let left: Vec<_> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name.to_string_lossy().contains(&self.pid.to_string()))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Ended already where the test has gone well.
        if let Ok(Some(identity)) = Identity::of(self.pid) {
            let _ended = identity.kill();
        }
        let _waited_for = self.process.wait();
    }
}

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
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// What is committed, in the order of its names.
fn corpus(kind: &str) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(kind);
    let mut paths: Vec<PathBuf> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() > 5, "a corpus of {kind}");
    paths
        .into_iter()
        .map(|path| {
            (path.file_stem().unwrap().to_string_lossy().into_owned(), fs::read(path).unwrap())
        })
        .collect()
}

fn end() -> Instant {
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    Instant::now() + Duration::from_secs(seconds.unwrap_or(3))
}

/// Damages bytes in a few ways.
fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..random.below(4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            2 => bytes.truncate(at),
            3 => bytes.extend((0..random.below(600)).map(|index| index as u8)),
            4 => {
                let count = random.below(16).min(bytes.len() - at);
                for byte in &mut bytes[at..at + count] {
                    *byte = (random.0 >> 17) as u8;
                    random.next();
                }
            }
            _ => {
                let from = random.below(bytes.len());
                let copy = bytes[from..bytes.len().min(from + 40)].to_vec();
                bytes.splice(at..at, copy);
            }
        }
    }
}

/// Sends bytes, all at once or in two parts, and reads what comes until it ends, if at all.
fn exchange(
    random: &mut Random,
    path: &Path,
    bytes: &[u8],
    hanging: &mut Vec<UnixStream>,
) -> Vec<u8> {
    let Ok(mut socket) = UnixStream::connect(path) else { return Vec::new() };
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    let cut = random.below(bytes.len() + 1);
    let sent = socket.write_all(&bytes[..cut]).and_then(|()| socket.write_all(&bytes[cut..]));
    if sent.is_err() || random.one_in(8) {
        // It reads no answer, and stays for a while.
        hanging.push(socket);
        while hanging.len() > 20 {
            hanging.remove(random.below(20));
        }
        return Vec::new();
    }
    let _gone = socket.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    if let Err(error) = socket.read_to_end(&mut answer) {
        // The other side may close with something unread, but it never leaves us waiting.
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
    answer
}

#[test]
fn control_messages() {
    let mut target = Target::start();
    let corpus = corpus("control");
    assert!(corpus.iter().all(|(name, bytes)| bytes.len() == MESSAGE_BYTES || panic!("{name}")));
    let (mut random, mut hanging, mut sent) = (Random(1), Vec::new(), 0_u64);
    let control = target.dir.ctl(target.pid);
    let image = target.params("image");
    let end = end();
    while Instant::now() < end {
        let (name, message) = &corpus[random.below(corpus.len())];
        let mut bytes = message.clone();
        // Mostly something that exists, so that it gets beyond the first check.
        if !random.one_in(4) && matches!(bytes[0], 7 | 11) && bytes[20] != 0 && bytes[20] != b'x' {
            bytes[20..276].fill(0);
            bytes[20..20 + image.len()].copy_from_slice(image.as_bytes());
        }
        if !random.one_in(4) {
            let minor = u16::try_from(random.below(5)).unwrap();
            bytes[2..4].copy_from_slice(&minor.to_ne_bytes());
        }
        if random.one_in(2) {
            mutate(&mut random, &mut bytes);
        }
        if random.one_in(20) {
            bytes =
                (0..random.below(2 * MESSAGE_BYTES)).map(|_| (random.next() >> 33) as u8).collect();
        }
        if bytes.get(2..4) == Some(&CANARY.to_ne_bytes()) {
            bytes[2] ^= 1;
        }
        let answer = exchange(&mut random, &control, &bytes, &mut hanging);
        let kind = answer.first_chunk().map(|kind| u16::from_ne_bytes(*kind));
        match kind {
            None => {}
            // STATS: as many bytes of JSON as it says.
            Some(22) => assert_eq!(
                answer.len() as u64,
                MESSAGE_BYTES as u64 + u64::from_ne_bytes(answer[16..24].try_into().unwrap())
            ),
            Some(20) => assert!(answer.len().is_multiple_of(MESSAGE_BYTES) && !answer.is_empty()),
            Some(_) => assert_eq!(answer.len(), MESSAGE_BYTES, "the answer to {name}"),
        }
        sent += 1;
        if sent % 256 == 0 {
            target.check(name);
        }
    }
    assert!(sent > 200, "{sent} messages are no test");
    drop(hanging);
    target.end();
}

#[test]
fn nbd_sessions() {
    let mut target = Target::start();
    let corpus = corpus("nbd");
    target.client().attach(0).unwrap();
    target.client().open(0, Open::new(target.params("image"))).unwrap();
    let (mut random, mut hanging, mut sent) = (Random(2), Vec::new(), 0_u64);
    let doors = [target.dir.nbd(target.pid, 0), target.dir.nbd_old(target.pid, 0)];
    let end = end();
    while Instant::now() < end {
        let (name, session) = &corpus[random.below(corpus.len())];
        let mut bytes = session.clone();
        mutate(&mut random, &mut bytes);
        let door = &doors[random.below(doors.len())];
        let answer = exchange(&mut random, door, &bytes, &mut hanging);
        assert!(answer.is_empty() || answer.starts_with(b"NBDMAGIC"), "{name}");
        sent += 1;
        if sent % 256 == 0 {
            target.check(name);
        }
        // Others pause, resume and close it meanwhile.
        match random.below(200) {
            0 => {
                target.client().pause(0).unwrap();
                for _ in 0..5 {
                    let mut socket = UnixStream::connect(door).unwrap();
                    socket.write_all(&bytes).unwrap();
                    hanging.push(socket);
                }
                target.client().resume(0, tapctl::Resume::default()).unwrap();
            }
            1 => {
                target.client().close(0).unwrap();
                target.client().open(0, Open::new(target.params("image"))).unwrap();
            }
            _ => {}
        }
    }
    assert!(sent > 100, "{sent} sessions are no test");
    drop(hanging);
    target.end();
}
