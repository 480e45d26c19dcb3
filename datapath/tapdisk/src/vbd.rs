//! A virtual block device: a minor, and what is open under it.

use std::{io, os::unix::net::UnixStream, path::Path, rc::Rc, time::Instant};

use nbd::{Connection, Identity, Loans, Progress};
use rustix::io::Errno;
use store::{Disk, Open};
use tapctl::{ControlDir, Failure, Minor, MinorLock, reply::state};

use crate::{
    disk::Served,
    door::{Door, Doors, Side},
    metrics::{Counts, Failed, Files},
};

/// What `<type>:<path>` begins with for what this tapdisk serves.
const TYPE: &str = "ram";

/// How many connections may wait for a paused disk's size, to be told it in an old-style greeting.
const HELD_MAX: usize = 16;

/// A minor that this process has attached.
#[derive(Debug)]
pub(crate) struct Vbd {
    pub(crate) lock: MinorLock,
    pub(crate) image: Option<Image>,
    /// Sectors read and written of what was open before.
    pub(crate) sectors_before: [u64; 2],
    /// Whether something was open and is closed.
    was_closed: bool,
}

/// What is open under a minor, running or paused.
#[derive(Debug)]
pub(crate) struct Image {
    /// `<type>:<path>`, as it was asked for.
    pub(crate) params: String,
    pub(crate) read_only: bool,
    /// `None` where a volume is paused. A loaded file stays in memory: it is nowhere else.
    pub(crate) disk: Option<Disk>,
    /// The disk's, also while it is paused.
    size_bytes: u64,
    pub(crate) paused: bool,
    /// Whether resuming has failed, and the guest waits.
    pub(crate) resume_failed: bool,
    pub(crate) doors: Doors,
    /// Connections that were passed on while the disk is paused, to be greeted in the old style.
    pub(crate) held: Vec<UnixStream>,
    pub(crate) counts: Counts,
    files: Option<Files>,
    identity: Rc<Identity>,
    pub(crate) loans: Rc<Loans>,
}

impl Vbd {
    pub(crate) fn new(lock: MinorLock) -> Self {
        Self { lock, image: None, sectors_before: [0; 2], was_closed: false }
    }

    pub(crate) fn minor(&self) -> Minor {
        self.lock.minor()
    }

    /// Its state, as LIST tells it.
    pub(crate) fn state(&self) -> u32 {
        match &self.image {
            None if self.was_closed => state::CLOSED,
            Some(image) if image.resume_failed => state::RESUME_FAILED,
            Some(image) if image.paused => state::PAUSED,
            None | Some(_) => state::RUNNING,
        }
    }

    /// Sectors read and written since it was attached.
    pub(crate) fn sectors(&self) -> [u64; 2] {
        let now = self.image.as_ref().map_or([0; 2], |image| image.counts.sectors());
        [self.sectors_before[0] + now[0], self.sectors_before[1] + now[1]]
    }

    /// Closes what is open: its names are gone, and its clients have to be by now.
    pub(crate) fn close(&mut self) {
        self.sectors_before = self.sectors();
        self.image = None;
        self.was_closed = true;
    }
}

/// The path in `ram:<path>`. As blktap: without a colon it is invalid, another type is unknown.
pub(crate) fn path_of(params: &str) -> Result<&Path, Failure> {
    match params.split_once(':') {
        Some((TYPE, path)) => Ok(Path::new(path)),
        Some((other, _)) => Err(Failure::new(
            Errno::NOENT,
            format!("{params:?} has type {other:?}, and only {TYPE}:<path> is served here"),
        )),
        None => {
            Err(Failure::new(Errno::INVAL, format!("{params:?} is not of the form {TYPE}:<path>")))
        }
    }
}

/// Opens what `params` name.
pub(crate) fn open_disk(
    dir: &ControlDir,
    minor: Minor,
    params: &str,
    read_only: bool,
) -> Result<Disk, Failure> {
    let path = path_of(params)?;
    let serving = store::Serving {
        pid: std::process::id(),
        control_dir: dir.path().to_string_lossy().into_owned(),
        minor: minor.into(),
        read_only,
    };
    Disk::open(path, &Open { serving }).map_err(|error| failure(&error))
}

/// An error of the store as the answer to a request.
pub(crate) fn failure(error: &store::Error) -> Failure {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    Failure::new(error.errno(), format!("{error}{}", cause.unwrap_or_default()))
}

impl Image {
    /// Opens a disk under a minor and listens for its clients.
    pub(crate) fn open(
        dir: &ControlDir,
        minor: Minor,
        params: &str,
        read_only: bool,
    ) -> Result<Self, Failure> {
        let disk = open_disk(dir, minor, params, read_only)?;
        let doors = Doors::open(dir, minor).map_err(|error| {
            Failure::new(Errno::from_io_error(&error).unwrap_or(Errno::IO), error.to_string())
        })?;
        let name = path_of(params)?.file_name().unwrap_or_default().to_string_lossy();
        Ok(Self {
            params: params.to_owned(),
            read_only: disk.read_only(),
            size_bytes: disk.size(),
            disk: Some(disk),
            paused: false,
            resume_failed: false,
            doors,
            held: Vec::new(),
            counts: Counts::default(),
            files: None,
            identity: Rc::new(Identity::new(&name, "RAM disk")),
            loans: Loans::new(),
        })
    }

    /// Its size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.disk.as_ref().map_or(self.size_bytes, Disk::size)
    }

    /// Lets go of the disk for others to change it, if it is anywhere but in this process.
    pub(crate) fn pause(&mut self) {
        self.loans.recall_all();
        self.paused = true;
        self.size_bytes = self.size();
        if !self.is_loaded() {
            self.disk = None;
        }
    }

    /// A connection for somebody who came through a door, and greets him; `None` where that has to
    /// wait until the disk is resumed.
    pub(crate) fn connection(
        &mut self,
        socket: UnixStream,
        door: Door,
    ) -> io::Result<Option<Connection>> {
        let identity = Rc::clone(&self.identity);
        let connection = match (door, &mut self.disk) {
            (Door::Receiver, Some(disk)) => {
                let served = Served { disk, failed: &mut Failed::default() };
                Connection::old_style(socket, identity, &served)?
            }
            (Door::Receiver, None) if self.held.len() < HELD_MAX => {
                self.held.push(socket);
                return Ok(None);
            }
            (Door::Receiver, None) => {
                return Err(io::Error::other(format!("more than {HELD_MAX} wait for the disk")));
            }
            _ => Connection::new(socket, identity)?,
        };
        Ok(Some(connection.lending(&self.loans)))
    }

    /// Gives a client its turn: all that it gets while the disk is paused is what was answered.
    pub(crate) fn serve(&mut self, connection: &mut Connection, side: Side) -> Progress {
        let Some(disk) = self.disk.as_mut().filter(|_| !self.paused) else {
            return connection.drain();
        };
        let (tally, failed) = self.counts.of(side);
        let (before, start) = (tally.stats, Instant::now());
        let progress = connection.ready(&mut Served { disk, failed }, &mut tally.stats);
        tally.took(&before, start.elapsed());
        progress
    }

    /// Keeps statistics in files from now on.
    pub(crate) fn publish(&mut self, files: Files) {
        self.files = Some(files);
    }

    /// Brings the statistics files up to date.
    pub(crate) fn write_metrics(&mut self) -> io::Result<()> {
        match &mut self.files {
            Some(files) => files.write(&self.counts),
            None => Ok(()),
        }
    }

    /// Whether what it serves is a plain file, which exists nowhere but in this process.
    pub(crate) fn is_loaded(&self) -> bool {
        path_of(&self.params).is_ok_and(|path| store::Layout::of_volume(path).is_none())
    }
}
