//! Requests of one pass whose data is copied together: reads and writes in the order in which they came,
//! as long as no two of them touch the same blocks and one of the two writes.

use std::{io, ops::Range};

use block::{Disk, Drive, Extent};
use memory::WriteSlice;

use crate::{
    copies::{Copies, Grant, Local},
    domain::Domain,
    journal::Held,
    layout::Status,
    request::{Direction, Head, Transfer},
};

/// With so many copies, or so many bytes of them, they are carried out before more are added.
const SEGMENTS_MAX: usize = 1024;
const BYTES_MAX: usize = 1 << 20;

/// A request whose data is to be copied.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) held: Held,
    pub(crate) head: Head,
    pub(crate) direction: Direction,
    pub(crate) range: Range<u64>,
    /// Its copies.
    segments: Range<usize>,
    way: Way,
}

/// How data comes to a disk, or from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// From where it lies.
    Read,
    /// To where the blocks lie already.
    InPlace,
    /// Through the buffer, from this place on: blocks that have no place yet are written from there.
    Buffered(usize),
}

/// Copies that are not carried out yet, and the requests they belong to. Kept for its capacities.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    copies: Copies,
    bytes: usize,
    pending: Vec<Pending>,
    /// Whether any of them writes.
    writes: bool,
    extents: Vec<Extent>,
    places: Vec<WriteSlice>,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.copies.len() >= SEGMENTS_MAX || self.bytes >= BYTES_MAX
    }

    /// Whether a transfer has to wait until those before it are carried out.
    #[inline]
    pub(crate) fn conflicts<D: Disk>(&self, transfer: &Transfer) -> bool {
        let writes = transfer.direction != Direction::Read;
        if !writes && !self.writes {
            return false;
        }
        let range = blocks::<D>(&transfer.range);
        self.pending.iter().any(|before| {
            (writes || before.way != Way::Read)
                && before.range.start < range.end
                && range.start < before.range.end.next_multiple_of(D::BLOCK_BYTES)
        })
    }

    /// Adds a read.
    ///
    /// # Errors
    /// Where the disk cannot read the range; nothing is added then.
    #[inline]
    pub(crate) fn read<D: Disk>(
        &mut self,
        (held, head): (Held, Head),
        transfer: Transfer,
        grants: &[Grant],
        drive: &mut Drive<D>,
    ) -> io::Result<()> {
        self.extents.clear();
        let length = length(&transfer.range);
        drive.read(transfer.range.start, length as u32, &mut self.extents)?;
        let begin = self.copies.len();
        let mut grants = Ends::new(grants);
        for extent in self.extents.drain(..) {
            match extent {
                Extent::Zeroes(count) => {
                    grants.take(count as usize, |grant| self.copies.push(grant, Local::Zeroes));
                }
                Extent::Data(mut slice) => {
                    grants.take(slice.length(), |grant| {
                        let part = slice.split_front(grant.length().into());
                        self.copies.push(grant, Local::FromBlock(part));
                    });
                }
            }
        }
        self.add((held, head), transfer, begin, Way::Read, length);
        Ok(())
    }

    /// Adds a write.
    ///
    /// # Errors
    /// Where the disk cannot tell where the range lies; nothing is added then.
    #[inline]
    pub(crate) fn write<D: Disk>(
        &mut self,
        (held, head): (Held, Head),
        transfer: Transfer,
        grants: &[Grant],
        drive: &mut Drive<D>,
    ) -> io::Result<()> {
        self.places.clear();
        let length = length(&transfer.range);
        let in_place =
            drive.write_in_place(transfer.range.start, length as u32, &mut self.places)?;
        let begin = self.copies.len();
        let way = if in_place {
            let mut grants = Ends::new(grants);
            for mut place in self.places.drain(..) {
                grants.take(place.length(), |grant| {
                    let part = place.split_front(grant.length().into());
                    self.copies.push(grant, Local::ToBlock(part));
                });
            }
            Way::InPlace
        } else {
            let at = self.copies.reserve(length);
            let mut to = at;
            for &grant in grants {
                self.copies.push(grant, Local::ToBuffer(to));
                to += usize::from(grant.length());
            }
            Way::Buffered(at)
        };
        self.add((held, head), transfer, begin, way, length);
        Ok(())
    }

    fn add(
        &mut self,
        (held, head): (Held, Head),
        Transfer { direction, range, .. }: Transfer,
        begin: usize,
        way: Way,
        length: usize,
    ) {
        let segments = begin..self.copies.len();
        self.writes |= way != Way::Read;
        self.bytes += length;
        self.pending.push(Pending { held, head, direction, range, segments, way });
    }

    /// Carries out all copies, and stores what went through the buffer. Calls `done` for each request.
    pub(crate) fn run<D: Disk>(
        &mut self,
        domain: &mut dyn Domain,
        drive: &mut Drive<D>,
        mut done: impl FnMut(&Pending, Outcome),
    ) {
        if self.pending.is_empty() {
            return;
        }
        let copied = domain.copy(&mut self.copies).is_ok();
        for pending in &self.pending {
            let outcome = if !copied || !self.copies.all_done(pending.segments.clone()) {
                Outcome::NotCopied
            } else if let Way::Buffered(at) = pending.way {
                let bytes = self.copies.bytes(at, length(&pending.range));
                match drive.write(pending.range.start, bytes) {
                    Ok(()) => Outcome::Done,
                    Err(_) => Outcome::Failed,
                }
            } else {
                Outcome::Done
            };
            done(pending, outcome);
        }
        self.clear();
    }

    fn clear(&mut self) {
        self.copies.clear();
        self.pending.clear();
        self.bytes = 0;
        self.writes = false;
    }
}

/// How a request ended whose data was to be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// The guest's page could not be reached.
    NotCopied,
    /// The disk has refused it.
    Failed,
}

impl Outcome {
    pub(crate) fn status(self) -> Status {
        match self {
            Self::Done => Status::Okay,
            Self::NotCopied | Self::Failed => Status::Error,
        }
    }
}

/// The blocks that a range touches, as a range of bytes.
#[inline]
pub(crate) fn blocks<D: Disk>(range: &Range<u64>) -> Range<u64> {
    range.start - range.start % D::BLOCK_BYTES..range.end.next_multiple_of(D::BLOCK_BYTES)
}

/// The length of a transfer, which is at most that of its segments: 1 MiB.
#[inline]
fn length(range: &Range<u64>) -> usize {
    (range.end - range.start) as usize
}

/// Grants, taken from in parts of any length.
struct Ends<'a> {
    grants: std::slice::Iter<'a, Grant>,
    rest: Option<Grant>,
}

impl<'a> Ends<'a> {
    fn new(grants: &'a [Grant]) -> Self {
        Self { grants: grants.iter(), rest: None }
    }

    /// Calls `each` with grants that are `count` bytes together.
    #[inline]
    fn take(&mut self, mut count: usize, mut each: impl FnMut(Grant)) {
        while count > 0 {
            let Some(grant) = self.rest.take().or_else(|| self.grants.next().copied()) else {
                return;
            };
            let whole = usize::from(grant.length());
            if whole <= count {
                each(grant);
                count -= whole;
            } else {
                let (front, rest) = grant.split(count);
                self.rest = Some(rest);
                each(front);
                return;
            }
        }
    }
}
