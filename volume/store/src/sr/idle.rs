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
pub(super) fn check_idle(dirs: &Dirs, act: &str) -> Result<()> {
    let by = |key: &Name| match served_by(dirs, key) {
        Ok(Some(serving)) => Some(serving.pid),
        _ => Some(Record::read(dirs, key).ok()??.living_holder().ok()??.pid),
    };
    let mut keys = dirs.names(Directory::Servings)?;
    keys.extend(dirs.names(Directory::Volumes)?);
    keys.sort();
    keys.dedup();
    let active: Vec<String> = keys
        .into_iter()
        .filter_map(|key| Some(format!("{key} (by process {})", by(&key)?)))
        .collect();
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
