//! A virtual block device: a minor, and what is open under it.

use std::{
    fs, io,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    rc::Rc,
};

use nbd::{Identity, Loans, Stats};
use rustix::io::Errno;
use store::{Disk, Open};
use tapctl::{ControlDir, Failure, Minor, MinorLock, reply::state};

/// What `<type>:<path>` begins with for what this tapdisk serves.
const TYPE: &str = "ram";

/// A minor that this process has attached.
#[derive(Debug)]
pub(crate) struct Vbd {
    pub(crate) lock: MinorLock,
    pub(crate) image: Option<Image>,
    pub(crate) stats: Stats,
}

/// What is open under a minor, running or paused.
#[derive(Debug)]
pub(crate) struct Image {
    /// `<type>:<path>`, as it was asked for.
    pub(crate) params: String,
    pub(crate) read_only: bool,
    /// `None` where a volume is paused. A loaded file stays in memory: it is nowhere else.
    pub(crate) disk: Option<Disk>,
    pub(crate) paused: bool,
    /// Whether resuming has failed, and the guest waits.
    pub(crate) resume_failed: bool,
    pub(crate) listener: UnixListener,
    socket: PathBuf,
    pub(crate) identity: Rc<Identity>,
    pub(crate) loans: Rc<Loans>,
}

impl Vbd {
    pub(crate) fn new(lock: MinorLock) -> Self {
        Self { lock, image: None, stats: Stats::default() }
    }

    pub(crate) fn minor(&self) -> Minor {
        self.lock.minor()
    }

    /// Its state, as LIST tells it.
    pub(crate) fn state(&self) -> u32 {
        match &self.image {
            None => state::CLOSED,
            Some(image) if image.resume_failed => state::RESUME_FAILED,
            Some(image) if image.paused => state::PAUSED,
            Some(_) => state::RUNNING,
        }
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
        let socket = dir.nbd(std::process::id(), minor);
        let listener = listen(&socket).map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            Failure::new(errno, format!("listening on {}: {error}", socket.display()))
        })?;
        let name = path_of(params)?.file_name().unwrap_or_default().to_string_lossy();
        Ok(Self {
            params: params.to_owned(),
            read_only: disk.read_only(),
            disk: Some(disk),
            paused: false,
            resume_failed: false,
            listener,
            socket,
            identity: Rc::new(Identity::new(&name, "RAM disk")),
            loans: Loans::new(),
        })
    }

    /// Accepts a client, if one is waiting.
    pub(crate) fn accept(&self) -> io::Result<Option<UnixStream>> {
        match self.listener.accept() {
            Ok((socket, _)) => Ok(Some(socket)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether what it serves is a plain file, which exists nowhere but in this process.
    pub(crate) fn is_loaded(&self) -> bool {
        path_of(&self.params).is_ok_and(|path| store::Layout::of_volume(path).is_none())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // Nobody is to find a socket that nobody listens on.
        let _gone_already = fs::remove_file(&self.socket);
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
