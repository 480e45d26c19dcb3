//! Composing: the changes of a child since it was cloned, over the contents of its parent.
//!
//! Order, for a kill at any moment: the parent writes to a new top; the child's record is renamed
//! into place, which commits; the parent is removed. Where a kill has spared the parent, composing
//! once more changes nothing that is read, and removes it.

use crate::{
    block::{CHUNK_BLOCKS, Layer, PAGE_BYTES, chunks, is_data},
    error::{Context, Error, ErrorKind, Result},
    files::{Entry, steps},
    host::Name,
    live::Live,
    record::{Delta, Index, Named, Pages, Record, View},
    sr::Exclusive,
};

impl Exclusive<'_> {
    /// Lets `child` read its own updates over the contents of `parent`, under its own identity, and
    /// destroys `parent`. Its updates are the entries that differ from the map that it started
    /// from.
    ///
    /// # Errors
    /// Those of [`Sr::volume`](crate::Sr::volume) for both; [`ErrorKind::VolumeInUse`] where one of them is served;
    /// [`ErrorKind::ReadOnly`] where the child is a snapshot.
    pub fn compose_volumes(mut self, child: &str, parent: &str, live: &mut dyn Live) -> Result<()> {
        let (child, parent) = (Name::parse(child)?, Name::parse(parent)?);
        if child == parent {
            return Err(Error::new(
                ErrorKind::BadArgument,
                format!("volume {child} cannot be composed with itself"),
            ));
        }
        let mut record = self.volume_record(&child)?;
        let below = self.volume_record(&parent)?;
        record.require_data()?;
        below.require_data()?;
        if !record.read_write() {
            return Err(Error::new(
                ErrorKind::ReadOnly,
                format!("volume {child} is a snapshot: nothing can be composed into it"),
            ));
        }
        let held = self.hold(&child, "composed")?;
        // A session of the parent is served from a clone of it, which would be left behind.
        let mut removal = self.prepare_removal(below, "composed")?;
        let below = &mut removal.record;
        // Its map pages are those of the child at most, and its index has entries of both.
        let allocated = |index| self.dirs.allocated(Entry::Index(index));
        let indexes = allocated(record.index) + allocated(below.index);
        let pages = View::of(&self.dirs, &record)?.chunks().count() as u64 * PAGE_BYTES;
        let first = self.take_numbers(3, indexes + pages)?;
        let (top, index, parent_top) = (first, first + 1, first + 2);
        let size = record.size.max(below.size);
        self.make_layer(top, size)?;
        self.write_composed(&record, below, top, index, size)?;
        // The child will name the parent's top: from here on it must not be written to.
        if below.read_write() {
            self.make_layer(parent_top, below.size)?;
            below.top = parent_top;
        }
        // What only one of the two has needed, and what they have let go of in it, may be needed by none.
        let (mut former, mut former_maps) = below.take_sole();
        record.join(below);
        self.write(below)?;
        let child_views = View::all_of(&self.dirs, &record)?;
        let old_index = record.index;
        let has_previous_tops = !record.previous_tops.is_empty();
        record.size = size;
        record.top = top;
        record.index = index;
        record.previous_tops.clear();
        let (sole, sole_maps) = record.take_sole();
        former.extend(sole);
        former_maps.extend(sole_maps);
        record.renew_content_id();
        self.write(&record)?;
        self.dirs.remove(Entry::Index(old_index))?;
        let (parent, mut destroyed) = self.remove(removal)?;
        record.join(&parent);
        drop(held);
        destroyed.views.extend(child_views);
        (destroyed.former_sole, destroyed.former_sole_maps) = (former, former_maps);
        destroyed.was_written = true;
        destroyed.has_previous_tops |= has_previous_tops;
        let records = self.volume_records()?;
        self.release(&record, records, destroyed, live)
    }

    fn write_composed(
        &self,
        child: &Record,
        parent: &Record,
        top: Layer,
        number: u32,
        size: u64,
    ) -> Result<()> {
        let mut pages = Pages::new(&self.dirs);
        let (over, under) = (View::of(&self.dirs, child)?, View::of(&self.dirs, parent)?);
        let start = match child.base {
            Some(base) => Index::read(&self.dirs, base)?,
            None => Index::default(),
        };
        let start = View { index: start, has_data: false, number: 0 };
        let map = self.dirs.edit(Entry::Map(top))?;
        let mut index = Index::new(under.index.said);
        for chunk in 0..chunks(size) {
            let (own, from, parent) = (over.at(chunk), start.at(chunk), under.at(chunk));
            if own == from || own == parent {
                index.push(chunk, parent);
                continue;
            }
            let (over, from, under) = (
                pages.entries(&over, chunk)?,
                pages.entries(&start, chunk)?,
                pages.entries(&under, chunk)?,
            );
            let mut bytes = [0; PAGE_BYTES as usize];
            let mut merged = Vec::with_capacity(CHUNK_BLOCKS as usize);
            for ((&over, &from), &under) in over.iter().zip(from.iter()).zip(under.iter()) {
                merged.push(if over == from { under } else { over });
            }
            let data = |entries: &[Layer]| entries.iter().filter(|it| is_data(**it)).count() as u64;
            let blocks = &mut index.said.blocks;
            *blocks = blocks.map(|it| (it + data(&merged)).saturating_sub(data(&*under)));
            if !is_data(merged[0]) && merged.iter().all(|&entry| entry == merged[0]) {
                index.push(chunk, Named { base: merged[0], delta: None });
                continue;
            }
            let over = pages.of(Named { delta: None, ..parent }, chunk)?;
            if index.said.has_slots
                && let Some(delta) = Delta::between(&*over, &merged)
            {
                let delta = Some(&delta).filter(|delta| !delta.is_empty());
                index.push(chunk, Named { delta, ..parent });
                continue;
            }
            for (entry, merged) in bytes.chunks_exact_mut(4).zip(merged) {
                entry.copy_from_slice(&merged.to_ne_bytes());
            }
            let at = chunk as u64 * PAGE_BYTES;
            self.dirs
                .counted(&map, || steps::write_at(&map, &bytes, at))
                .doing("writing", || self.dirs.path(Entry::Map(top)))?;
            index.push(chunk, Named { base: top, delta: None });
            pages.forget();
        }
        index.write(&self.dirs, number, size)
    }
}
