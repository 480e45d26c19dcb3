//! Reverting: a volume reads again what a snapshot kept, under its own identity.

use super::destroy::Destroyed;
use crate::{
    block::BLOCK_BYTES,
    error::{Error, ErrorKind, Result},
    files::Entry,
    host::Name,
    live::Live,
    record::{Index, View},
    sr::Exclusive,
};

impl Exclusive<'_> {
    /// Lets volume `key` read what `snapshot` reads.
    ///
    /// # Errors
    /// Those of [`Sr::volume`](crate::Sr::volume) for both; [`ErrorKind::VolumeInUse`] where the volume is served;
    /// [`ErrorKind::BadArgument`] where `snapshot` is no snapshot; [`ErrorKind::ReadOnly`] where `key` is one.
    pub fn revert_volume(mut self, snapshot: &str, key: &str, live: &mut dyn Live) -> Result<()> {
        let (snapshot, key) = (Name::parse(snapshot)?, Name::parse(key)?);
        let mut from = self.volume_record(&snapshot)?;
        let mut record = self.volume_record(&key)?;
        from.require_data()?;
        if from.read_write() || snapshot == key {
            return Err(Error::new(
                ErrorKind::BadArgument,
                format!(
                    "volume {snapshot} is not a snapshot: volume {key} cannot be reverted to it"
                ),
            ));
        }
        if !record.read_write() {
            return Err(Error::new(
                ErrorKind::ReadOnly,
                format!("volume {key} is a snapshot itself and cannot be reverted; clone it first"),
            ));
        }
        let held = self.hold(&key, "reverted")?;
        let destroyed = View::all_of(&self.dirs, &record)?;
        let (old_index, old_top) = (record.index, record.own_top());
        let has_previous_tops = !record.previous_tops.is_empty();
        let bytes = self.dirs.allocated(Entry::Index(from.index)) + BLOCK_BYTES;
        let top = self.take_numbers(2, bytes)?;
        let index = top + 1;
        self.make_layer(top, from.size)?;
        Index::read(&self.dirs, from.index)?.write(&self.dirs, index, from.size)?;
        // What the snapshot alone needed is shared from now on.
        from.clear_sole();
        self.write(&from)?;
        record.size = from.size;
        record.top = top;
        record.previous_tops.clear();
        record.index = index;
        let (sole, sole_maps) = record.take_sole();
        record.renew_content_id();
        record.join(&from);
        self.write(&record)?;
        self.dirs.remove(Entry::Index(old_index))?;
        drop(held);
        let records = self.volume_records()?;
        let destroyed = Destroyed {
            views: destroyed,
            owned: old_top.into_iter().collect(),
            sole,
            sole_maps,
            former_sole: Vec::new(),
            former_sole_maps: Vec::new(),
            was_written: true,
            has_previous_tops,
        };
        self.release(&record, records, destroyed, live)
    }
}
