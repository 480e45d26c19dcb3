//! Differences between two volumes: where their maps differ. Nothing is tracked while disks are
//! written, and nothing can be missed: a block that was written since it was shared lies in another
//! layer.

use crate::{
    block::{BLOCK_BYTES, CHUNK_BLOCKS, chunks},
    error::{Error, ErrorKind, Result},
    host::Name,
    record::{Index, Pages, Record, View},
    sr::Exclusive,
};

/// The range that one bit of a bitmap of changed blocks stands for, in bytes.
pub const GRANULE_BYTES: u64 = 64 << 10;

/// Blocks that changed between two volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedBlocks {
    /// Where the first bit lies, in bytes: the offset asked for, rounded down to a granule.
    pub offset: u64,
    /// One bit per granule, the first in the most significant bit of the first byte.
    pub bitmap: Vec<u8>,
}

impl Exclusive<'_> {
    /// Ranges, in bytes, in which volume `key` may differ from `key2`; without a `key2`, or with one
    /// that it shares nothing with, the ranges of `key` that hold anything.
    ///
    /// # Errors
    /// Those of [`Sr::volume`](crate::Sr::volume) for `key`.
    pub fn compare_volumes(&self, key: &str, key2: &str) -> Result<Vec<(u64, u64)>> {
        let record = self.volume_record(&Name::parse(key)?)?;
        let nothing = View { index: Index::default(), has_data: false, number: 0 };
        let other = match Name::parse(key2).and_then(|key2| self.volume_record(&key2)) {
            Ok(other) if other.may_share(&record) => View::of(&self.dirs, &other)?,
            Ok(_) => nothing,
            Err(error) => match error.kind() {
                ErrorKind::VolumeMissing | ErrorKind::VolumeLost | ErrorKind::BadArgument => {
                    nothing
                }
                _ => return Err(error),
            },
        };
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let view = View::of(&self.dirs, &record)?;
        self.for_differing(&view, &other, chunks(record.size), |block| {
            let start = block * BLOCK_BYTES;
            match ranges.last_mut() {
                Some((from, length)) if *from + *length == start => *length += BLOCK_BYTES,
                _ => ranges.push((start, BLOCK_BYTES)),
            }
        })?;
        ranges.retain(|&(start, _)| start < record.size);
        if let Some((start, length)) = ranges.last_mut() {
            *length = (*length).min(record.size - *start);
        }
        Ok(ranges)
    }

    /// The blocks that changed from volume `key` to `key2`, in `length` bytes (-1: all) from
    /// `offset` on.
    ///
    /// # Errors
    /// Those of [`Sr::volume`](crate::Sr::volume) for both; [`ErrorKind::BadArgument`] for a range outside `key2`.
    pub fn changed_blocks(
        &self,
        key: &str,
        key2: &str,
        offset: i64,
        length: i64,
    ) -> Result<ChangedBlocks> {
        let old = self.volume_record(&Name::parse(key)?)?;
        let new = self.volume_record(&Name::parse(key2)?)?;
        let size = new.size;
        let outside = || {
            Error::new(
                ErrorKind::BadArgument,
                format!(
                    "changed blocks of {length} bytes at {offset} were asked for, but volume {key2} \
                     has {size} bytes; offset counts from 0, and length -1 means all"
                ),
            )
        };
        let offset = u64::try_from(offset).ok().filter(|&at| at <= size).ok_or_else(outside)?;
        let end = match length {
            -1 => size,
            _ => u64::try_from(length)
                .ok()
                .and_then(|length| offset.checked_add(length))
                .ok_or_else(outside)?,
        };
        if end > size {
            return Err(outside());
        }
        let first = offset / GRANULE_BYTES;
        let granules = end.div_ceil(GRANULE_BYTES).saturating_sub(first);
        let mut bitmap = vec![0_u8; usize::try_from(granules.div_ceil(8)).expect("64-bit host")];
        let (old, new) = (View::of(&self.dirs, &old)?, View::of(&self.dirs, &new)?);
        self.for_differing(&new, &old, chunks(size), |block| {
            let granule = block * BLOCK_BYTES / GRANULE_BYTES;
            // Beyond the end of the newer one nothing has changed, though an older, larger one may
            // have held something there.
            if block * BLOCK_BYTES < size && (first..first + granules).contains(&granule) {
                let bit = usize::try_from(granule - first).expect("64-bit host");
                bitmap[bit / 8] |= 0x80 >> (bit % 8);
            }
        })?;
        Ok(ChangedBlocks { offset: first * GRANULE_BYTES, bitmap })
    }

    /// The volumes that share data with this one, the most similar first.
    ///
    /// # Errors
    /// Those of [`Sr::volume`](crate::Sr::volume).
    pub fn similar_volumes(&self, key: &str) -> Result<Vec<Name>> {
        let record = self.volume_record(&Name::parse(key)?)?;
        let view = View::of(&self.dirs, &record)?;
        let mut found: Vec<(u64, Record)> = Vec::new();
        for other in self.sharing(&record)?.into_iter().filter(|other| !other.hidden) {
            let theirs = match View::of(&self.dirs, &other) {
                Err(error) if error.tells_damage() => continue,
                theirs => theirs?,
            };
            let mut differing = 0;
            let last = chunks(record.size.max(other.size));
            self.for_differing(&view, &theirs, last, |_| differing += 1)?;
            found.push((differing, other));
        }
        found.sort_by(|a, b| (a.0, &a.1.key).cmp(&(b.0, &b.1.key)));
        Ok(found.into_iter().map(|(_, other)| other.key).collect())
    }

    /// Calls `each` with the numbers of the blocks whose entries differ, ascending.
    fn for_differing(
        &self,
        one: &View,
        other: &View,
        chunks: usize,
        mut each: impl FnMut(u64),
    ) -> Result<()> {
        let mut pages = Pages::new(&self.dirs);
        for chunk in 0..chunks {
            if one.at(chunk) == other.at(chunk) {
                continue;
            }
            let (one, other) = (pages.entries(one, chunk)?, pages.entries(other, chunk)?);
            pages.forget();
            for position in 0..CHUNK_BLOCKS {
                let at = usize::try_from(position).expect("less than a chunk");
                if one[at] != other[at] {
                    each(chunk as u64 * CHUNK_BLOCKS + position);
                }
            }
        }
        Ok(())
    }
}
