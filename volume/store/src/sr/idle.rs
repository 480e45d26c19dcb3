//! Whether the disks of an SR are active.

use super::Sr;
use crate::{
    error::{Error, ErrorKind, Result},
    files::{Directory, Dirs},
    host::Name,
    record::{Record, Serving, served_by},
};

impl Sr {
    /// The process that serves the volume now, if there is one.
    ///
    /// # Errors
    /// [`ErrorKind::SrNotAttached`], or where the lock file cannot be read.
    pub fn serving(&self, key: &Name) -> Result<Option<Serving>> {
        served_by(&self.attached()?.0, key)
    }
}

/// Refuses to do something to an SR of which a disk is active.
pub(crate) fn check_idle(dirs: &Dirs, act: &str) -> Result<()> {
    // What is damaged is not active. Where it cannot be known, as where descriptors run out, it may be.
    let known = |found: Result<Option<Serving>>| match found {
        Err(error) if error.tells_damage() => Ok(None),
        found => found,
    };
    let by = |key: &Name| -> Result<Option<u32>> {
        let holder = || Record::read(dirs, key)?.map_or(Ok(None), |it| it.living_holder());
        let serving = match known(served_by(dirs, key))? {
            None => known(holder())?,
            serving => serving,
        };
        Ok(serving.map(|serving| serving.pid))
    };
    let mut keys = dirs.names(Directory::Servings)?;
    keys.extend(dirs.names(Directory::Volumes)?);
    keys.sort();
    keys.dedup();
    let mut active = Vec::new();
    for key in keys {
        active.extend(by(&key)?.map(|pid| format!("{key} (by process {pid})")));
    }
    if active.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::SrInUse,
        format!(
            "SR {} cannot be {act}: its disks {} are active; unplug them (xe vbd-unplug) first",
            dirs.layout().uuid(),
            active.join(", ")
        ),
    ))
}
