//! Whether the disks of an SR are active.

use super::Sr;
use crate::{
    error::{Error, ErrorKind, Result},
    files::{Directory, Dirs, Mark},
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

/// Refuses to do something to an SR of which a disk is active, or something is being read or filled.
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
    let (mut active, mut is_copied) = (Vec::new(), false);
    for key in keys {
        let Some(pid) = by(&key)? else { continue };
        if is_of_operation(dirs, &key) {
            is_copied = true;
        } else {
            active.push(format!("{key} (by process {pid})"));
        }
    }
    let active = (!active.is_empty()).then(|| {
        format!("its disks {} are active; unplug them (xe vbd-unplug) first", active.join(", "))
    });
    let copied = is_copied.then(|| under_way(dirs));
    let why: Vec<String> = active.into_iter().chain(copied).collect();
    if why.is_empty() {
        return Ok(());
    }
    let sentence =
        format!("SR {} cannot be {act}: {}", dirs.layout().uuid(), why.join("; beside that, "));
    Err(Error::new(ErrorKind::SrInUse, sentence))
}

/// Whether a volume is there for an operation alone: no datapath and no toolstack knows it.
fn is_of_operation(dirs: &Dirs, key: &Name) -> bool {
    let record = Record::read(dirs, key).ok().flatten();
    record.is_some_and(|record| record.hidden && record.owner.is_none())
}

/// Why operations keep an SR from being idle.
fn under_way(dirs: &Dirs) -> String {
    let makers: Vec<String> = Mark::makers(dirs).iter().map(u32::to_string).collect();
    format!(
        "it is being saved, or a disk of it copied, exported or imported (by process {}); wait until that has \
         ended, or end it",
        makers.join(", ")
    )
}
