//! What is changed in place: texts, keys, the size.

use super::{content_id::CONTENT_ID, create::check_size};
use crate::{
    block,
    error::{Context, Error, ErrorKind, Result},
    files::{self, Entry, steps},
    host::Name,
    memory::human,
    record::Record,
    sr::Exclusive,
    texts,
};

impl Exclusive<'_> {
    /// Gives a volume another name.
    ///
    /// # Errors
    /// Those of [`Sr::volume`](crate::Sr::volume); [`ErrorKind::BadArgument`] for a text that is too long;
    /// [`ErrorKind::NoSpace`] for one that is longer than the one before in a full SR; or what writing the
    /// record gives. So for all that follow.
    pub fn set_volume_name(&mut self, key: &str, name: &str) -> Result<()> {
        self.update_volume(key, |record| name.clone_into(&mut record.name))
    }

    /// Gives a volume another description.
    ///
    /// # Errors
    /// As [`Self::set_volume_name`].
    pub fn set_volume_description(&mut self, key: &str, description: &str) -> Result<()> {
        self.update_volume(key, |record| description.clone_into(&mut record.description))
    }

    /// Keeps a value with a volume, replacing an earlier one.
    ///
    /// # Errors
    /// As [`Self::set_volume_name`].
    pub fn set_volume_key(&mut self, key: &str, name: &str, value: &str) -> Result<()> {
        if name == CONTENT_ID && self.is_key_of_volume(value) {
            return Ok(());
        }
        self.update_volume(key, |record| {
            record.keys.insert(name.to_owned(), value.to_owned());
        })
    }

    /// Forgets a value; one that is not there is forgotten already.
    ///
    /// # Errors
    /// As [`Self::set_volume_name`].
    pub fn unset_volume_key(&mut self, key: &str, name: &str) -> Result<()> {
        self.update_volume(key, |record| {
            record.keys.remove(name);
            if name == CONTENT_ID {
                record.renew_content_id();
            }
        })
    }

    /// Says whether changed block tracking is on. It always is: this is what callers want to hear.
    ///
    /// # Errors
    /// As [`Self::set_volume_name`].
    pub fn set_volume_cbt(&mut self, key: &str, enabled: bool) -> Result<()> {
        self.update_volume(key, |record| record.cbt_enabled = enabled)
    }

    fn update_volume(&mut self, key: &str, change: impl FnOnce(&mut Record)) -> Result<()> {
        let key = Name::parse(key)?;
        let mut record = self.volume_record(&key)?;
        let before = record.texts_bytes();
        change(&mut record);
        // A volume that got more before there was a limit can still be changed otherwise.
        if record.texts_bytes() > before {
            texts::check_all(&record.name, &record.description, &record.keys)?;
            self.require_room(0)?;
        }
        self.write(&record)
    }

    /// Makes a volume larger; the new size in bytes, rounded up. A disk that is being served has to
    /// be told by the caller.
    ///
    /// # Errors
    /// As [`Self::set_volume_name`]; [`ErrorKind::BadSize`] where it would become smaller, or too large.
    pub fn resize_volume(&mut self, key: &str, new_size: i64) -> Result<u64> {
        let size = check_size(new_size)?;
        let key = Name::parse(key)?;
        let mut record = self.volume_record(&key)?;
        record.require_no_external_holder("resized")?;
        if size < record.size {
            return Err(Error::new(
                ErrorKind::BadSize,
                format!(
                    "volume {key} has {} bytes ({}) and cannot shrink to {new_size}: what lies \
                     beyond would be lost; create a smaller disk (xe vdi-create) and copy the files \
                     over where both are plugged",
                    record.size,
                    human(record.size)
                ),
            ));
        }
        if !record.read_write() {
            return Err(Error::new(
                ErrorKind::ReadOnly,
                format!(
                    "volume {key} is a snapshot: its size does not change; resize a clone of it"
                ),
            ));
        }
        let index = Entry::Index(record.index);
        let file = self.dirs.edit(index)?;
        let length = block::chunks(size) as u64 * 4;
        // One that is longer counts the blocks, and has room for all entries.
        if file.metadata().doing("looking up", || self.dirs.path(index))?.len() < length {
            files::with_ballast(&self.dirs, || steps::set_len(&file, length))
                .doing("extending", || self.dirs.path(index))?;
        }
        if size != record.size {
            record.renew_content_id();
        }
        record.size = size;
        self.write(&record)?;
        Ok(size)
    }
}
