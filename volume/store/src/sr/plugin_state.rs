//! A plugin's state of a volume, kept between its calls.

use std::{
    fs::File,
    io::Read,
    path::PathBuf,
    time::{Duration, Instant},
};

use rustix::fs::fstat;

use crate::{
    error::{Context, Error, ErrorKind, Result},
    files::{self, Dirs, Entry, Layout, lock::lock_within},
    host::Host,
    uri::VolumeUri,
};

/// A plugin's state of a volume, locked: bytes that only the plugin understands. The lock makes its
/// calls for the volume come one after the other, and is let go of on drop.
///
/// Both lie with the SR's metadata and vanish with it. A volume without state has neither file.
#[derive(Debug)]
pub struct PluginState {
    uri: VolumeUri,
    /// `None` where there is no SR: nothing can be remembered then.
    locked: Option<(Dirs, File)>,
}

impl PluginState {
    /// Waits for the lock. The volume need not exist, nor the SR be attached.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] where another call has it for all of `patience`.
    pub fn lock(host: &Host, uri: &VolumeUri, patience: Duration) -> Result<Self> {
        let locked = match Dirs::open(&Layout::new(&host.sr_root, &uri.sr))? {
            Some(dirs) => take(&dirs, uri, patience)?.map(|file| (dirs, file)),
            None => None,
        };
        Ok(Self { uri: uri.clone(), locked })
    }

    /// Whether there is an SR, and so a lock.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.locked.is_some()
    }

    /// Where it lies, for people to read.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let path = |(dirs, _): &(Dirs, File)| dirs.path(Entry::State(&self.uri.key));
        self.locked.as_ref().map(path).unwrap_or_default()
    }

    /// The state; `None` if there is none.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn read(&self) -> Result<Option<Vec<u8>>> {
        let Some((dirs, _)) = &self.locked else { return Ok(None) };
        let entry = Entry::State(&self.uri.key);
        let mut file = match dirs.read(entry) {
            Err(error) if error.is_missing_file() => return Ok(None),
            file => file?,
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).doing("reading", || dirs.path(entry))?;
        Ok(Some(bytes))
    }

    /// Replaces the state by `bytes`, whole or not at all; `None` removes it. Without an SR there
    /// is no state.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn write(&self, bytes: Option<&[u8]>) -> Result<()> {
        let Some((dirs, _)) = &self.locked else { return Ok(()) };
        let entry = Entry::State(&self.uri.key);
        match bytes {
            Some(bytes) => files::replace(dirs, entry, bytes),
            None => dirs.remove(entry),
        }
    }
}

impl Drop for PluginState {
    fn drop(&mut self) {
        if let Some((dirs, _)) = &self.locked
            && dirs.exists(Entry::State(&self.uri.key)).is_ok_and(|is_there| !is_there)
        {
            // Still locked: a call that waits for it finds that it has lost its name, and starts anew.
            let _kept = dirs.remove(Entry::StateLock(&self.uri.key));
        }
    }
}

/// Takes the lock on a file that its last holder may have removed; `None` where there is no directory for
/// it.
fn take(dirs: &Dirs, uri: &VolumeUri, patience: Duration) -> Result<Option<File>> {
    let entry = Entry::StateLock(&uri.key);
    let path = || dirs.path(entry);
    let begun = Instant::now();
    loop {
        let file = match dirs.edit_or_create(entry) {
            Err(error) if error.is_missing_file() => return Ok(None),
            file => file?,
        };
        let left = patience.saturating_sub(begun.elapsed());
        if !lock_within(&file, left).doing("locking", path)? {
            return Err(Error::new(
                ErrorKind::Busy,
                format!(
                    "another call has been working on volume {} for {} s ({} is locked; fuser names \
                     the process): repeat when it has ended",
                    uri.key,
                    patience.as_secs(),
                    path().display()
                ),
            ));
        }
        let ours = fstat(&file).doing("locking", path)?;
        if dirs.stat(entry).is_ok_and(|it| (it.st_dev, it.st_ino) == (ours.st_dev, ours.st_ino)) {
            return Ok(Some(file));
        }
    }
}
