//! Files in QEMU's format: qemu-img reads and writes them, and gets the volume through a socket that it has in place
//! of its standard input. The socket has no name: no other program reaches the volume, and nothing is left of it.

use std::{
    ffi::OsStr,
    io::{self, Read},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{ChildStderr, Command, ExitStatus, Stdio},
    thread,
};

use block::Drive;
use nbd::serve::serve_one;
use save::Progress;
use store::{Disk, Error, ErrorKind, Result};

use super::{Source, Target, did, served::Served};

/// The program. It has to know sockets by their descriptors, as those of QEMU 2.12 and later do.
const QEMU_IMG: &str = "qemu-img";
/// Where it finds the volume.
const VOLUME: &str = "driver=nbd,server.type=fd,server.str=0";
/// More of what it says is not told, in bytes.
const SAID_BYTES_MAX: u64 = 4096;
/// How it says that a file system is full.
const NO_SPACE: &str = "No space left on device";

/// Writes a disk into a qcow2 image.
pub(super) fn export(disk: &mut Disk, target: &Target, progress: &dyn Progress) -> Result<()> {
    let partial = absolute(target.partial())?;
    let line = ["convert", "--image-opts", "-O", "qcow2", VOLUME].map(OsStr::new);
    let served = Served::new(disk, Some(target), progress);
    convert(&[&line[..], &[partial.as_os_str()]].concat(), served)
}

/// Fills a new disk with what is in a qcow2 image.
pub(super) fn import(source: &Source, disk: &mut Disk, progress: &dyn Progress) -> Result<()> {
    progress.begin(source.size());
    let image = absolute(source.path())?;
    let line = ["convert", "-n", "-f", "qcow2", "--target-image-opts"].map(OsStr::new);
    let served = Served::new(disk, None, progress);
    convert(&[&line[..], &[image.as_os_str(), OsStr::new(VOLUME)]].concat(), served)
}

/// A path that is taken for nothing else: not for an option, nor for the name of a protocol.
fn absolute(path: &Path) -> Result<PathBuf> {
    did("opening", path, std::path::absolute(path))
}

/// Has qemu-img do something with a disk.
fn convert(arguments: &[&OsStr], served: Served<'_>) -> Result<()> {
    let (own, other) = did("connecting", QEMU_IMG, UnixStream::pair())?;
    let mut command = Command::new(QEMU_IMG);
    command.args(arguments).env("LC_ALL", "C");
    command.stdin(OwnedFd::from(other)).stdout(Stdio::null()).stderr(Stdio::piped());
    let started = command.spawn();
    // From now on the other end is open in the program alone, and closes with it.
    drop(command);
    let mut child = started.map_err(not_started)?;
    let stderr = child.stderr.take().expect("piped");
    let mut drive = Drive::new(served);
    let (done, said) = thread::scope(|scope| {
        let reader = scope.spawn(|| said(stderr));
        let done = serve_one(own, &mut drive);
        (done, reader.join().expect("a thread without a panic"))
    });
    let status = did("waiting for", QEMU_IMG, child.wait())?;
    if let Some(error) = drive.detach().0.failed() {
        return Err(error);
    }
    did("serving", QEMU_IMG, done)?;
    if status.success() { Ok(()) } else { Err(failed(status, &said)) }
}

fn not_started(error: io::Error) -> Error {
    if error.kind() != io::ErrorKind::NotFound {
        return Error::os("starting", Path::new(QEMU_IMG), error);
    }
    Error::new(
        ErrorKind::BadArgument,
        "--format: qcow2 takes the program qemu-img, which is not there: install the package that has it (qemu-img, \
         or qemu-utils on Debian), or take --format raw",
    )
}

/// What the program says, to its end.
fn said(mut stderr: ChildStderr) -> String {
    let mut text = Vec::new();
    // Where it cannot be read there is the exit status.
    let _read = stderr.by_ref().take(SAID_BYTES_MAX).read_to_end(&mut text);
    let _rest = io::copy(&mut stderr, &mut io::sink());
    String::from_utf8_lossy(&text).trim_end().replace('\n', "; ")
}

fn failed(status: ExitStatus, said: &str) -> Error {
    let kind = if said.contains(NO_SPACE) { ErrorKind::NoSpace } else { ErrorKind::Io };
    Error::new(kind, format!("{QEMU_IMG} convert has failed ({status}): {said}"))
}
