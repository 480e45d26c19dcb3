//! The interfaces between disks, frontends and background work. No I/O and no event loop is in here.
//!
//! * [`Disk`]: the bytes of a virtual disk, as the crate that stores them offers them.
//! * [`Drive`]: the only way to those bytes for everything that serves or copies them. It keeps pinned
//!   replies intact, does large discards in bounded steps, marks dirty bitmaps and counts failures,
//!   so that no frontend can forget one of these.
//! * [`Frontend`]: one client's way to a drive (an NBD connection, a guest's ring), driven by an event
//!   loop that knows nothing of its protocol.
//! * [`Stats`], [`Budget`]: the counters of a frontend, and how much it may do before others have their turn.
//!
//! Dependencies: `nbd` and `tapdisk` use this crate; it uses only the crate of mapped memory.

mod budget;
mod dirty;
mod disk;
mod drive;
mod erase;
mod extent;
mod frontend;
pub mod memory;
mod pins;
mod stats;

pub use budget::Budget;
pub use dirty::{Dirty, GRANULE_BYTES};
pub use disk::Disk;
pub use drive::{Attachments, Drive, Failures, Tracker};
pub use erase::{Completion, Started};
pub use extent::{Extent, StatusExtent};
pub use frontend::{Frontend, Interest, Progress};
pub use pins::{Pinned, Pins};
pub use stats::{Clock, Direction, Stats};
