//! A host with Xen.

use std::io;

use blkif::{Domain, Update, Updating, Xen};
use rustix::io::Errno;

use crate::{devices::Devices, domain::Guest, xenstore::Write};

/// The host that this process runs on.
#[derive(Clone, Debug, Default)]
pub struct Host {
    devices: Devices,
}

impl Host {
    /// A host with these devices. Nothing is opened yet.
    #[must_use]
    pub fn new(devices: Devices) -> Self {
        Self { devices }
    }
}

impl Xen for Host {
    fn domain(&self, domid: u32) -> io::Result<Box<dyn Domain>> {
        // Domains have 15 bits (`DOMID_FIRST_RESERVED` of xen/xen.h).
        let domid = u16::try_from(domid).map_err(|_| Errno::INVAL)?;
        Ok(Box::new(Guest::open(&self.devices, domid)?))
    }

    fn update(&self, domid: u32, devid: u32, update: &Update) -> io::Result<Box<dyn Updating>> {
        Ok(Box::new(Write::begin(&self.devices.xenbus, domid, devid, update)?))
    }
}
