//! Reverting: a volume reads again what a snapshot kept, under its own identity.

use super::{
    Live,
    destroy::Gone,
    view::{Index, View},
};
use crate::{
    error::{Error, Kind, Result},
    host::Name,
    sr::{Sr, files, record::take_numbers},
};

impl Sr {
    /// Lets volume `key` read what `snapshot` reads.
    ///
    /// # Errors
    /// Those of [`Sr::volume`] for both; [`Kind::VolumeInUse`] where the volume is served;
    /// [`Kind::BadArgument`] where `snapshot` is no snapshot; [`Kind::ReadOnly`] where `key` is one.
    pub fn revert(&self, snapshot: &str, key: &str, live: &mut dyn Live) -> Result<()> {
        let (snapshot, key) = (Name::parse(snapshot)?, Name::parse(key)?);
        let lock = self.lock()?;
        self.sr_attached()?;
        let mut from = self.volume_record(&snapshot)?;
        let mut record = self.volume_record(&key)?;
        from.require_data()?;
        if from.read_write() || snapshot == key {
            return Err(Error::new(
                Kind::BadArgument,
                format!(
                    "volume {snapshot} is not a snapshot: volume {key} cannot be reverted to it"
                ),
            ));
        }
        if !record.read_write() {
            return Err(Error::new(
                Kind::ReadOnly,
                format!("volume {key} is a snapshot itself and cannot be reverted; clone it first"),
            ));
        }
        let held = self.hold(&key, "reverted")?;
        let gone = View::all_of(&self.layout, &record)?;
        let (old_index, old_top) = (record.index, record.own_top());
        let (top, index) = {
            let first = take_numbers(&self.layout, 2)?;
            (first, first + 1)
        };
        self.make_layer(top, from.size)?;
        Index::read(&self.layout, from.index)?.write(&self.layout, index, from.size)?;
        // What the snapshot alone needed is shared from now on.
        from.sole.clear();
        from.write(&self.layout)?;
        record.size = from.size;
        record.top = top;
        record.leaving.clear();
        record.index = index;
        record.sole.clear();
        record.join(&from);
        record.write(&self.layout)?;
        files::remove(&self.layout.index(old_index))?;
        drop(held);
        let records = self.volume_records()?;
        let gone = Gone { views: gone, owned: old_top.into_iter().collect(), was_written: true };
        self.release(lock, &record, records, gone, live)
    }
}
