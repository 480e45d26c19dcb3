//! Volumes on their way out of an SR and into one: for copies into another SR, and for files.
//!
//! What leaves is a hidden snapshot, and what arrives is not listed before it is complete. Both are locked all
//! the time, so that one without a lock was left by a process that died, and can be collected.

use super::{NewVolume, Volume};
use crate::{
    disk::{Disk, Open},
    error::Result,
    files::Mark,
    host::Name,
    live::Live,
    record::Serving,
    sr::{Exclusive, Sr},
};

/// A volume as it was at one moment, to be read; the volume itself may be written to meanwhile. What is left of
/// one that was not [ended](Self::end), as by a process that has died, the next operation on the SR frees.
#[derive(Debug)]
pub struct Outgoing<'a> {
    sr: &'a Sr,
    key: Name,
    disk: Disk,
    mark: Mark,
}

/// A volume that is being filled, and that is not listed before it is [complete](Self::finish). What is left of
/// one that was neither finished nor [abandoned](Self::abandon) the next operation on the SR frees.
#[derive(Debug)]
pub struct Incoming<'a> {
    sr: &'a Sr,
    key: Name,
    disk: Disk,
    mark: Mark,
}

impl Sr {
    /// A volume as it is now, to be read.
    ///
    /// # Errors
    /// Those of [`Exclusive::snapshot_volume`].
    pub fn outgoing(&self, key: &str, live: &mut dyn Live) -> Result<Outgoing<'_>> {
        let mut lock = self.lock()?;
        let mark = lock.mark();
        let key = lock.snapshot_hidden(key, live)?.key;
        let opened = lock.open_here(&key, true);
        drop(lock);
        match opened {
            Ok(disk) => Ok(Outgoing { sr: self, key, disk, mark }),
            Err(error) => {
                self.give_up(&key, mark, live);
                Err(error)
            }
        }
    }

    /// A new volume that is to be filled.
    ///
    /// # Errors
    /// Those of [`Exclusive::create_volume`].
    pub fn incoming(&self, new: &NewVolume<'_>, live: &mut dyn Live) -> Result<Incoming<'_>> {
        let mut lock = self.lock()?;
        let mark = lock.mark();
        let key = lock.create_record(new, true)?.key;
        let opened = lock.open_here(&key, false);
        drop(lock);
        match opened {
            Ok(disk) => Ok(Incoming { sr: self, key, disk, mark }),
            Err(error) => {
                self.give_up(&key, mark, live);
                Err(error)
            }
        }
    }

    /// Destroys a volume that was not shown. Where that fails, the mark has it collected later.
    fn give_up(&self, key: &Name, mark: Mark, live: &mut dyn Live) {
        if self.lock().and_then(|lock| lock.destroy_volume(key.as_str(), live)).is_ok() {
            mark.end();
        }
    }
}

impl Outgoing<'_> {
    /// Its bytes.
    pub fn disk(&mut self) -> &mut Disk {
        &mut self.disk
    }

    /// Frees what only this has needed. What cannot be freed now is collected later.
    pub fn end(self, live: &mut dyn Live) {
        drop(self.disk);
        self.sr.give_up(&self.key, self.mark, live);
    }
}

impl Incoming<'_> {
    /// Where its bytes are written to.
    pub fn disk(&mut self) -> &mut Disk {
        &mut self.disk
    }

    /// Shows the volume, which is complete.
    ///
    /// # Errors
    /// Where its record cannot be written. Nothing is left of it then.
    pub fn finish(mut self, live: &mut dyn Live) -> Result<Volume> {
        self.disk.note_blocks();
        let shown = self.sr.lock().and_then(|mut lock| lock.show(&self.key));
        match shown {
            Ok(volume) => {
                self.mark.end();
                Ok(volume)
            }
            Err(error) => {
                self.abandon(live);
                Err(error)
            }
        }
    }

    /// Frees what is there of it. What cannot be freed now is collected later.
    pub fn abandon(self, live: &mut dyn Live) {
        drop(self.disk);
        self.sr.give_up(&self.key, self.mark, live);
    }
}

impl Exclusive<'_> {
    /// Lists a volume from now on.
    fn show(&mut self, key: &Name) -> Result<Volume> {
        let mut record = self.volume_record(key)?;
        record.hidden = false;
        record.unfinished = false;
        self.write(&record)?;
        Ok(Volume::of(&self.dirs, record))
    }

    /// Serves a volume within this process.
    pub(crate) fn open_here(&self, key: &Name, read_only: bool) -> Result<Disk> {
        let serving =
            Serving { pid: std::process::id(), control_dir: String::new(), minor: 0, read_only };
        Disk::open_volume(&self.dirs, key, &Open { serving })
    }
}
