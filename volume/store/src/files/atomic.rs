//! Small files that change atomically: written beside, renamed into place. On a full tmpfs the SR's
//! ballast is given up first, so that an operation that frees space can always be recorded.

use std::{
    fs::File,
    io::{self, Read},
    sync::atomic::{AtomicU32, Ordering},
};

use serde::{Serialize, de::DeserializeOwned};

use super::{Directory, Dirs, Entry, dirs::require_plain, steps};
use crate::error::{Context, Error, ErrorKind, Result};

/// Size of the ballast, in bytes: enough for the records of any one operation.
const BALLAST_BYTES: u64 = 1 << 20;

/// Nearly every record fits into this many bytes.
const SMALL_BYTES: usize = 4096;

/// How often a file is written again whose temporary file was removed by another process.
const ATTEMPTS_MAX: u32 = 3;

/// Tells files of one process apart in the directory for files that are about to be renamed.
static TEMPORARY: AtomicU32 = AtomicU32::new(0);

/// Replaces a file of the SR's metadata by `bytes`, whole or not at all.
pub(crate) fn replace(dirs: &Dirs, entry: Entry<'_>, bytes: &[u8]) -> Result<()> {
    let mut attempts = 0;
    let replaced = loop {
        match with_ballast(dirs, || replace_once(dirs, entry, bytes)) {
            // A collection has taken the temporary file for one that a killed process left.
            Err(error) if error.kind() == io::ErrorKind::NotFound && attempts < ATTEMPTS_MAX => {
                attempts += 1;
            }
            replaced => break replaced,
        }
    };
    replaced.doing("writing", || dirs.path(entry))
}

/// Replaces a file by `value` as JSON.
pub(crate) fn replace_json(dirs: &Dirs, entry: Entry<'_>, value: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec(value).expect("records have string keys and no failing fields");
    replace(dirs, entry, &bytes)
}

/// Reads a file whole. One that does not fill `small`, as nearly all do, takes a single read and no other
/// call; an SR may have thousands of them. A directory cannot be read, and a FIFO says nothing: they are
/// refused by name.
fn read<'a>(
    mut file: &File,
    small: &'a mut [u8; SMALL_BYTES],
    large: &'a mut Vec<u8>,
) -> io::Result<&'a [u8]> {
    let count = loop {
        match file.read(small) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                require_plain(file)?;
                return Err(error);
            }
            Ok(count) => break count,
        }
    };
    if (1..small.len()).contains(&count) {
        return Ok(&small[..count]);
    }
    require_plain(file)?;
    if count == 0 {
        return Ok(&[]);
    }
    large.extend_from_slice(small);
    file.read_to_end(large)?;
    Ok(large)
}

/// Reads JSON; `None` where there is no such file.
pub(crate) fn read_json<T: DeserializeOwned>(dirs: &Dirs, entry: Entry<'_>) -> Result<Option<T>> {
    match dirs.read_any(entry) {
        Err(error) if error.is_missing_file() => Ok(None),
        file => parse_json(dirs, entry, &file?).map(Some),
    }
}

/// Reads JSON from `entry`, which is open as `file`.
pub(crate) fn parse_json<T: DeserializeOwned>(
    dirs: &Dirs,
    entry: Entry<'_>,
    file: &File,
) -> Result<T> {
    #[cfg(feature = "testing")]
    super::hooks::count_parse(matches!(entry, Entry::Sr), matches!(entry, Entry::Volume(_)));
    let mut small = [0; SMALL_BYTES];
    let mut large = Vec::new();
    let bytes = read(file, &mut small, &mut large).doing("reading", || dirs.path(entry))?;
    serde_json::from_slice(bytes).map_err(|error| {
        let path = dirs.path(entry);
        Error::new(ErrorKind::Corrupt, format!("{} is damaged ({error})", path.display()))
    })
}

/// Runs `act`, which needs room in the metadata. Where there is none, gives up the ballast and runs
/// it again.
pub(crate) fn with_ballast<T>(
    dirs: &Dirs,
    mut act: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    match act() {
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            // Where it was given up before, the SR is full, and that is the error to tell.
            dirs.unlink(Entry::Ballast).map_err(|_absent| error)?;
            act()
        }
        done => done,
    }
}

/// Puts the ballast back where it was given up and there is room again.
pub(crate) fn restore_ballast(dirs: &Dirs) {
    // One that was not filled because its maker died is none.
    if dirs.stat(Entry::Ballast).is_ok_and(|it| u64::try_from(it.st_size) == Ok(BALLAST_BYTES)) {
        return;
    }
    let filled = dirs.create(Entry::Ballast).and_then(|file| steps::allocate(&file, BALLAST_BYTES));
    if filled.is_err() {
        // Still full: the next operation tries again.
        let _absent = dirs.unlink(Entry::Ballast);
    }
}

fn replace_once(dirs: &Dirs, entry: Entry<'_>, bytes: &[u8]) -> io::Result<()> {
    let serial = TEMPORARY.fetch_add(1, Ordering::Relaxed);
    let name = format!("{}-{serial}", std::process::id());
    let temporary = Entry::Named(Directory::Temporary, &name);
    let written = dirs
        .create(temporary)
        .and_then(|file| {
            let write = || steps::write_at(&file, bytes, 0);
            if entry.is_counted() { dirs.counted_new(&file, write) } else { write() }
        })
        .and_then(|()| dirs.rename(temporary, entry));
    if written.is_err() {
        let _absent = match entry.is_counted() {
            true => dirs.unlink(temporary),
            false => dirs.unlink_uncounted(temporary),
        };
    }
    written
}
