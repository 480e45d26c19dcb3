//! What identifies the contents of a volume: the key `content_id`, by which xapi finds volumes that a copy
//! can begin from. Two volumes have the same one only if their bytes are the same, so it is a new one
//! whenever the bytes of a volume may change from then on.

use super::Volume;
use crate::{error::Result, host::Name, random::random_uuid, record::Record, sr::Exclusive};

/// The key that xapi reads it from.
pub(crate) const CONTENT_ID: &str = "content_id";

impl Record {
    /// Gives the contents a new identity.
    pub(crate) fn renew_content_id(&mut self) {
        self.keys.insert(CONTENT_ID.to_owned(), random_uuid().to_string());
    }

    /// The identity of the contents. Volumes from before there was one have that of their key.
    pub(crate) fn content_id(&self) -> String {
        self.keys.get(CONTENT_ID).cloned().unwrap_or_else(|| self.key.to_string())
    }
}

impl Volume {
    /// With the identity of the contents among the keys.
    pub(super) fn with_content_id(mut self, content_id: String) -> Self {
        self.keys.insert(CONTENT_ID.to_owned(), content_id);
        self
    }
}

impl Exclusive<'_> {
    /// Gives the contents of a volume a new identity: it is about to be served for writing.
    ///
    /// # Errors
    /// As [`Self::set_volume_name`].
    pub fn renew_content_id(&mut self, key: &Name) -> Result<()> {
        let mut record = self.volume_record(key)?;
        record.renew_content_id();
        self.write(&record)
    }

    /// Whether a value for the key `content_id` is only the key of a volume. xapi sets that of a snapshot
    /// to the key of its source where it has no better one, though their bytes will differ.
    pub(super) fn is_key_of_volume(&self, value: &str) -> bool {
        Name::parse(value).is_ok_and(|key| self.find_volume(&key).is_ok_and(|it| it.is_some()))
    }
}
