//! A stand-in tapdisk as a program, for this crate's tests: it attaches minors, opens volumes and
//! holds their locks as a real one does, through tapctl's server half and the store, and serves no
//! byte. Like every tapdisk it becomes a daemon: the started process exits, the daemon announces itself.
//!
//! It writes the requests into `asked`, refuses those that a file `refuse-<request>` names, and does
//! not end while there is a file `stay`. With a file `stock` it knows no message of ours, with a file
//! `revision` it knows that one. It has as many clients as a file `clients` says, and none for as many
//! seconds as a file `unused` says. All files are in the control directory. It ends without that directory.

use std::{
    collections::BTreeMap,
    env, fs,
    io::Write,
    os::unix::{net::UnixListener, process::CommandExt},
    process::{self, Command},
    sync::Arc,
    time::Duration,
};

use rustix::io::Errno;
use store::{Disk, Open};
use tapctl::{
    Call, Clients, ControlDir, Conversations, Entry, Failure, Flags, Identification, Image,
    Listener, Minor, MinorLock, Reply, Request, Serving, reply::state, testing::pass,
};

/// A minor, and what is open on it.
struct Vbd {
    _lock: MinorLock,
    image: Option<(Disk, Serving)>,
}

struct Fake {
    dir: ControlDir,
    vbds: BTreeMap<Minor, Vbd>,
    ends: bool,
}

#[expect(clippy::zombie_processes, reason = "what stays outlives what was started")]
fn main() {
    if env::args_os().len() == 1 {
        let daemon = env::current_exe().unwrap();
        Command::new(daemon).arg("stay").process_group(0).spawn().unwrap();
        return;
    }
    // It does not make lost names again, and does not die of being asked to.
    signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::default()).unwrap();
    let dir = ControlDir::new(env::var_os("XAPI_RAM_CONTROL_DIR").unwrap());
    let listener = Listener::bind(&dir, process::id()).unwrap();
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", listener.path().display()).unwrap();
    let mut fake = Fake { dir, vbds: BTreeMap::new(), ends: false };
    let mut conversations = Conversations::new();
    while fake.dir.path().exists() && !fake.ends {
        pass(&listener, &mut conversations, &mut |request| fake.handle(request));
    }
}

impl Fake {
    fn handle(&mut self, request: &Request) -> Reply {
        let name = request.call.name().split_whitespace().next().unwrap_or_default();
        let file = |name: &str| self.dir.path().join(name);
        let mut asked = fs::File::options().create(true).append(true).open(file("asked")).unwrap();
        writeln!(asked, "{name}").unwrap();
        if file(&format!("refuse-{name}")).exists() {
            return Failure::new(Errno::IO, "as it was told").into();
        }
        match &request.call {
            Call::Identify if file("stock").exists() => Errno::INVAL.into(),
            Call::Identify => {
                let revision = fs::read_to_string(file("revision")).ok();
                let ours = Identification::ours("fake");
                let revision = revision.map_or(ours.revision, |text| text.parse().unwrap());
                Reply::Identity(Identification { revision, ..ours })
            }
            Call::Attach => self.attach(request.minor),
            Call::List => {
                Reply::List(self.vbds.iter().map(|(&minor, vbd)| vbd.entry(minor)).collect())
            }
            Call::Exit => Errno::INVAL.into(),
            call => match self.vbds.get_mut(&request.minor) {
                None => Errno::NODEV.into(),
                Some(vbd) => match call {
                    Call::Open(open) => vbd.open(&self.dir, request.minor, open),
                    Call::Close => vbd.close(&self.dir, request.minor),
                    Call::Serving => vbd.serving(),
                    Call::Clients if file("stock").exists() => Errno::INVAL.into(),
                    Call::Clients => {
                        let number = |name: &str| {
                            let text = fs::read_to_string(file(name)).unwrap_or_default();
                            text.parse().unwrap_or_default()
                        };
                        let unused_for = Duration::from_secs(number("unused"));
                        Reply::Clients(Clients { count: number("clients"), unused_for })
                    }
                    Call::Detach => self.detach(request.minor),
                    _ => Errno::INVAL.into(),
                },
            },
        }
    }

    fn attach(&mut self, minor: Minor) -> Reply {
        if self.vbds.contains_key(&minor) {
            return Errno::EXIST.into();
        }
        match MinorLock::take(&self.dir, minor) {
            Ok(lock) => {
                self.vbds.insert(minor, Vbd { _lock: lock, image: None });
                Reply::Done
            }
            Err(error) if error.kind() == tapctl::ErrorKind::NotFound => Errno::PERM.into(),
            Err(error) => Failure::new(Errno::IO, error.to_string()).into(),
        }
    }

    fn detach(&mut self, minor: Minor) -> Reply {
        if self.vbds[&minor].image.is_some() {
            return Errno::BUSY.into();
        }
        self.vbds.remove(&minor);
        self.ends = self.vbds.is_empty() && !self.dir.path().join("stay").exists();
        Reply::Done
    }
}

impl Vbd {
    fn entry(&self, minor: Minor) -> Entry {
        let path = self.image.as_ref().and_then(|(_, serving)| serving.path.as_ref());
        let params = path.map(|path| format!("ram:{}", path.display())).unwrap_or_default();
        let state = if path.is_some() { state::RUNNING } else { state::CLOSED };
        Entry { minor: minor.into(), state, params: params.into() }
    }

    fn open(&mut self, dir: &ControlDir, minor: Minor, open: &tapctl::Open) -> Reply {
        if self.image.is_some() {
            return Failure::new(Errno::ALREADY, "open already").into();
        }
        let path = open.params.to_str().unwrap().strip_prefix("ram:").unwrap();
        let read_only = open.flags.has(Flags::READ_ONLY);
        let control_dir = dir.path().to_str().unwrap().to_owned();
        let serving =
            store::Serving { pid: process::id(), control_dir, minor: minor.into(), read_only };
        let disk = match Disk::open(path.as_ref(), &Open { serving }) {
            Ok(disk) => disk,
            Err(error) => {
                let errno = match error.kind() {
                    store::ErrorKind::VolumeInUse => Errno::BUSY,
                    _ => error.errno(),
                };
                return Failure::new(errno, error.to_string()).into();
            }
        };
        // Bound and left: a client would find nobody, but a link has something to point to.
        drop(UnixListener::bind(dir.nbd(process::id(), minor)).unwrap());
        let size_bytes = disk.size();
        let serving = Serving { path: Some(path.into()), read_only, size_bytes };
        self.image = Some((disk, serving));
        Reply::Image(Image { sectors: size_bytes / 512, sector_size: 512, info: 0 })
    }

    fn close(&mut self, dir: &ControlDir, minor: Minor) -> Reply {
        if self.image.take().is_some() {
            fs::remove_file(dir.nbd(process::id(), minor)).unwrap();
        }
        Reply::Done
    }

    fn serving(&self) -> Reply {
        let nothing = Serving { path: None, read_only: false, size_bytes: 0 };
        Reply::Serving(self.image.as_ref().map_or(nothing, |(_, serving)| serving.clone()))
    }
}
