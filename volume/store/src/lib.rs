//! The RAM store: storage repositories whose volumes are sparse files on tmpfs.
//!
//! One idea carries all of it. A *layer* is a sparse file in which a block of a volume lies at the
//! block's own offset; a *volume* is a map that says for every 4 KiB block which layer holds it.
//! Volumes share data by sharing map entries, and nothing is ever moved.
//!
//! * [`Host`]: where SRs lie, and how much memory this host can promise.
//! * [`Sr`]: one SR: its life, its volumes. Structural changes hold the SR's lock.
//! * [`Disk`]: one volume being served: reads, writes, discards. Never takes the SR's lock.
//! * [`Contents`]: what an SR has in it, to be saved and to make it anew from.
//!
//! Called by the volume plugin (everything), the datapath plugin (looking volumes up) and the
//! tapdisk ([`Disk`]). Layout on tmpfs: see [`Layout`].

mod block;
mod budget;
mod contents;
mod disk;
mod error;
mod files;
mod host;
mod live;
mod memory;
mod random;
mod record;
mod sr;
mod swap_space;
#[cfg(feature = "testing")]
pub mod testing;
mod texts;
mod uri;
mod volume;
mod wire;

pub use block::{BLOCK_BYTES, CHUNK_BYTES, VOLUME_BYTES_MAX};
pub use contents::{Contents, Filler, MapPage, Restore, SavedIndex, UNIT_BLOCKS, Unit, Writer};
pub use disk::{Closed, Disk, Loaded, Open, Piece, Status};
pub use error::{Error, ErrorKind, Result};
pub use files::Layout;
pub use host::{Host, Name};
pub use live::{Inactive, Live, Switch};
pub use memory::{Memory, human};
pub use record::{AtDetach, Attachment, Damaged, ExternalHolder, Restored, Serving};
pub use sr::{Exclusive, PluginState, Resized, Sr, SrStat, Summary, Swap};
pub use swap_space::SwapSpace;
pub use uri::VolumeUri;
pub use volume::{
    Blocks, ChangedBlocks, GRANULE_BYTES, Incoming, NewVolume, Outgoing, Reader, Still, Volume,
    WriteBack,
};
