//! Taking a disk back from an NBD server: blocks that differ are written into the volume, and blocks
//! of zeroes take no memory.
//!
//! The server is the host's tapdisk, of which no more is asked than it does well
//! (`drivers/tapdisk-nbdserver.c`): one plain read at a time, no structured replies, no block
//! status, and no leave-taking, which it answers with another greeting. Nothing is outstanding when
//! the connection ends: a close would crash it.

use std::{fmt, os::unix::net::UnixStream, path::Path, time::Duration};

use nbd::client::{Client, Wish};
use store::{BLOCK_BYTES, Disk, ErrorKind, Inactive, Sr, WriteBack};

/// How much is read at a time: a half of what the server takes (`NBD_INFO_BLOCK_SIZE`).
const STEP_BYTES: u32 = 1 << 20;

/// How long the server may take for one answer.
const ANSWER_TIMEOUT: Duration = if cfg!(test) { Duration::from_secs(2) } else { tapctl::TIMEOUT };

const BLOCK: usize = BLOCK_BYTES as usize;

/// Why it failed; the server still has everything then, if it lives.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The server did not give the disk's bytes.
    Server(nbd::client::Error),
    /// The store did not take them.
    Store(store::Error),
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(error) => {
                write!(f, "{error}")?;
                std::error::Error::source(error).map_or(Ok(()), |source| write!(f, ": {source}"))
            }
            Self::Store(error) => write!(f, "{error}"),
        }
    }
}

impl From<nbd::client::Error> for Failed {
    fn from(error: nbd::client::Error) -> Self {
        Self::Server(error)
    }
}

impl From<store::Error> for Failed {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

/// The change that a block of the volume needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Nothing,
    Zeros,
    Data,
}

/// Takes volume `key` back from its external holder, the server at `socket`, which holds it no longer
/// afterwards: all of it or
/// nothing, if the SR has room for both. The bytes that had changed.
pub(crate) fn write_back(sr: &Sr, key: &str, socket: &Path) -> Result<u64, Failed> {
    let mut server = connect(socket)?;
    let mut returned = sr.lock()?.begin_write_back(key)?;
    let size = returned.disk().size();
    if server.size() != size {
        abandon(returned);
        return Err(Failed::Server(nbd::client::Error::Protocol("a disk of another size")));
    }
    let (mut at, mut changed, mut kept) = (0, 0, 0);
    let mut collected = false;
    while at < size {
        let length = u32::try_from(size - at).unwrap_or(STEP_BYTES).min(STEP_BYTES);
        match step(&mut server, returned.disk(), at, length, &mut changed) {
            Ok(()) => at += u64::from(length),
            // A call that was killed may have left as much as the whole volume. A failed
            // collection is reported by `volume-plugin check`.
            Err(Failed::Store(error)) if error.kind() == ErrorKind::NoSpace && !collected => {
                collected = true;
                let _freed = sr.lock().and_then(|lock| lock.collect(&mut Inactive));
            }
            // There is room for the volume as it was or as it is to be, and not for both.
            Err(Failed::Store(error)) if error.kind() == ErrorKind::NoSpace && changed > kept => {
                kept = changed;
                returned.commit_part()?;
                returned = sr.lock()?.begin_write_back(key)?;
            }
            Err(error) => {
                abandon(returned);
                return Err(error);
            }
        }
    }
    returned.commit()?;
    Ok(changed)
}

/// The first error is the one to report; the next collection frees the rest.
fn abandon(returned: WriteBack<'_>) {
    let _garbage = returned.abandon();
}

fn connect(socket: &Path) -> Result<Client, Failed> {
    let stream = UnixStream::connect(socket).map_err(nbd::client::Error::from)?;
    for set in [UnixStream::set_read_timeout, UnixStream::set_write_timeout] {
        set(&stream, Some(ANSWER_TIMEOUT)).map_err(nbd::client::Error::from)?;
    }
    let wish = Wish { structured: false, allocation: false, ..Wish::default() };
    Ok(Client::negotiate(stream, &wish)?)
}

/// Makes a part of `disk` equal to what the server has, and adds to `changed` how many bytes had to.
fn step(
    server: &mut Client,
    disk: &mut Disk,
    at: u64,
    length: u32,
    changed: &mut u64,
) -> Result<(), Failed> {
    let theirs = server.read(at, length)?;
    let mut ours = vec![0; theirs.len()];
    disk.read_into(at, &mut ours)?;
    let changes: Vec<Change> = theirs.chunks(BLOCK).zip(ours.chunks(BLOCK)).map(change).collect();
    let mut first = 0;
    for run in changes.chunk_by(|one, other| one == other) {
        let start = first * BLOCK;
        first += run.len();
        let end = (first * BLOCK).min(theirs.len());
        let (offset, length) = (at + start as u64, (end - start) as u64);
        match run[0] {
            Change::Nothing => continue,
            Change::Zeros => disk.write_zeroes(offset, length, false)?,
            Change::Data => disk.write(offset, &theirs[start..end])?,
        }
        *changed += length;
    }
    Ok(())
}

fn change((theirs, ours): (&[u8], &[u8])) -> Change {
    if theirs == ours {
        Change::Nothing
    } else if theirs.iter().all(|&byte| byte == 0) {
        Change::Zeros
    } else {
        Change::Data
    }
}
