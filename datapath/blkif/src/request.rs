//! Requests: from the bytes of a slot to values that cannot be out of range.
//!
//! A slot is parsed from the copy that was made of it. What a [`Request`] says is checked: the number of
//! segments, their sectors, and that all of it lies inside the disk. Nothing behind this file has to
//! look again.

use std::ops::Range;

use crate::{
    copies::{Grant, PAGE_BYTES},
    layout::{
        Abi, DISCARD_SECURE, INDIRECT_PAGES_MAX, SECTOR_BYTES, SEGMENT_BYTES, SEGMENTS_IN_PAGE,
        SEGMENTS_MAX, Status, at, operation,
    },
    shared::RawSlot,
};

/// The most segments of an indirect request, as `feature-max-indirect-segments` offers it: 1 MiB.
pub const INDIRECT_SEGMENTS_MAX: usize = 256;

const SECTORS_IN_PAGE: u8 = (PAGE_BYTES as u64 / SECTOR_BYTES) as u8;

/// What a disk takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Size in bytes.
    pub(crate) size: u64,
    pub(crate) read_only: bool,
}

/// The head of a request: what its answer repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) id: u64,
    pub(crate) operation: u8,
}

/// Reads, or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write(Order),
}

/// Where a write stands among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Anywhere.
    Any,
    /// Behind all before it and before all behind it.
    Barrier,
    /// Behind a flush.
    AfterFlush,
}

/// A request whose segments are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Bytes between a range of the disk and segments of the guest, which are as long together.
    Transfer(Transfer),
    /// A barrier without data.
    Barrier,
    Flush,
    /// Not empty.
    Discard(Range<u64>),
    /// Nothing has to be done.
    Nothing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transfer {
    pub(crate) direction: Direction,
    /// Bytes of the disk.
    pub(crate) range: Range<u64>,
    /// The segments, in the vector that they were parsed into.
    pub(crate) grants: Range<usize>,
}

/// What a slot asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    Request(Request),
    /// Its segments lie in pages of the guest, which have to be copied first.
    Indirect(Indirect),
}

/// A request whose segments are not known yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Indirect {
    direction: Direction,
    sector: u64,
    /// 1 to [`INDIRECT_SEGMENTS_MAX`].
    count: usize,
    grefs: [u32; INDIRECT_PAGES_MAX],
}

/// Why a request is answered without being carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// An operation, or a variant of it, that is not offered.
    NotSupported,
    /// A number of segments or sectors that cannot be.
    Malformed,
    /// Beyond the end of the disk.
    BeyondEnd,
    /// A change of a read-only disk.
    ReadOnly,
}

impl Refusal {
    pub(crate) fn status(self) -> Status {
        match self {
            Self::NotSupported => Status::NotSupported,
            Self::Malformed | Self::BeyondEnd | Self::ReadOnly => Status::Error,
        }
    }
}

fn u16_at(raw: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(raw[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(raw: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(raw[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(raw: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(raw[at..at + 8].try_into().expect("eight bytes"))
}

impl Head {
    /// The head of a slot. Frontends compare the operation of the answer to an indirect request with the
    /// operation inside it.
    pub(crate) fn of(raw: &RawSlot, abi: Abi) -> Self {
        let operation = match raw[at::OPERATION] {
            operation::INDIRECT => raw[at::INDIRECT_OPERATION],
            other => other,
        };
        Self { id: u64_at(raw, abi.layout().id), operation }
    }
}

/// Parses a slot. Segments are appended to `grants`.
pub(crate) fn parse(
    raw: &RawSlot,
    abi: Abi,
    limits: Limits,
    grants: &mut Vec<Grant>,
) -> Result<Parsed, Refusal> {
    let layout = abi.layout();
    let sector = u64_at(raw, layout.sector);
    let count = usize::from(raw[at::SEGMENT_COUNT]);
    let direction = match raw[at::OPERATION] {
        operation::READ => Direction::Read,
        operation::WRITE => Direction::Write(Order::Any),
        operation::WRITE_BARRIER if count == 0 => return Ok(Parsed::Request(Request::Barrier)),
        operation::WRITE_BARRIER => Direction::Write(Order::Barrier),
        operation::FLUSH_DISKCACHE if count == 0 => return Ok(Parsed::Request(Request::Flush)),
        operation::FLUSH_DISKCACHE => Direction::Write(Order::AfterFlush),
        operation::DISCARD => {
            return discard(raw, sector, u64_at(raw, layout.discard_sectors), limits);
        }
        operation::INDIRECT => return indirect(raw, sector, layout.indirect_grefs, limits),
        _ => return Err(Refusal::NotSupported),
    };
    if count == 0 || count > SEGMENTS_MAX {
        return Err(Refusal::Malformed);
    }
    let segments = &raw[layout.segments..][..count * SEGMENT_BYTES];
    transfer(direction, sector, segments, limits, grants).map(Parsed::Request)
}

fn discard(raw: &RawSlot, sector: u64, sectors: u64, limits: Limits) -> Result<Parsed, Refusal> {
    if limits.read_only {
        return Err(Refusal::ReadOnly);
    }
    if raw[at::DISCARD_FLAG] & DISCARD_SECURE != 0 {
        return Err(Refusal::NotSupported);
    }
    let length = sectors.checked_mul(SECTOR_BYTES).ok_or(Refusal::BeyondEnd)?;
    let range = range(sector, length, limits)?;
    let request = if range.is_empty() { Request::Nothing } else { Request::Discard(range) };
    Ok(Parsed::Request(request))
}

fn indirect(raw: &RawSlot, sector: u64, grefs: usize, limits: Limits) -> Result<Parsed, Refusal> {
    let direction = match raw[at::INDIRECT_OPERATION] {
        operation::READ => Direction::Read,
        operation::WRITE => Direction::Write(Order::Any),
        _ => return Err(Refusal::NotSupported),
    };
    let count = usize::from(u16_at(raw, at::INDIRECT_COUNT));
    if count == 0 || count > INDIRECT_SEGMENTS_MAX {
        return Err(Refusal::Malformed);
    }
    if direction != Direction::Read && limits.read_only {
        return Err(Refusal::ReadOnly);
    }
    let grefs = std::array::from_fn(|page| u32_at(raw, grefs + 4 * page));
    Ok(Parsed::Indirect(Indirect { direction, sector, count, grefs }))
}

impl Indirect {
    /// The pages of segments: as much of each as is used.
    pub(crate) fn pages(&self) -> impl Iterator<Item = Grant> + '_ {
        let pages = self.count.div_ceil(SEGMENTS_IN_PAGE);
        self.grefs[..pages].iter().enumerate().map(|(page, &gref)| {
            let here = (self.count - page * SEGMENTS_IN_PAGE).min(SEGMENTS_IN_PAGE);
            Grant::new(gref, 0, here * SEGMENT_BYTES)
        })
    }

    /// The length of all segments. Bytes.
    pub(crate) fn segments_bytes(&self) -> usize {
        self.count * SEGMENT_BYTES
    }

    /// The request, once its segments are copied.
    pub(crate) fn resolve(
        &self,
        segments: &[u8],
        limits: Limits,
        grants: &mut Vec<Grant>,
    ) -> Result<Request, Refusal> {
        transfer(self.direction, self.sector, segments, limits, grants)
    }
}

fn transfer(
    direction: Direction,
    sector: u64,
    segments: &[u8],
    limits: Limits,
    grants: &mut Vec<Grant>,
) -> Result<Request, Refusal> {
    if direction != Direction::Read && limits.read_only {
        return Err(Refusal::ReadOnly);
    }
    let begin = grants.len();
    let mut length = 0;
    for segment in segments.chunks_exact(SEGMENT_BYTES) {
        let (first, last) = (segment[at::SEGMENT_FIRST], segment[at::SEGMENT_LAST]);
        if first > last || last >= SECTORS_IN_PAGE {
            grants.truncate(begin);
            return Err(Refusal::Malformed);
        }
        let bytes = usize::from(last - first + 1) * SECTOR_BYTES as usize;
        let offset = usize::from(first) * SECTOR_BYTES as usize;
        grants.push(Grant::new(u32_at(segment, 0), offset, bytes));
        length += bytes as u64;
    }
    let range = range(sector, length, limits).inspect_err(|_| grants.truncate(begin))?;
    let grants = begin..grants.len();
    Ok(Request::Transfer(Transfer { direction, range, grants }))
}

/// A range that begins with a sector, if it lies inside the disk.
fn range(sector: u64, length: u64, limits: Limits) -> Result<Range<u64>, Refusal> {
    let begin = sector.checked_mul(SECTOR_BYTES).ok_or(Refusal::BeyondEnd)?;
    let end = begin.checked_add(length).filter(|&end| end <= limits.size);
    end.map(|end| begin..end).ok_or(Refusal::BeyondEnd)
}
