//! Small files that change atomically: written beside, renamed into place. On a full tmpfs the
//! SR's ballast is given up first, so that what frees space can always be recorded.

use std::{
    fs,
    io::{self, ErrorKind, Read},
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use serde::{Serialize, de::DeserializeOwned};

use super::{layout::Layout, steps};
use crate::error::{Context, Error, Kind, Result};

/// Enough for the records of any one operation. Bytes.
const BALLAST_BYTES: u64 = 1 << 20;

/// What nearly every record fits in. Bytes.
const SMALL_BYTES: usize = 4096;

/// Tells files of one process apart in the directory for files that are about to be renamed.
static TEMPORARY: AtomicU32 = AtomicU32::new(0);

/// Replaces `path`, which lies in the SR's metadata, by `bytes`, whole or not at all.
pub(crate) fn replace(layout: &Layout, path: &Path, bytes: &[u8]) -> Result<()> {
    with_ballast(layout, || replace_once(layout, path, bytes))
        .while_doing(|| format!("writing {}", path.display()))
}

/// Replaces `path` by `value` as JSON.
pub(crate) fn replace_json(layout: &Layout, path: &Path, value: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec(value).expect("records have string keys and no failing fields");
    replace(layout, path, &bytes)
}

/// Reads a file whole. One that does not fill `small`, as nearly all do, takes a single read; an SR may
/// have thousands of them.
fn read<'a>(
    path: &Path,
    small: &'a mut [u8; SMALL_BYTES],
    large: &'a mut Vec<u8>,
) -> io::Result<&'a [u8]> {
    let mut file = fs::File::open(path)?;
    let count = loop {
        match file.read(small) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            count => break count?,
        }
    };
    if count < small.len() {
        return Ok(&small[..count]);
    }
    large.extend_from_slice(small);
    file.read_to_end(large)?;
    Ok(large)
}

/// Reads JSON; `None` where there is no such file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let mut small = [0; SMALL_BYTES];
    let mut large = Vec::new();
    let bytes = match read(path, &mut small, &mut large) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(format!("reading {}", path.display()), error)),
    };
    serde_json::from_slice(bytes).map(Some).map_err(|error| {
        Error::new(Kind::Corrupt, format!("{} is damaged ({error})", path.display()))
    })
}

/// Whether a file contains a text, whatever else it says; one that is not there does not.
pub(crate) fn mentions(path: &Path, text: &str) -> Result<bool> {
    match fs::read(path) {
        Ok(bytes) => Ok(bytes.windows(text.len()).any(|part| part == text.as_bytes())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io(format!("reading {}", path.display()), error)),
    }
}

/// Does what needs room in the metadata; where there is none, once more without the ballast.
pub(crate) fn with_ballast<T>(
    layout: &Layout,
    mut act: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    match act() {
        Err(error) if error.kind() == ErrorKind::StorageFull => {
            // Where it was given up before, the SR is full, and that is the error to tell.
            steps::remove(&layout.ballast()).map_err(|_absent| error)?;
            act()
        }
        done => done,
    }
}

/// Puts the ballast back where it was given up and there is room again.
pub(crate) fn restore_ballast(layout: &Layout) {
    // One that was not filled because its maker died is none.
    if fs::metadata(layout.ballast()).is_ok_and(|found| found.len() == BALLAST_BYTES) {
        return;
    }
    let filled =
        steps::create(&layout.ballast()).and_then(|file| steps::allocate(&file, BALLAST_BYTES));
    if filled.is_err() {
        // Still full: the next operation tries again.
        let _absent = steps::remove(&layout.ballast());
    }
}

/// Removes a file that may be gone already.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match steps::remove(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

fn replace_once(layout: &Layout, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let serial = TEMPORARY.fetch_add(1, Ordering::Relaxed);
    let temporary = layout.tmp().join(format!("{}-{serial}", std::process::id()));
    let written = steps::create(&temporary)
        .and_then(|file| steps::write_at(&file, bytes, 0))
        .and_then(|()| steps::rename(&temporary, path));
    if written.is_err() {
        let _absent = steps::remove(&temporary);
    }
    written
}
