//! The life of an SR: attach, detach, destroy, and what of it is found on this host.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Attachment, Layout, Sr, SrStat, files,
    lock::{Lock, try_lock},
    mount,
    record::{FORMAT, Record, start_numbers},
    used,
};
use crate::{
    block::BLOCK_BYTES,
    budget::Budget,
    error::{Context, Error, Kind, Result},
    host::{Host, Name},
    memory::Memory,
    volume::Inactive,
};

/// The process that serves a volume, as it says itself in the file that it keeps locked. The lock
/// is the truth: without it the text is what a dead process left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// Its process id.
    pub pid: u32,
    /// The directory of its control socket, `ctl<pid>`.
    pub control_dir: String,
    /// The minor under which it serves the volume.
    pub minor: u32,
    /// Whether it writes to it.
    pub read_only: bool,
}

/// An SR that was found in the host's memory.
#[derive(Clone, Debug)]
pub struct Summary {
    /// What it says of itself.
    pub stat: SrStat,
    /// What attaches it.
    pub attachment: Attachment,
}

impl Host {
    /// Checks that an SR of `size` bytes could be made here: SR.create.
    ///
    /// # Errors
    /// [`Kind::SrExists`], [`Kind::BadSize`], [`Kind::NoSpace`].
    pub fn check_new(&self, uuid: &Name, size: u64) -> Result<()> {
        if Record::read(&Layout::new(&self.sr_root, uuid))?.is_some() {
            return Err(Error::new(
                Kind::SrExists,
                format!(
                    "SR {uuid} exists on this host already: attach it (xe sr-introduce, xe pbd-create) or destroy it (volume-plugin reclaim --sr {uuid})"
                ),
            ));
        }
        self.check_size(uuid, size)
    }

    fn check_size(&self, uuid: &Name, size: u64) -> Result<()> {
        if size < BLOCK_BYTES {
            return Err(Error::new(
                Kind::BadSize,
                format!(
                    "a ram SR has at least {BLOCK_BYTES} bytes, device-config:size asks for {size}"
                ),
            ));
        }
        Memory::now()?.check_promise(size, 0, self.promised(uuid)?)
    }

    /// Bytes that other SRs were promised and have not used.
    fn promised(&self, except: &Name) -> Result<u64> {
        let others = self.srs()?.into_iter().filter(|found| found.stat.uuid != *except);
        Ok(others.map(|found| found.stat.free()).sum())
    }

    /// Attaches an SR: finds its memory, or makes it anew where a reboot has emptied it.
    ///
    /// # Errors
    /// [`Kind::OtherHost`], [`Kind::NoSpace`], or what mounting gives; nothing is left behind then.
    pub fn attach(&self, wanted: &Attachment) -> Result<Sr> {
        if wanted.host != self.uuid {
            return Err(Error::new(
                Kind::OtherHost,
                format!(
                    "SR {} lies in the memory of host {}, and this is host {}: a ram SR belongs \
                     to one host (create it with shared=false and plug only that host's PBD)",
                    wanted.uuid, wanted.host, self.uuid
                ),
            ));
        }
        let uuid = wanted.uuid.clone();
        let sr = Sr { host: self.clone(), layout: Layout::new(&self.sr_root, &uuid), uuid };
        // Promises are made one at a time, or two SRs could be promised the same memory.
        let promises = Lock::promises(self)?;
        let lock = Lock::sr(self, &sr.uuid)?;
        match Record::read(&sr.layout)? {
            Some(record) if record.attached && record.provider == wanted.provider => {}
            Some(mut record) => {
                record.attached = true;
                record.provider = wanted.provider;
                record.write(&sr.layout)?;
            }
            None => self.make(&sr, wanted)?,
        }
        files::restore_ballast(&sr.layout);
        // What cannot be collected, check explains; the SR is attached all the same.
        drop(promises);
        let _garbage = sr.collect_locked(lock, &mut Inactive);
        Ok(sr)
    }

    fn make(&self, sr: &Sr, wanted: &Attachment) -> Result<()> {
        // What an interrupted attach or destroy left has no record and holds nothing of value.
        mount::check_ours(&sr.layout)?;
        mount::remove(&sr.layout)?;
        self.check_size(&sr.uuid, wanted.size)?;
        mount::make(&sr.layout, wanted.size, self.may_mount)?;
        let record = Record {
            format: FORMAT,
            name: wanted.name.clone(),
            description: wanted.description.clone(),
            size: wanted.size,
            attached: true,
            generation: format!("{:08x}", Uuid::new_v4().as_fields().0),
            provider: wanted.provider,
        };
        let made = start_numbers(&sr.layout)
            .and_then(|()| Budget::set_used(&sr.layout, 0))
            .and_then(|()| record.write(&sr.layout));
        if made.is_err() {
            // The first error is the one to tell.
            let _incomplete = mount::remove(&sr.layout);
        }
        made
    }

    /// Destroys an SR and all that is in it, attached or not.
    ///
    /// # Errors
    /// [`Kind::SrMissing`]; [`Kind::SrInUse`] where a disk is active.
    pub fn destroy(&self, uuid: &Name) -> Result<()> {
        let sr =
            Sr { host: self.clone(), layout: Layout::new(&self.sr_root, uuid), uuid: uuid.clone() };
        let _lock = Lock::sr(self, uuid)?;
        if !sr.layout.root().exists() {
            return Err(Error::new(
                Kind::SrMissing,
                format!("there is no ram SR {uuid} on this host"),
            ));
        }
        mount::check_ours(&sr.layout)?;
        sr.check_idle("destroyed")?;
        // From here on it is no SR any more, also if the rest is interrupted.
        files::remove(&sr.layout.record())?;
        mount::remove(&sr.layout)
    }

    /// The SRs in this host's memory whose own records cannot be understood, and why: they can only
    /// be destroyed.
    ///
    /// # Errors
    /// Where the directory of SRs cannot be read.
    pub fn damaged_srs(&self) -> Result<Vec<(Name, Error)>> {
        let mut found = Vec::new();
        for name in names(&self.sr_root)? {
            let layout = Layout::new(&self.sr_root, &name);
            // A directory that holds anything else belongs to an SR of another type.
            if let Err(error) = Record::read(&layout)
                && mount::check_ours(&layout).is_ok()
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
            let layout = Layout::new(&self.sr_root, &name);
            // Other SRs' mounts lie here too; and one that is being destroyed is none any more.
            if let Ok(Some(record)) = Record::read(&layout) {
                found.push(self.summary(Sr { host: self.clone(), uuid: name, layout }, record)?);
            }
        }
        found.sort_by(|a, b| a.stat.uuid.cmp(&b.stat.uuid));
        Ok(found)
    }

    fn summary(&self, sr: Sr, record: Record) -> Result<Summary> {
        let attachment = Attachment {
            uuid: sr.uuid.clone(),
            name: record.name.clone(),
            description: record.description.clone(),
            size: record.size,
            host: self.uuid.clone(),
            provider: record.provider,
        };
        let used = used(&sr.layout)?;
        Ok(Summary { stat: sr.stat_of(record, used), attachment })
    }
}

impl Sr {
    /// Detaches the SR; its memory stays.
    ///
    /// # Errors
    /// [`Kind::SrInUse`] where a disk is active.
    pub fn detach(&self) -> Result<()> {
        let _lock = self.lock()?;
        let mut record = self.record()?;
        self.check_idle("detached")?;
        record.attached = false;
        record.write(&self.layout)
    }

    fn check_idle(&self, act: &str) -> Result<()> {
        let by = |key: &Name| match self.serving(key) {
            Ok(Some(serving)) => Some(serving.pid),
            _ => Some(self.borrower(key).ok()??.pid),
        };
        let mut keys = names(&self.layout.servings())?;
        keys.extend(names(&self.layout.volumes())?);
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
            Kind::SrInUse,
            format!(
                "SR {} cannot be {act}: its disks {} are active; unplug them (xe vbd-unplug) first",
                self.uuid,
                active.join(", ")
            ),
        ))
    }

    /// Who serves the volume now, if anybody does.
    ///
    /// # Errors
    /// Where the lock file cannot be read.
    pub fn serving(&self, key: &Name) -> Result<Option<Serving>> {
        let path = self.layout.serving(key);
        let Ok(file) = fs::File::open(&path) else { return Ok(None) };
        if try_lock(&file).while_doing(|| format!("locking {}", path.display()))? {
            return Ok(None);
        }
        let unknown = Serving { pid: 0, control_dir: String::new(), minor: 0, read_only: false };
        // A process that has the lock but has not written its name yet is about to serve.
        Ok(Some(files::read_json(&path).ok().flatten().unwrap_or(unknown)))
    }
}

/// The entries of a directory that are names; none where there is no directory.
pub(crate) fn names(directory: &Path) -> Result<Vec<Name>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.while_doing(|| format!("reading {}", directory.display()))?,
    };
    Ok(entries.filter_map(|entry| Name::parse(entry.ok()?.file_name().to_str()?).ok()).collect())
}
