//! The bytes of a shared ring (`xen/io/blkif.h`, `xen/io/ring.h`): where each field of a request and of a
//! response lies, in the two layouts that guests use.
//!
//! The structures are here for the compiler to compute their offsets, which are asserted against the
//! numbers that the interface fixes. No value of these types ever exists: what lies in memory that a
//! guest may change is copied as bytes.

use std::mem::offset_of;

use crate::copies::PAGE_BYTES;

/// A sector of the ring, whatever the disk's own sectors are. Bytes.
pub const SECTOR_BYTES: u64 = 512;
/// Segments of a request without indirect pages.
pub const SEGMENTS_MAX: usize = 11;
/// Pages of segments of an indirect request.
pub(crate) const INDIRECT_PAGES_MAX: usize = 8;
/// Segments in a page of segments.
pub(crate) const SEGMENTS_IN_PAGE: usize = PAGE_BYTES / SEGMENT_BYTES;
/// The most pages of a ring, as a power of two.
pub const ORDER_MAX: u32 = 3;
/// The bytes of the longest slot.
pub(crate) const SLOT_BYTES: usize = 112;

/// Operations.
pub(crate) mod operation {
    pub(crate) const READ: u8 = 0;
    pub(crate) const WRITE: u8 = 1;
    pub(crate) const WRITE_BARRIER: u8 = 2;
    pub(crate) const FLUSH_DISKCACHE: u8 = 3;
    pub(crate) const DISCARD: u8 = 5;
    pub(crate) const INDIRECT: u8 = 6;
}

/// Bit 0 of a discard's flag: `BLKIF_DISCARD_SECURE`.
pub(crate) const DISCARD_SECURE: u8 = 1;

/// The outcome of a request, as the guest is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
pub enum Status {
    /// `BLKIF_RSP_OKAY`.
    Okay = 0,
    /// `BLKIF_RSP_ERROR`.
    Error = -1,
    /// `BLKIF_RSP_EOPNOTSUPP`.
    NotSupported = -2,
}

/// Words of the header, which lies before the slots.
pub(crate) mod word {
    pub(crate) const REQ_PROD: usize = 0;
    pub(crate) const REQ_EVENT: usize = 1;
    pub(crate) const RSP_PROD: usize = 2;
    pub(crate) const RSP_EVENT: usize = 3;
}

/// Length of the header of a ring. Bytes.
pub(crate) const HEADER_BYTES: usize = 64;

/// Fields at the same place in both layouts.
pub(crate) mod at {
    pub(crate) const OPERATION: usize = 0;
    pub(crate) const SEGMENT_COUNT: usize = 1;
    pub(crate) const DISCARD_FLAG: usize = 1;
    pub(crate) const INDIRECT_OPERATION: usize = 1;
    pub(crate) const INDIRECT_COUNT: usize = 2;
    pub(crate) const SEGMENT_FIRST: usize = 4;
    pub(crate) const SEGMENT_LAST: usize = 5;
    pub(crate) const ANSWER_ID: usize = 0;
    pub(crate) const ANSWER_OPERATION: usize = 8;
    pub(crate) const ANSWER_STATUS: usize = 10;
}

/// The layout of a ring's slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abi {
    /// 64-bit guests, and the native one of a 64-bit host.
    X86_64,
    /// 32-bit guests.
    X86_32,
}

/// What [`Abi`] decides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// From one slot to the next. Bytes.
    pub(crate) stride: usize,
    pub(crate) id: usize,
    pub(crate) sector: usize,
    pub(crate) segments: usize,
    pub(crate) discard_sectors: usize,
    pub(crate) indirect_grefs: usize,
    /// Length of a response. Bytes.
    pub(crate) answer_bytes: usize,
}

impl Abi {
    /// The layout of a protocol number of the control message (`BLKIF_PROTOCOL_*`: 1 native, 2 x86_32,
    /// 3 x86_64).
    #[must_use]
    pub fn of_protocol(number: u32) -> Option<Self> {
        match number {
            1 | 3 => Some(Self::X86_64),
            2 => Some(Self::X86_32),
            _ => None,
        }
    }

    /// A number of that layout.
    #[must_use]
    pub fn protocol(self) -> u32 {
        match self {
            Self::X86_64 => 1,
            Self::X86_32 => 2,
        }
    }

    pub(crate) const fn layout(self) -> &'static Layout {
        match self {
            Self::X86_64 => &X86_64,
            Self::X86_32 => &X86_32,
        }
    }

    /// How many slots a ring of two to the power of `order` pages has.
    #[must_use]
    pub const fn entries(self, order: u32) -> u32 {
        let slots = ((PAGE_BYTES << order) - HEADER_BYTES) / self.layout().stride;
        1 << slots.ilog2()
    }
}

/// The structures of one layout. How a `u64` is aligned is all that makes a difference.
macro_rules! layout {
    ($name:ident, $structures:ident, $($packing:tt)*) => {
        #[allow(dead_code, reason = "the offsets of the fields are all that is used")]
        mod $structures {
            use super::{INDIRECT_PAGES_MAX, SEGMENTS_MAX, Segment};

            #[repr($($packing)*)]
            pub(super) struct Request {
                operation: u8,
                segment_count: u8,
                handle: u16,
                pub(super) id: u64,
                pub(super) sector: u64,
                pub(super) segments: [Segment; SEGMENTS_MAX],
            }

            #[repr($($packing)*)]
            pub(super) struct Discard {
                operation: u8,
                pub(super) flag: u8,
                handle: u16,
                pub(super) id: u64,
                pub(super) sector: u64,
                pub(super) sectors: u64,
            }

            #[repr($($packing)*)]
            pub(super) struct Indirect {
                operation: u8,
                pub(super) indirect_operation: u8,
                pub(super) count: u16,
                pub(super) id: u64,
                pub(super) sector: u64,
                handle: u16,
                pub(super) grefs: [u32; INDIRECT_PAGES_MAX],
            }

            #[repr($($packing)*)]
            pub(super) struct Answer {
                pub(super) id: u64,
                pub(super) operation: u8,
                pub(super) status: i16,
            }
        }

        const $name: Layout = Layout {
            stride: size_of::<$structures::Request>(),
            id: offset_of!($structures::Request, id),
            sector: offset_of!($structures::Request, sector),
            segments: offset_of!($structures::Request, segments),
            discard_sectors: offset_of!($structures::Discard, sectors),
            indirect_grefs: offset_of!($structures::Indirect, grefs),
            answer_bytes: size_of::<$structures::Answer>(),
        };

        // Fields that [`at`] and [`Layout`] take to be at one place in all of them.
        const _: () = {
            use $structures::{Answer, Discard, Indirect, Request};
            assert!(offset_of!(Discard, id) == offset_of!(Request, id));
            assert!(offset_of!(Indirect, id) == offset_of!(Request, id));
            assert!(offset_of!(Discard, sector) == offset_of!(Request, sector));
            assert!(offset_of!(Indirect, sector) == offset_of!(Request, sector));
            assert!(offset_of!(Discard, flag) == at::DISCARD_FLAG);
            assert!(offset_of!(Indirect, indirect_operation) == at::INDIRECT_OPERATION);
            assert!(offset_of!(Indirect, count) == at::INDIRECT_COUNT);
            assert!(offset_of!(Answer, id) == at::ANSWER_ID);
            assert!(offset_of!(Answer, operation) == at::ANSWER_OPERATION);
            assert!(offset_of!(Answer, status) == at::ANSWER_STATUS);
            assert!(size_of::<Request>() <= SLOT_BYTES);
        };
    };
}

layout!(X86_64, x86_64, C);
layout!(X86_32, x86_32, C, packed(4));

/// A segment of a request: a page, and the first and the last of its sectors.
#[allow(dead_code, reason = "the offsets of the fields are all that is used")]
#[repr(C)]
struct Segment {
    gref: u32,
    first: u8,
    last: u8,
}

/// Length of a segment. Bytes.
pub(crate) const SEGMENT_BYTES: usize = size_of::<Segment>();

// The numbers that guests rely on.
const _: () = {
    assert!(SEGMENT_BYTES == 8);
    assert!(offset_of!(Segment, first) == at::SEGMENT_FIRST);
    assert!(offset_of!(Segment, last) == at::SEGMENT_LAST);
    let it = &X86_64;
    assert!(it.stride == 112 && it.id == 8 && it.sector == 16 && it.segments == 24);
    assert!(it.discard_sectors == 24 && it.indirect_grefs == 28 && it.answer_bytes == 16);
    let it = &X86_32;
    assert!(it.stride == 108 && it.id == 4 && it.sector == 12 && it.segments == 20);
    assert!(it.discard_sectors == 20 && it.indirect_grefs == 24 && it.answer_bytes == 12);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_of_both_layouts_have_the_same_powers_of_two() {
        for abi in [Abi::X86_64, Abi::X86_32] {
            let entries = [0, 1, 2, 3].map(|order| abi.entries(order));
            assert_eq!(entries, [32, 64, 128, 256], "{abi:?}");
        }
    }

    #[test]
    fn protocols_are_numbered_as_the_control_message_has_them() {
        let abis = [0, 1, 2, 3, 4].map(Abi::of_protocol);
        let (long, short) = (Some(Abi::X86_64), Some(Abi::X86_32));
        assert_eq!(abis, [None, long, short, long, None]);
        assert_eq!(
            [long, short].map(|abi| Abi::of_protocol(abi.unwrap().protocol())),
            [long, short]
        );
    }
}
