//! What is changed in place: texts, keys, the size.

use super::{Record, create::check_size};
use crate::{
    block,
    error::{Context, Error, Kind, Result},
    host::Name,
    memory::human,
    sr::{Sr, files, steps},
};

impl Sr {
    /// Gives a volume another name.
    ///
    /// # Errors
    /// Those of [`Sr::volume`], or what writing its record gives. So for all that follow.
    pub fn set_volume_name(&self, key: &str, name: &str) -> Result<()> {
        self.update_volume(key, |record| name.clone_into(&mut record.name))
    }

    /// Gives a volume another description.
    ///
    /// # Errors
    /// As [`Sr::set_volume_name`].
    pub fn set_volume_description(&self, key: &str, description: &str) -> Result<()> {
        self.update_volume(key, |record| description.clone_into(&mut record.description))
    }

    /// Keeps a value with a volume, replacing an earlier one.
    ///
    /// # Errors
    /// As [`Sr::set_volume_name`].
    pub fn set_key(&self, key: &str, name: &str, value: &str) -> Result<()> {
        self.update_volume(key, |record| {
            record.keys.insert(name.to_owned(), value.to_owned());
        })
    }

    /// Forgets a value; one that is not there is forgotten already.
    ///
    /// # Errors
    /// As [`Sr::set_volume_name`].
    pub fn unset_key(&self, key: &str, name: &str) -> Result<()> {
        self.update_volume(key, |record| {
            record.keys.remove(name);
        })
    }

    /// Says whether changed block tracking is on. It always is: this is what callers want to hear.
    ///
    /// # Errors
    /// As [`Sr::set_volume_name`].
    pub fn set_cbt_enabled(&self, key: &str, enabled: bool) -> Result<()> {
        self.update_volume(key, |record| record.cbt_enabled = enabled)
    }

    fn update_volume(&self, key: &str, change: impl FnOnce(&mut Record)) -> Result<()> {
        let key = Name::parse(key)?;
        let _lock = self.lock()?;
        self.sr_attached()?;
        let mut record = self.volume_record(&key)?;
        change(&mut record);
        record.write(&self.layout)
    }

    /// Makes a volume larger; the new size in bytes, rounded up. A disk that is being served has to
    /// be told by the caller.
    ///
    /// # Errors
    /// Those of [`Sr::volume`]; [`Kind::BadSize`] where it would become smaller, or too large.
    pub fn resize(&self, key: &str, new_size: i64) -> Result<u64> {
        let size = check_size(new_size)?;
        let key = Name::parse(key)?;
        let _lock = self.lock()?;
        let provider = self.record()?.provider;
        let mut record = self.volume_record(&key)?;
        record.require_home("resized")?;
        provider.check_size(size)?;
        if size < record.size {
            return Err(Error::new(
                Kind::BadSize,
                format!(
                    "volume {key} has {} bytes ({}) and cannot shrink to {new_size}: what lies \
                     beyond would be lost; copy it into a smaller one instead",
                    record.size,
                    human(record.size)
                ),
            ));
        }
        if !record.read_write() {
            return Err(Error::new(
                Kind::ReadOnly,
                format!(
                    "volume {key} is a snapshot: its size does not change; resize a clone of it"
                ),
            ));
        }
        let index = self.layout.index(record.index);
        files::with_ballast(&self.layout, || {
            let file = std::fs::OpenOptions::new().write(true).open(&index)?;
            steps::set_len(&file, block::chunks(size) as u64 * 4)
        })
        .while_doing(|| format!("extending {}", index.display()))?;
        record.size = size;
        record.write(&self.layout)?;
        Ok(size)
    }

    pub(crate) fn sr_attached(&self) -> Result<()> {
        self.record().map(drop)
    }
}
