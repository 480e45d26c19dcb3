//! Changing the size of an SR in place, while its disks are used.
//!
//! The record commits. Before it a larger file system is there, and writers keep to a smaller limit; after it
//! they use a larger limit. The count's word for the limit is mapped by all processes, so that none has to be
//! told. A kill in between leaves a limit that is too small, until the next operation under the SR's lock takes it
//! from the record, and a file system that is too large, which is only a backstop. A change to the size that the
//! record has already, and each attach, makes both what they should be.

use std::{thread, time::Duration};

use super::{Sr, mount};
use crate::{
    block::{BLOCK_BYTES, pages},
    budget::{Usage, recount},
    error::{Error, ErrorKind, Result},
    files::{Dirs, lock::Lock},
    host::{Host, Name},
    memory::human,
    record::sr::Record,
};

/// How long a process that has read the limit before it became smaller may take to count what it allocates.
const COUNTING: Duration = Duration::from_millis(5);

/// What a change of an SR's size has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resized {
    /// Bytes that it could take before.
    pub before: u64,
    /// Bytes that it can take now: whole blocks.
    pub size: u64,
    /// Bytes that its device-config names, which it has again after a restart of the host.
    pub configured: u64,
}

impl Host {
    /// Gives an attached SR another size, while its disks are used.
    ///
    /// # Errors
    /// [`ErrorKind::SrNotAttached`]; [`ErrorKind::BadSize`]; [`ErrorKind::NoSpace`] where the host's memory does
    /// not back it, or more is in use. The SR has its old size then.
    pub fn resize_sr(&self, uuid: &Name, size: u64) -> Result<Resized> {
        let sr = Sr::named(self, uuid);
        sr.attached()?;
        let _promises = Lock::promises(self)?;
        let _lock = Lock::sr(self, uuid)?;
        let (dirs, found) = sr.attached()?;
        let size = size.checked_next_multiple_of(BLOCK_BYTES).unwrap_or(u64::MAX);
        let (before, configured) = (found.size, found.configured.unwrap_or(found.size));
        let mut record = Record::clone(&found);
        record.configured = Some(configured).filter(|&configured| configured != size);
        self.change_size(&sr, &dirs, &mut record, size)?;
        Ok(Resized { before, size, configured })
    }

    /// Commits a record with another size, or makes the limits agree with that of the record. Held: the lock of
    /// promises, and the SR's.
    pub(super) fn change_size(
        &self,
        sr: &Sr,
        dirs: &Dirs,
        record: &mut Record,
        size: u64,
    ) -> Result<()> {
        let before = record.size;
        if size == before {
            dirs.counter()?.set_size(pages(size));
            limit_mounts(sr, size);
            return Ok(());
        }
        record.size = size;
        let usage = recount(dirs)?;
        if size > before {
            let Usage { data, metadata } = usage;
            self.check_size(sr.uuid(), size, data + metadata)?;
            mount::resize(sr.layout(), size)?;
            record.write(dirs)?;
            dirs.counter()?.set_size(pages(size));
        } else {
            self.check_size_min(size)?;
            limit(dirs, before, size, usage)?;
            if let Err(error) = record.write(dirs) {
                dirs.counter()?.set_size(pages(before));
                return Err(error);
            }
            limit_mounts(sr, size);
        }
        Ok(())
    }
}

/// Lets the mounts hold no more than what writers keep to. Where that does not succeed they hold more: the count
/// limits the SR, and they are only a backstop.
fn limit_mounts(sr: &Sr, size: u64) {
    let _larger = mount::resize(sr.layout(), size);
}

/// Lets all processes keep to a smaller size.
fn limit(dirs: &Dirs, before: u64, size: u64, usage: Usage) -> Result<()> {
    let counter = dirs.counter()?;
    let fits = || counter.used() <= u32::try_from(pages(size)).unwrap_or(u32::MAX);
    if !fits() {
        return Err(too_much_in_use(dirs, size, usage));
    }
    #[cfg(feature = "testing")]
    crate::files::hooks::limited();
    counter.set_size(pages(size));
    // From here on no process begins to take more than that.
    thread::sleep(COUNTING);
    if fits() {
        return Ok(());
    }
    counter.set_size(pages(before));
    Err(too_much_in_use(dirs, size, Usage::of(dirs)?))
}

fn too_much_in_use(dirs: &Dirs, size: u64, usage: Usage) -> Error {
    let Usage { data, metadata } = usage;
    let least = (data + metadata).next_multiple_of(1 << 20);
    Error::new(
        ErrorKind::NoSpace,
        format!(
            "SR {} cannot have a size of {size} ({}): {} are in use ({} of data, {} of metadata), so that \
             at least size={least} ({}) is possible now; delete disks or snapshots (xe vdi-destroy), or \
             discard what the disks do not need (fstrim), and repeat this",
            dirs.layout().uuid(),
            human(size),
            human(data + metadata),
            human(data),
            human(metadata),
            human(least),
        ),
    )
}
