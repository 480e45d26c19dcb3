//! A guest's shared ring, as CONNECT describes it (`struct tapdisk_message_blkif`).
//!
//! tapback sends it when a guest's frontend is ready (`control/tap-ctl-xen.c`).

use std::ffi::OsString;

use crate::{
    message::{Raw, at},
    text::{self, Malformed, Unsendable, put},
};

/// The most pages of a shared ring, as a power of two: `gref[8]` of the header.
pub const RING_ORDER_MAX: u32 = 3;

/// A guest's shared ring (`struct tapdisk_message_blkif`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    /// The guest.
    pub domid: u32,
    /// Its virtual block device.
    pub devid: u32,
    /// Grant references of the ring's pages; all eight fields, whatever the order.
    pub grefs: [u32; 8],
    /// The ring has two to this power pages, at most 2^[`RING_ORDER_MAX`].
    pub order: u32,
    /// Layout of the ring: native, 32 or 64 bit.
    pub protocol: u32,
    /// The page pool's name; empty: none.
    pub pool: OsString,
    /// Event channel port.
    pub port: u32,
    /// Microseconds of polling; 0: none.
    pub poll_duration: u32,
    /// Idle CPU above which polling is allowed, per cent.
    pub poll_idle_threshold: u32,
}

impl Ring {
    pub(crate) fn parse(raw: &Raw) -> Result<Self, Malformed> {
        let order = raw.u32(at::BLKIF_ORDER);
        if order > RING_ORDER_MAX {
            return Err(Malformed::Number);
        }
        Ok(Self {
            domid: raw.u32(at::BLKIF_DOMID),
            devid: raw.u32(at::BLKIF_DEVID),
            grefs: std::array::from_fn(|index| raw.u32(at::BLKIF_GREF + 4 * index)),
            order,
            protocol: raw.u32(at::BLKIF_PROTO),
            pool: text::get(raw, at::BLKIF_POOL)?,
            port: raw.u32(at::BLKIF_PORT),
            poll_duration: raw.u32(at::BLKIF_POLL_DURATION),
            poll_idle_threshold: raw.u32(at::BLKIF_POLL_IDLE),
        })
    }

    pub(crate) fn put(&self, raw: &mut Raw) -> Result<(), Unsendable> {
        if self.order > RING_ORDER_MAX {
            return Err(Unsendable("ring order"));
        }
        raw.put_u32(at::BLKIF_DOMID, self.domid);
        raw.put_u32(at::BLKIF_DEVID, self.devid);
        for (index, gref) in self.grefs.iter().enumerate() {
            raw.put_u32(at::BLKIF_GREF + 4 * index, *gref);
        }
        raw.put_u32(at::BLKIF_ORDER, self.order);
        raw.put_u32(at::BLKIF_PROTO, self.protocol);
        put(raw, at::BLKIF_POOL, &self.pool, "pool")?;
        raw.put_u32(at::BLKIF_PORT, self.port);
        raw.put_u32(at::BLKIF_POLL_DURATION, self.poll_duration);
        raw.put_u32(at::BLKIF_POLL_IDLE, self.poll_idle_threshold);
        Ok(())
    }
}
