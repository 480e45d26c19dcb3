//! The life of an SR: attach, detach and destroy; and the SRs in the memory of this host.

use std::path::Path;

use super::{Exclusive, Sr, SrStat, idle::check_idle, mount};
use crate::{
    block::pages,
    budget::{OVERHEAD_BYTES, statfs},
    contents::Restore,
    error::{Context, Error, ErrorKind, Result},
    files::{self, Directory, Dirs, Entry, Layout, lock::Lock, missing},
    host::{Host, Name},
    live::Inactive,
    memory::{Memory, human},
    random::random_uuid,
    record::{
        AtDetach, Attachment,
        sr::{FORMAT, Record, start_numbers},
    },
    texts,
};

/// The smallest SR, in bytes. A smaller size was meant to have a unit.
const SR_BYTES_MIN: u64 = 1 << 20;

/// An SR that was found in the host's memory.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Its name, sizes and state.
    pub stat: SrStat,
    /// The configuration that attaches it.
    pub attachment: Attachment,
}

impl Host {
    /// Checks that an SR could be made here: SR.create.
    ///
    /// # Errors
    /// [`ErrorKind::SrExists`], [`ErrorKind::BadSize`], [`ErrorKind::NoSpace`], and
    /// [`ErrorKind::BadArgument`] for texts that are too long.
    pub fn check_new(&self, new: &Attachment) -> Result<()> {
        let uuid = &new.uuid;
        texts::check(&new.name, &new.description)?;
        if Sr::named(self, uuid).found()?.is_some() {
            return Err(Error::new(
                ErrorKind::SrExists,
                format!(
                    "SR {uuid} exists on this host already: attach it (xe sr-introduce, xe pbd-create) or destroy it (volume-plugin reclaim --sr {uuid})"
                ),
            ));
        }
        self.check_size(uuid, new.size, 0)
    }

    /// Refuses a size that the host's memory does not back, beside `taken` bytes that the SR has already.
    pub(super) fn check_size(&self, uuid: &Name, size: u64, taken: u64) -> Result<()> {
        self.check_size_min(size)?;
        let promised = self.promised(uuid)?;
        Memory::now()?.check_promise(size, taken, OVERHEAD_BYTES, promised)
    }

    /// Refuses a size without its unit.
    pub(super) fn check_size_min(&self, size: u64) -> Result<()> {
        if size < SR_BYTES_MIN {
            return Err(Error::new(
                ErrorKind::BadSize,
                format!(
                    "device-config:size={size} is too small: a ram SR has at least {}; sizes may have a \
                     unit, such as 16GiB",
                    human(SR_BYTES_MIN)
                ),
            ));
        }
        Ok(())
    }

    /// Bytes that other SRs were promised and have not used.
    fn promised(&self, except: &Name) -> Result<u64> {
        let mut bytes = 0;
        for name in names(&self.sr_root)?.into_iter().filter(|name| name != except) {
            let sr = Sr::named(self, &name);
            bytes += match sr.found() {
                Ok(Some((dirs, record))) => {
                    // One that is being destroyed is not promised anything any more.
                    sr.stat_of(&dirs, &record, None).map_or(0, |stat| stat.promised())
                }
                Ok(None) => 0,
                Err(_) => promised_to_unknown(&sr.layout),
            };
        }
        Ok(bytes)
    }

    /// Attaches an SR: finds its memory, or makes it anew where a reboot has emptied it.
    ///
    /// # Errors
    /// [`ErrorKind::OtherHost`], [`ErrorKind::NoSpace`], or an error of mounting; nothing is left
    /// behind then.
    pub fn attach(&self, wanted: &Attachment) -> Result<Sr> {
        self.attach_or_restore(wanted, None)
    }

    /// The same; memory that is made anew gets the contents that were saved.
    ///
    /// # Errors
    /// As [`Self::attach`], and those of filling it: there is no SR then.
    pub fn attach_saved(&self, wanted: &Attachment, mut saved: Restore<'_>) -> Result<Sr> {
        self.attach_or_restore(wanted, Some(&mut saved))
    }

    /// Whether an SR is in the memory of this host, attached or not: then it is not made from a save.
    ///
    /// # Errors
    /// Where its record cannot be read.
    pub fn has_memory(&self, uuid: &Name) -> Result<bool> {
        Ok(Sr::named(self, uuid).found()?.is_some_and(|(_, record)| !record.restoring))
    }

    fn attach_or_restore(
        &self,
        wanted: &Attachment,
        saved: Option<&mut Restore<'_>>,
    ) -> Result<Sr> {
        if wanted.host != self.uuid {
            return Err(Error::new(
                ErrorKind::OtherHost,
                format!(
                    "SR {} lies in the memory of host {}, and this is host {}: a ram SR belongs \
                     to one host (create it with shared=false and plug only that host's PBD)",
                    wanted.uuid, wanted.host, self.uuid
                ),
            ));
        }
        let sr = Sr::named(self, &wanted.uuid);
        // Promises are made one at a time, or two SRs could be promised the same memory.
        let promises = Lock::promises(self)?;
        let lock = Lock::sr(self, &sr.uuid)?;
        match sr.found()?.filter(|(_, record)| !record.restoring) {
            Some((dirs, found)) => {
                self.attach_found(&sr, &dirs, &found, wanted)?;
                drop(promises);
            }
            None => {
                if let Err(error) = self.make(&sr, wanted, saved, promises) {
                    // There is no such SR: nothing would remove its lock. The first error is the one to tell.
                    let _kept = lock.remove_sr(self, &sr.uuid);
                    return Err(error);
                }
            }
        }
        // If the collection fails, `check` says why; the SR is attached all the same.
        let _garbage = Exclusive::with_lock(&sr, lock)?.collect(&mut Inactive);
        Ok(sr)
    }

    /// Attaches an SR whose memory is there.
    fn attach_found(
        &self,
        sr: &Sr,
        dirs: &Dirs,
        found: &Record,
        wanted: &Attachment,
    ) -> Result<()> {
        let mut record = found.clone();
        let size = if found.configured == Some(wanted.size) {
            // A command has given it another one since.
            found.size
        } else {
            record.configured = None;
            wanted.size
        };
        self.change_size(sr, dirs, &mut record, size)?;
        record.attached = true;
        record.provider.clone_from(&wanted.provider);
        record.save_dir.clone_from(&wanted.save_dir);
        record.swap = wanted.swap;
        record.at_detach = AtDetach::Everything;
        if record == *found { Ok(()) } else { record.write(dirs) }
    }

    /// Makes the memory of an SR, empty or from what was saved. Other SRs may be promised memory as soon as its
    /// record says how much it may take.
    fn make(
        &self,
        sr: &Sr,
        wanted: &Attachment,
        saved: Option<&mut Restore<'_>>,
        promises: Lock,
    ) -> Result<()> {
        // An interrupted attach or destroy leaves directories without a record, which hold nothing
        // of value.
        mount::check_ours(&sr.layout)?;
        mount::remove(&sr.layout)?;
        texts::check(&wanted.name, &wanted.description)?;
        self.check_size(&sr.uuid, wanted.size, 0)?;
        mount::make(&sr.layout, wanted.size, self.may_mount, wanted.swap)?;
        let record = Record {
            format: FORMAT,
            name: wanted.name.clone(),
            description: wanted.description.clone(),
            size: wanted.size,
            attached: saved.is_none(),
            configured: None,
            generation: format!("{:08x}", random_uuid().as_fields().0),
            provider: wanted.provider.clone(),
            save_dir: wanted.save_dir.clone(),
            swap: wanted.swap,
            at_detach: AtDetach::Everything,
            restoring: saved.is_some(),
            restored: None,
            unknown: [].into(),
        };
        let made = Dirs::open(&sr.layout)
            .and_then(|dirs| dirs.ok_or_else(|| missing(&sr.layout)))
            .and_then(|dirs| {
                // The first file: it counts what the others take.
                dirs.counter()?.set_size(pages(wanted.size));
                start_numbers(&dirs)?;
                files::restore_ballast(&dirs);
                record.write(&dirs)?;
                drop(promises);
                match saved {
                    Some(saved) => restore(&dirs, record, saved),
                    None => Ok(()),
                }
            });
        if made.is_err() {
            // The first error is the one to tell.
            let _incomplete = mount::remove(&sr.layout);
        }
        made
    }

    /// Destroys an SR and all that is in it, attached or not, also one whose record is damaged.
    ///
    /// # Errors
    /// [`ErrorKind::SrMissing`]; [`ErrorKind::SrInUse`] where a disk is active;
    /// [`ErrorKind::OtherFormat`] where another version has made it, whose disks may not be seen as active.
    pub fn destroy(&self, uuid: &Name) -> Result<()> {
        self.destroy_if(uuid, |dirs| match Record::read(dirs) {
            Err(error) if error.kind() == ErrorKind::OtherFormat => Err(error),
            _ => Ok(()),
        })
    }

    /// The same, whichever version has made it.
    ///
    /// # Errors
    /// [`ErrorKind::SrMissing`]; [`ErrorKind::SrInUse`] where a disk is known to be active.
    pub fn destroy_of_any_format(&self, uuid: &Name) -> Result<()> {
        self.destroy_if(uuid, |_| Ok(()))
    }

    fn destroy_if(&self, uuid: &Name, allowed: impl FnOnce(&Dirs) -> Result<()>) -> Result<()> {
        let layout = Layout::new(&self.sr_root, uuid);
        let lock = Lock::sr(self, uuid)?;
        if layout.root().symlink_metadata().is_err() {
            // It may have been destroyed by a call that was killed before it had removed this.
            lock.remove_sr(self, uuid)?;
            return Err(Error::new(
                ErrorKind::SrMissing,
                format!("there is no ram SR {uuid} on this host"),
            ));
        }
        mount::check_ours(&layout)?;
        let dirs = Dirs::open(&layout)?.ok_or_else(|| missing(&layout))?;
        allowed(&dirs)?;
        check_idle(&dirs, "destroyed")?;
        // From here on it is no SR any more, also if the rest is interrupted.
        dirs.remove(Entry::Sr)?;
        mount::remove(&layout)?;
        lock.remove_sr(self, uuid)
    }

    /// The SRs in this host's memory whose own records cannot be understood, and why: they can only
    /// be destroyed.
    ///
    /// # Errors
    /// Where the directory of SRs cannot be read.
    pub fn damaged_srs(&self) -> Result<Vec<(Name, Error)>> {
        let mut found = Vec::new();
        for name in names(&self.sr_root)? {
            let sr = Sr::named(self, &name);
            // A directory that holds anything else belongs to an SR of another type.
            if let Err(error) = sr.found()
                && mount::check_ours(&sr.layout).is_ok()
            {
                found.push((name, error));
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    /// All SRs in this host's memory, attached or not.
    ///
    /// # Errors
    /// Where their directories cannot be read.
    pub fn srs(&self) -> Result<Vec<Summary>> {
        let mut found = Vec::new();
        for name in names(&self.sr_root)? {
            let sr = Sr::named(self, &name);
            // Other SRs' mounts lie here too; and one that is being destroyed is none any more.
            if let Ok(Some((dirs, record))) = sr.found()
                && let Ok(stat) = sr.stat_of(&dirs, &record, None)
            {
                found.push(self.summary(stat, &record));
            }
        }
        found.sort_by(|a, b| a.stat.uuid.cmp(&b.stat.uuid));
        Ok(found)
    }

    fn summary(&self, stat: SrStat, record: &Record) -> Summary {
        let attachment = Attachment {
            uuid: stat.uuid.clone(),
            name: record.name.clone(),
            description: record.description.clone(),
            size: record.size,
            host: self.uuid.clone(),
            provider: record.provider.clone(),
            save_dir: record.save_dir.clone(),
            swap: record.swap,
        };
        Summary { stat, attachment }
    }
}

/// Fills an SR whose record says that it is being made. The record that says that it is complete commits.
fn restore(dirs: &Dirs, made: Record, saved: &mut Restore<'_>) -> Result<()> {
    let Record { format, size, provider, save_dir, swap, .. } = made;
    let filled = saved.run(dirs, size)?;
    let (at_detach, configured) = (AtDetach::Everything, None);
    Record {
        format,
        size,
        provider,
        save_dir,
        swap,
        at_detach,
        configured,
        attached: true,
        restoring: false,
        ..filled
    }
    .write(dirs)
}

/// Bytes that may still be used by an SR whose record this program does not understand: one of another
/// format, or a damaged one. Its mounts tell.
fn promised_to_unknown(layout: &Layout) -> u64 {
    let Ok(Some(dirs)) = Dirs::open(layout) else { return 0 };
    if mount::check_ours(layout).is_err() {
        return 0;
    }
    let left = |place| {
        let found = statfs(&dirs, place).ok().flatten()?;
        Some(found.f_bfree * u64::try_from(found.f_bsize).ok()?)
    };
    // The limit of the metadata's mount is a second one of the same memory.
    left(Directory::Data).unwrap_or(0)
}

/// The entries of the directory of SRs that are names; none where there is no directory.
fn names(directory: &Path) -> Result<Vec<Name>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.doing("reading", || directory)?,
    };
    Ok(entries.filter_map(|entry| Name::parse(entry.ok()?.file_name().to_str()?).ok()).collect())
}
