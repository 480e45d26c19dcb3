//! The one object through which every byte of a VBD passes.

use std::{io, ops::Range};

use memory::WriteSlice;
use slab::Slab;

use crate::{
    Budget, Dirty, Disk, Extent, Pins, StatusExtent,
    erase::{Change, Erase, STEP_BYTES, Started, mark},
};

/// Unit in which failures are counted. Bytes.
const SECTOR_BYTES: u64 = 512;

/// Requests that the disk could not carry out, counted in sectors of 512 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// Sectors of reads.
    pub read_sectors: u64,
    /// Sectors of writes.
    pub write_sectors: u64,
}

/// Names a bitmap of a drive: see [`Drive::track`].
#[derive(Debug)]
pub struct Tracker(usize);

/// Everything that is attached to a drive and outlives its disk while that is paused: pinned replies,
/// changes that are under way, dirty bitmaps, counters.
#[derive(Debug, Default)]
pub struct Attachments {
    pins: Pins,
    erases: Slab<Erase>,
    /// The change that had its turn last.
    last_erase: usize,
    bitmaps: Slab<Dirty>,
    failures: Failures,
}

impl Attachments {
    /// Where queues of replies register that may point into the disk.
    #[must_use]
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Requests that the disk could not carry out.
    #[must_use]
    pub fn failures(&self) -> Failures {
        self.failures
    }

    /// Whether changes are under way.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.erases.is_empty()
    }

    /// The bitmap of a tracker of this drive.
    #[must_use]
    pub fn dirty(&self, tracker: &Tracker) -> &Dirty {
        &self.bitmaps[tracker.0]
    }

    /// Stops marking, and gives the bitmap back.
    #[allow(clippy::needless_pass_by_value, reason = "the tracker is of no use afterwards")]
    pub fn untrack(&mut self, tracker: Tracker) -> Dirty {
        self.bitmaps.remove(tracker.0)
    }

    /// Whose turn it is among the changes that are under way.
    fn next_erase(&mut self) -> Option<usize> {
        let keys = self.erases.iter().map(|(key, _)| key);
        let key = keys.clone().find(|&key| key > self.last_erase).or_else(|| keys.min())?;
        self.last_erase = key;
        Some(key)
    }
}

impl Drop for Attachments {
    fn drop(&mut self) {
        self.pins.copy_out_all();
        self.erases.drain().for_each(Erase::cancel);
    }
}

/// A disk, and what keeps it consistent for everything that uses it at the same time.
///
/// Every change of the disk happens in this order: the parts of earlier large changes
/// that lie in its range are done; replies that point into its blocks are copied out; the disk is
/// changed; dirty bitmaps are marked.
///
/// Dropping a drive closes the disk: replies that point into it are copied before, and changes that are
/// under way are answered with `ESHUTDOWN`.
#[derive(Debug)]
pub struct Drive<D> {
    // Before the disk, so that it is dropped first: replies are copied while the disk is still locked.
    attachments: Attachments,
    disk: D,
}

impl<D: Disk> Drive<D> {
    /// A drive with nothing attached to it yet.
    #[must_use]
    pub fn new(disk: D) -> Self {
        Self::with(disk, Attachments::default())
    }

    /// Gives attachments their disk back, or another one.
    #[must_use]
    pub fn with(disk: D, attachments: Attachments) -> Self {
        Self { attachments, disk }
    }

    /// Takes the disk away from what is attached to it. No reply points into the disk afterwards.
    #[must_use]
    pub fn detach(self) -> (D, Attachments) {
        self.attachments.pins.copy_out_all();
        (self.disk, self.attachments)
    }

    /// Everything that is attached to the drive.
    #[must_use]
    pub fn attachments(&self) -> &Attachments {
        &self.attachments
    }

    /// The same, to be changed.
    #[must_use]
    pub fn attachments_mut(&mut self) -> &mut Attachments {
        &mut self.attachments
    }

    /// The structure of the disk: everything that can be changed beside its bytes.
    pub fn structure(&mut self) -> &mut D::Structure {
        self.disk.structure()
    }

    /// Size in bytes.
    #[inline]
    #[must_use]
    pub fn size(&self) -> u64 {
        self.disk.size()
    }

    /// Whether writes are refused.
    #[inline]
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.disk.read_only()
    }

    /// Appends extents that, in order, cover the range.
    ///
    /// # Errors
    /// Where the range cannot be read; what was appended is then ignored.
    #[inline]
    pub fn read(&mut self, offset: u64, length: u32, into: &mut Vec<Extent>) -> io::Result<()> {
        self.disk.read(offset, length, into).inspect_err(|_| {
            self.attachments.failures.read_sectors += u64::from(length).div_ceil(SECTOR_BYTES);
        })
    }

    /// Says that the byte at `offset` is read or written soon: see [`Disk::prefetch`].
    #[inline]
    pub fn prefetch(&mut self, offset: u64) {
        if offset < self.size() {
            self.disk.prefetch(offset);
        }
    }

    /// Stores the bytes.
    ///
    /// # Errors
    /// Where there is no space; then a part may have been stored.
    #[inline]
    pub fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let range = offset..offset + data.len() as u64;
        self.prepare(&range);
        let written = self.disk.write(offset, data);
        self.mark(&range);
        written.inspect_err(|_| {
            self.attachments.failures.write_sectors += (data.len() as u64).div_ceil(SECTOR_BYTES);
        })
    }

    /// Begins a write whose bytes another program puts where they belong, as a hypervisor does: appends
    /// the places that, in order, make up the range. `false`: the bytes have to be given to
    /// [`write`](Self::write), as the range is not all where it can be changed.
    ///
    /// The places must be written before the turn ends, and before anything else changes that range.
    /// Several writes may be begun together.
    ///
    /// # Errors
    /// Where the disk cannot tell.
    #[inline]
    pub fn write_in_place(
        &mut self,
        offset: u64,
        length: u32,
        into: &mut Vec<WriteSlice>,
    ) -> io::Result<bool> {
        let range = offset..offset + u64::from(length);
        self.prepare(&range);
        let in_place = self.disk.places(offset, length, into)?;
        if in_place {
            self.mark(&range);
        }
        Ok(in_place)
    }

    /// Gives a range up. A large one is done in steps beside other requests.
    pub fn discard(&mut self, offset: u64, length: u64) -> Started {
        self.erase(Change::Discard, offset..offset + length)
    }

    /// Makes a range read as zeroes. With `keep_allocated` later writes there find space. A large range
    /// is done in steps beside other requests.
    pub fn write_zeroes(&mut self, offset: u64, length: u64, keep_allocated: bool) -> Started {
        self.erase(Change::Zeroes { keep_allocated }, offset..offset + length)
    }

    /// Makes everything acknowledged as permanent as it can be.
    ///
    /// # Errors
    /// Where the disk cannot.
    #[inline]
    pub fn flush(&mut self) -> io::Result<()> {
        self.disk.flush()
    }

    /// Appends the allocation status from `offset` on: see [`Disk::status`].
    ///
    /// # Errors
    /// Where that cannot be told.
    pub fn status(
        &mut self,
        offset: u64,
        length: u64,
        into: &mut Vec<StatusExtent>,
    ) -> io::Result<()> {
        self.disk.status(offset, length, into)
    }

    fn erase(&mut self, change: Change, range: Range<u64>) -> Started {
        if range.end - range.start <= STEP_BYTES {
            self.prepare(&range);
            let done = change.apply(&mut self.disk, range.clone());
            self.mark(&range);
            return Started::Done(done);
        }
        let erase = Erase::new(change, range);
        let completion = erase.completion();
        self.attachments.erases.insert(erase);
        Started::Later(completion)
    }

    /// Does the next steps of one of the changes that are under way, as far as the budget goes; they
    /// take turns. Whether one of them was finished, and its completion has a result.
    pub fn work(&mut self, budget: &mut Budget) -> bool {
        let Some(key) = self.attachments.next_erase() else { return false };
        while !budget.is_spent() {
            let Some((change, range)) = self.attachments.erases[key].next() else { break };
            budget.spend(usize::try_from(range.end - range.start).unwrap_or(usize::MAX));
            self.apply(key, change, &range);
        }
        let finished = self.attachments.erases[key].is_done();
        if finished {
            self.attachments.erases.remove(key).finish();
        }
        finished
    }

    /// Before a range is changed: earlier large changes are done there, and replies that point into its
    /// blocks are copied out.
    #[inline]
    fn prepare(&mut self, range: &Range<u64>) {
        if self.attachments.has_work() {
            self.overtake(range);
        }
        self.copy_out(range);
    }

    /// Does the parts of large changes that lie in the blocks of a range: they were asked for before,
    /// and must not be done after what comes now.
    #[cold]
    fn overtake(&mut self, range: &Range<u64>) {
        let blocks = blocks::<D>(range);
        let keys: Vec<usize> = self.attachments.erases.iter().map(|(key, _)| key).collect();
        for key in keys {
            for (change, part) in self.attachments.erases[key].split_off(&blocks) {
                self.apply(key, change, &part);
            }
        }
    }

    /// Does a part of a large change.
    fn apply(&mut self, key: usize, change: Change, range: &Range<u64>) {
        self.copy_out(range);
        if let Err(error) = change.apply(&mut self.disk, range.clone()) {
            self.attachments.erases[key].fail(error);
        }
        self.mark(range);
    }

    #[inline]
    fn copy_out(&self, range: &Range<u64>) {
        self.attachments.pins.copy_out(blocks::<D>(range));
    }

    #[inline]
    fn mark(&mut self, range: &Range<u64>) {
        if !self.attachments.bitmaps.is_empty() {
            mark(self.attachments.bitmaps.iter_mut().map(|(_, bitmap)| bitmap), range);
        }
    }

    /// Marks every change from now on, beginning with what `dirty` has marked already.
    #[must_use]
    pub fn track(&mut self, dirty: Dirty) -> Tracker {
        Tracker(self.attachments.bitmaps.insert(dirty))
    }

    /// The bitmap of a tracker.
    pub fn dirty(&mut self, tracker: &Tracker) -> &mut Dirty {
        &mut self.attachments.bitmaps[tracker.0]
    }

    /// Stops marking, and gives the bitmap back.
    pub fn untrack(&mut self, tracker: Tracker) -> Dirty {
        self.attachments.untrack(tracker)
    }
}

/// The blocks that a range touches, as a range of bytes.
#[inline]
fn blocks<D: Disk>(range: &Range<u64>) -> Range<u64> {
    range.start - range.start % D::BLOCK_BYTES..range.end.next_multiple_of(D::BLOCK_BYTES)
}
