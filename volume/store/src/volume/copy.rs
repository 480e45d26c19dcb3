//! Copying a volume into another SR of this host: the blocks that hold data, and no others.

use super::{NewVolume, Volume};
use crate::{
    block::BLOCK_BYTES,
    disk::{Disk, Piece},
    error::{Error, ErrorKind, Result},
    live::Live,
    memory::human,
    sr::Sr,
};

/// Bytes that are copied at a time.
const STEP_BYTES: u64 = 4 << 20;

impl Sr {
    /// Copies a volume as it is now into `dest`; within an SR that is a clone.
    ///
    /// # Errors
    /// Those of [`Exclusive::snapshot_volume`](crate::Exclusive::snapshot_volume) here and of
    /// [`Exclusive::create_volume`](crate::Exclusive::create_volume) there; nothing is left behind.
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
        let mut from = self.outgoing(key, live)?;
        let new = NewVolume {
            name: &origin.name,
            description: &origin.description,
            size: i64::try_from(from.disk().size()).expect("a size within limits"),
            sharable: origin.sharable,
        };
        let copied = dest.copy_in(&new, from.disk(), dest_live);
        from.end(live);
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
        let mut to = self.incoming(new, live)?;
        match copy_blocks(from, to.disk()) {
            Ok(()) => to.finish(live),
            Err(error) => {
                to.abandon(live);
                Err(error)
            }
        }
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
