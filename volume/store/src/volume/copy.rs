//! Copying a volume into another SR of this host: the blocks that hold data, and no others.
//!
//! The source is a hidden snapshot, and the destination is not listed before it is complete. Both
//! are locked all the time, so that one without a lock was left by a copy that died, and can be
//! collected.

use super::{NewVolume, Volume};
use crate::{
    block::BLOCK_BYTES,
    disk::{Disk, Open, Piece},
    error::{Error, ErrorKind, Result},
    host::Name,
    live::Live,
    memory::human,
    record::Serving,
    sr::{Exclusive, Sr},
};

/// Bytes that are copied at a time.
const STEP_BYTES: u64 = 4 << 20;

impl Sr {
    /// Copies a volume as it is now into `dest`; within an SR that is a clone.
    ///
    /// # Errors
    /// Those of [`Exclusive::snapshot_volume`] here and of [`Exclusive::create_volume`] there; nothing is
    /// left behind.
    pub fn copy_volume(
        &self,
        key: &str,
        dest: &Self,
        live: &mut dyn Live,
        dest_live: &mut dyn Live,
    ) -> Result<Volume> {
        if dest.uuid() == self.uuid() {
            return self.lock()?.clone_volume(key, live);
        }
        let origin = self.volume(key)?;
        let mut lock = self.lock()?;
        let mark = lock.mark();
        let still = lock.snapshot_hidden(key, live)?;
        let from = lock.open_here(&still.key, true);
        drop(lock);
        let copied = from.and_then(|mut from| {
            let new = NewVolume {
                name: &origin.name,
                description: &origin.description,
                size: i64::try_from(still.size).expect("a size within limits"),
                sharable: origin.sharable,
            };
            dest.copy_in(&new, &mut from, dest_live)
        });
        // A snapshot that cannot be destroyed now is collected later. The copy is complete.
        if self.lock().and_then(|lock| lock.destroy_volume(still.key.as_str(), live)).is_ok() {
            mark.end();
        }
        copied.map_err(|error| match error.kind() {
            ErrorKind::NoSpace => dest.no_room_for(&origin, error),
            _ => error,
        })
    }

    /// The error for a volume that does not fit into this SR.
    fn no_room_for(&self, origin: &Volume, cause: Error) -> Error {
        let free = self.stat().map_or(0, |stat| stat.free);
        let sentence = format!(
            "volume {} ({}) does not fit into SR {}, which has {} left: delete disks or snapshots \
             there, or copy it into a larger SR",
            origin.key,
            human(origin.size),
            self.uuid(),
            human(free)
        );
        Error::new(ErrorKind::NoSpace, sentence).caused_by(cause)
    }

    /// Makes a volume with the contents of `from`.
    fn copy_in(&self, new: &NewVolume<'_>, from: &mut Disk, live: &mut dyn Live) -> Result<Volume> {
        let mut lock = self.lock()?;
        let mark = lock.mark();
        let record = lock.create_record(new, true)?;
        let to = lock.open_here(&record.key, false);
        drop(lock);
        let copied = to.and_then(|mut to| {
            copy_blocks(from, &mut to)?;
            to.note_blocks();
            self.lock()?.finish(&record.key)
        });
        let is_left = copied.is_err()
            && self.lock().and_then(|lock| lock.destroy_volume(record.key.as_str(), live)).is_err();
        if !is_left {
            mark.end();
        }
        copied
    }
}

impl Exclusive<'_> {
    /// Shows a volume that is complete.
    fn finish(&mut self, key: &Name) -> Result<Volume> {
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

fn copy_blocks(from: &mut Disk, to: &mut Disk) -> Result<()> {
    let mut buffer = Vec::new();
    for at in (0..from.size()).step_by(usize::try_from(STEP_BYTES).expect("64-bit host")) {
        let length = STEP_BYTES.min(from.size() - at);
        let mut data = Vec::new();
        let mut offset = at;
        from.read(at, length, |piece| match piece {
            Piece::Zeroes(count) => offset += count,
            Piece::Data(slice) => {
                let count = slice.length() as u64;
                data.push((offset, slice));
                offset += count;
            }
        })?;
        for (offset, slice) in data {
            debug_assert_eq!(offset % BLOCK_BYTES, 0);
            buffer.resize(slice.length(), 0);
            slice.read(0, &mut buffer);
            to.write(offset, &buffer)?;
        }
    }
    Ok(())
}
