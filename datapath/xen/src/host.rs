//! A host with Xen.

use std::io;

use blkif::{Domain, Update, Updating, Xen};
use rustix::io::Errno;

use crate::{
    devices::Devices,
    domain::Guest,
    xenstore::{self, BACKEND, Write},
};

/// Length of a UUID as text.
const UUID_LENGTH: usize = 36;

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

    fn guest_disk(&self, domid: u32, devid: u32) -> io::Result<[String; 2]> {
        // The machine is `/vm/<uuid>`, with a suffix where it has been migrated within the host.
        let keys = [format!("/local/domain/{domid}/vm"), format!("{BACKEND}/{domid}/{devid}/dev")];
        let values = xenstore::read(&self.devices.xenbus, &keys.each_ref().map(String::as_str))?;
        let [machine, device] = values.try_into().map_err(|_| Errno::IO)?;
        let machine = machine.strip_prefix("/vm/").unwrap_or(&machine);
        Ok([machine.chars().take(UUID_LENGTH).collect(), device])
    }
}
