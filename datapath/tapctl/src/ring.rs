//! A guest's shared ring, as CONNECT describes it (`struct tapdisk_message_blkif`).
//!
//! tapback sends it when a guest's frontend is ready (`control/tap-ctl-xen.c`).

use std::ffi::OsString;

use serde::{Deserialize, Serialize};

use crate::{
    message::{Raw, at},
    text::{self, Unsendable, put},
};

/// The most pages of a shared ring, as a power of two: `gref[8]` of the header.
pub const RING_ORDER_MAX: u32 = 3;

/// A guest's shared ring (`struct tapdisk_message_blkif`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ring {
    /// The guest.
    pub domid: u32,
    /// Its virtual block device.
    pub devid: u32,
    /// Grant references of the ring's pages; all eight fields, whatever the order.
    pub grefs: [u32; 8],
    /// The ring has two to this power pages. More than [`RING_ORDER_MAX`] is refused by who serves it.
    pub order: u32,
    /// Layout of the ring: native, 32 or 64 bit.
    pub protocol: u32,
    /// The page pool's name; empty: none. `None`: the field has no end, which who serves it refuses.
    #[serde(skip)]
    pub pool: Option<OsString>,
    /// Event channel port.
    pub port: u32,
    /// Microseconds of polling; 0: none.
    pub poll_duration: u32,
    /// Idle CPU above which polling is allowed, per cent.
    pub poll_idle_threshold: u32,
}

impl Ring {
    pub(crate) fn parse(raw: &Raw) -> Self {
        Self {
            domid: raw.u32(at::BLKIF_DOMID),
            devid: raw.u32(at::BLKIF_DEVID),
            grefs: std::array::from_fn(|index| raw.u32(at::BLKIF_GREF + 4 * index)),
            order: raw.u32(at::BLKIF_ORDER),
            protocol: raw.u32(at::BLKIF_PROTO),
            pool: text::get(raw, at::BLKIF_POOL).ok(),
            port: raw.u32(at::BLKIF_PORT),
            poll_duration: raw.u32(at::BLKIF_POLL_DURATION),
            poll_idle_threshold: raw.u32(at::BLKIF_POLL_IDLE),
        }
    }

    pub(crate) fn put(&self, raw: &mut Raw) -> Result<(), Unsendable> {
        raw.put_u32(at::BLKIF_DOMID, self.domid);
        raw.put_u32(at::BLKIF_DEVID, self.devid);
        for (index, gref) in self.grefs.iter().enumerate() {
            raw.put_u32(at::BLKIF_GREF + 4 * index, *gref);
        }
        raw.put_u32(at::BLKIF_ORDER, self.order);
        raw.put_u32(at::BLKIF_PROTO, self.protocol);
        put(raw, at::BLKIF_POOL, self.pool.as_deref().ok_or(Unsendable("pool"))?, "pool")?;
        raw.put_u32(at::BLKIF_PORT, self.port);
        raw.put_u32(at::BLKIF_POLL_DURATION, self.poll_duration);
        raw.put_u32(at::BLKIF_POLL_IDLE, self.poll_idle_threshold);
        Ok(())
    }
}
