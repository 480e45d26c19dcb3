//! Volumes that change while a tapdisk serves them: one that is a real disk behind a real control
//! socket, and ones that are gone, strangers, hung, or refuse.

use std::{
    io::{Read, Write},
    ops::Deref,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    sync::mpsc,
    time::{Duration, Instant},
};

use store::{Disk, Open};
use tapctl::{
    Call, Reply, Request,
    message::{MESSAGE_BYTES, Raw},
    testing::StandIn,
};

use super::*;

const PID: u32 = 4_000_000;
const MINOR: u16 = 3;
const BYTES: u64 = 1 << 20;

/// An SR with one volume, and a directory for control sockets.
struct Fixture {
    store: store::testing::Fixture,
    key: Name,
}

impl Deref for Fixture {
    type Target = store::testing::Fixture;

    fn deref(&self) -> &Self::Target {
        &self.store
    }
}

impl Fixture {
    fn new() -> Self {
        let store = store::testing::Fixture::new(64 << 20);
        let key = store::testing::create(&store.sr, i64::try_from(BYTES).unwrap());
        let fixture = Self { store, key };
        std::fs::create_dir(fixture.control_dir().path()).unwrap();
        fixture
    }

    fn control_dir(&self) -> ControlDir {
        ControlDir::new(self.root().join(".control"))
    }

    fn path(&self) -> PathBuf {
        self.sr.layout().volume(&self.key)
    }

    /// What process `PID` says of itself.
    fn serving(&self) -> Serving {
        let control_dir = self.control_dir().path().to_str().unwrap().to_owned();
        Serving { pid: PID, control_dir, minor: MINOR.into(), read_only: false }
    }

    /// The bytes of a volume that nobody serves.
    fn byte(&self, key: &Name, offset: u64) -> u8 {
        let path = self.sr.layout().volume(key);
        let open = Open { serving: Serving { read_only: true, ..self.serving() } };
        let mut byte = [0xee];
        let mut disk = Disk::open(&path, &open).unwrap();
        disk.read_into(offset, &mut byte).unwrap();
        byte[0]
    }
}

/// What a tapdisk is told to do beside what clients ask.
type Errand = Box<dyn FnOnce(&mut Disk) + Send>;

/// A process that serves the volume: a disk behind the control socket of a stand-in tapdisk.
struct Tapdisk {
    errands: mpsc::Sender<Errand>,
    control: Client,
    _stand_in: StandIn,
}

impl Tapdisk {
    fn start(fixture: &Fixture) -> Self {
        let (errands, received) = mpsc::channel::<Errand>();
        let (path, serving) = (fixture.path(), fixture.serving());
        // The disk stays in the thread that opens it.
        let stand_in = StandIn::start_with(&fixture.control_dir(), PID, move || {
            let mut disk = Disk::open(&path, &Open { serving }).unwrap();
            move |request: &Request| {
                while let Ok(errand) = received.try_recv() {
                    errand(&mut disk);
                }
                answer(&mut disk, &path, request)
            }
        });
        let control = Client::new(&fixture.control_dir(), PID);
        Self { errands, control, _stand_in: stand_in }
    }

    /// Has it do something with the disk before it answers the next request.
    fn errand(&self, errand: impl FnOnce(&mut Disk) + Send + 'static) {
        self.errands.send(Box::new(errand)).unwrap();
    }

    /// Has it do its errands, and ends it.
    fn end(self) {
        assert_eq!(self.control.pid().unwrap(), PID);
    }
}

fn answer(disk: &mut Disk, path: &Path, request: &Request) -> Reply {
    match &request.call {
        Call::Pid => return Reply::Pid(PID.try_into().unwrap()),
        _ => assert_eq!(request.minor, MINOR),
    }
    match &request.call {
        Call::Serving => Reply::Serving(tapctl::Serving {
            path: Some(path.to_owned()),
            read_only: disk.read_only(),
            size_bytes: disk.size(),
        }),
        Call::Switch(switch) => {
            let switch = Switch { top: switch.new_top, index: switch.index.clone() };
            disk.switch(&switch).unwrap();
            Reply::Done
        }
        Call::Sole => {
            disk.reload_sole().unwrap();
            Reply::Done
        }
        Call::Resize { size_bytes } => {
            disk.resize(*size_bytes).unwrap();
            Reply::Done
        }
        call => panic!("{call:?}"),
    }
}

#[test]
fn a_snapshot_of_a_disk_that_is_served_keeps_what_was_written_before_it() {
    let log = &smapiv3_plugin::testing::log();
    let fixture = Fixture::new();
    let tapdisk = Tapdisk::start(&fixture);
    let mut live = Tapdisks::new(&fixture.sr, log);
    let key = fixture.key.as_str();
    tapdisk.errand(|disk| disk.write(4096, &[2; 4096]).unwrap());
    let snapshot = fixture.lock().snapshot_volume(key, &mut live).unwrap();
    tapdisk.errand(|disk| disk.write(0, &[3; 8192]).unwrap());
    let clone = fixture.lock().clone_volume(key, &mut live).unwrap();
    tapdisk.errand(|disk| disk.write(0, &[4; 4096]).unwrap());
    fixture.lock().destroy_volume(snapshot.key.as_str(), &mut live).unwrap();
    let again = fixture.lock().snapshot_volume(key, &mut live).unwrap();
    let bytes = |key: &Name| (fixture.byte(key, 0), fixture.byte(key, 4096));
    assert_eq!((bytes(&clone.key), bytes(&again.key)), ((3, 3), (4, 3)));
    tapdisk.end();
    assert_eq!(bytes(&fixture.key), (4, 3));
    assert_eq!(fixture.lock().check().unwrap(), [""; 0]);
}

#[test]
fn a_disk_that_is_served_grows() {
    let log = &smapiv3_plugin::testing::log();
    let fixture = Fixture::new();
    let tapdisk = Tapdisk::start(&fixture);
    let size = fixture.lock().resize_volume(fixture.key.as_str(), 2 << 20).unwrap();
    Tapdisks::new(&fixture.sr, log).resize(&fixture.key, size).unwrap();
    tapdisk.errand(|disk| disk.write((2 << 20) - 4096, &[5; 4096]).unwrap());
    tapdisk.end();
    assert_eq!(fixture.byte(&fixture.key, (2 << 20) - 1), 5);
    // No process serves the volume any more, so no process has to be told.
    Tapdisks::new(&fixture.sr, log).resize(&fixture.key, size).unwrap();
}

/// Takes a snapshot of a volume that `PID` serves as far as its lock says, while `behave` answers
/// the one client that may come; the error, and what can still be done with the volume.
fn with_broken(behave: impl FnOnce(UnixListener, PathBuf) + Send + 'static) -> Error {
    let log = &smapiv3_plugin::testing::log();
    let fixture = Fixture::new();
    let open = Open { serving: fixture.serving() };
    let mut disk = Disk::open(&fixture.path(), &open).unwrap();
    disk.write(0, &[1; 4096]).unwrap();
    let listener = UnixListener::bind(fixture.control_dir().ctl(PID)).unwrap();
    let path = fixture.path();
    let thread = std::thread::spawn(move || behave(listener, path));
    let mut live = Tapdisks::new(&fixture.sr, log).timeout(Duration::from_millis(200));
    let started = Instant::now();
    let error = fixture.lock().snapshot_volume(fixture.key.as_str(), &mut live).unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert_eq!(fixture.sr.volumes().unwrap().len(), 1, "no snapshot was made");
    disk.write(0, &[2; 4096]).unwrap();
    drop(disk);
    assert_eq!(fixture.byte(&fixture.key, 0), 2);
    assert_eq!(fixture.lock().check().unwrap(), [""; 0]);
    fixture.lock().snapshot_volume(fixture.key.as_str(), &mut live).unwrap();
    assert_eq!(fixture.lock().check().unwrap(), [""; 0]);
    thread.join().unwrap();
    error
}

/// Answers one request.
fn respond(listener: &UnixListener, reply: impl FnOnce(&Request) -> Reply) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut bytes = [0; MESSAGE_BYTES];
    stream.read_exact(&mut bytes).unwrap();
    let request = Request::parse(&Raw::from_bytes(bytes)).unwrap();
    stream.write_all(&reply(&request).encode(&request)).unwrap();
}

fn serving(path: PathBuf) -> Reply {
    Reply::Serving(tapctl::Serving { path: Some(path), read_only: false, size_bytes: BYTES })
}

#[test]
fn what_a_tapdisk_refuses_leaves_the_volume_as_it_was() {
    let error = with_broken(|listener, path| {
        respond(&listener, |_| serving(path));
        respond(&listener, |request| {
            assert!(matches!(request.call, Call::Switch(_)));
            Reply::Error(tapctl::Failure::new(rustix::io::Errno::NOSPC, "no room for the index"))
        });
    });
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(error.to_string().contains("no room for the index"), "{error}");
}

#[test]
fn a_stranger_is_not_told_to_switch() {
    let error = with_broken(|listener, _| respond(&listener, |_| serving("/another".into())));
    assert_eq!(error.kind(), ErrorKind::Unresponsive);
    assert!(error.to_string().contains("serves something else"), "{error}");
}

#[test]
fn a_tapdisk_that_was_paused_meanwhile_is_no_refusal() {
    let error = with_broken(|listener, path| {
        respond(&listener, |_| serving(path));
        respond(&listener, |_| Reply::Error(rustix::io::Errno::AGAIN.into()));
    });
    assert_eq!(error.kind(), ErrorKind::Unresponsive, "{error}");
}

#[test]
fn a_process_that_is_gone_or_hung_is_no_refusal() {
    let gone = with_broken(|listener, _| drop(listener));
    let hung = with_broken(|listener, path| {
        respond(&listener, |_| serving(path));
        std::thread::sleep(Duration::from_millis(400));
    });
    for error in [gone, hung] {
        assert_eq!(error.kind(), ErrorKind::Unresponsive, "{error}");
    }
}
