//! Copying a volume into another SR of this host: the blocks that hold data, and no others.

use super::{Live, NewVolume, Volume};
use crate::{
    block::BLOCK_BYTES,
    disk::{Disk, Open, Piece},
    error::Result,
    host::Name,
    sr::{Serving, Sr},
};

/// How much is copied at a time. Bytes.
const STEP_BYTES: u64 = 4 << 20;

impl Sr {
    /// Copies a volume as it is now into `dest`; within an SR that is a clone.
    ///
    /// # Errors
    /// Those of [`Sr::snapshot`] here and of [`Sr::create_volume`] there; nothing is left behind.
    pub fn copy(&self, key: &str, dest: &Self, live: &mut dyn Live) -> Result<Volume> {
        if dest.uuid == self.uuid {
            return self.clone_volume(key, live);
        }
        let origin = self.volume(key)?;
        let still = self.snapshot_hidden(key, live)?;
        let copied = dest
            .create_volume(&NewVolume {
                name: &origin.name,
                description: &origin.description,
                size: i64::try_from(still.size).expect("a size within limits"),
                sharable: origin.sharable,
            })
            .and_then(|copy| match self.copy_blocks(&still.key, dest, &copy.key) {
                Ok(()) => dest.volume(copy.key.as_str()),
                Err(error) => {
                    // The first error is the one to tell.
                    let _kept = dest.destroy_volume(copy.key.as_str(), live);
                    Err(error)
                }
            });
        self.destroy_volume(still.key.as_str(), live)?;
        copied
    }

    fn copy_blocks(&self, from: &Name, dest: &Self, to: &Name) -> Result<()> {
        let open = |sr: &Self, key: &Name, read_only| {
            let serving = Serving {
                pid: std::process::id(),
                control_dir: String::new(),
                minor: 0,
                read_only,
            };
            Disk::open(&sr.layout.volume(key), &Open { serving })
        };
        let (mut from, mut to) = (open(self, from, true)?, open(dest, to, false)?);
        let mut buffer = Vec::new();
        for at in (0..from.size()).step_by(usize::try_from(STEP_BYTES).expect("64-bit host")) {
            let length = STEP_BYTES.min(from.size() - at);
            let mut data = Vec::new();
            let mut offset = at;
            from.read(at, length, |piece| match piece {
                Piece::Zeros(count) => offset += count,
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
}
