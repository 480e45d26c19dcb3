//! One guest, as one ring of it is reached.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use blkif::{Copies, Domain};
use memory::WriteMap;

use crate::{devices::Devices, evtchn::Evtchn, gntdev::Gntdev};

/// The devices that one ring of a guest uses.
#[derive(Debug)]
pub(crate) struct Guest {
    domid: u16,
    gntdev: Gntdev,
    evtchn: Evtchn,
}

impl Guest {
    /// Opens the devices, the one for grants first as blktap does: which is missing is what its callers
    /// are told.
    pub(crate) fn open(devices: &Devices, domid: u16) -> io::Result<Self> {
        let gntdev = Gntdev::open(&devices.gntdev)?;
        Ok(Self { domid, gntdev, evtchn: Evtchn::open(&devices.evtchn)? })
    }
}

impl AsFd for Guest {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.evtchn.as_fd()
    }
}

impl Domain for Guest {
    fn map(&mut self, grefs: &[u32]) -> io::Result<WriteMap> {
        self.gntdev.map(self.domid.into(), grefs)
    }

    fn bind(&mut self, port: u32) -> io::Result<()> {
        self.evtchn.bind(self.domid.into(), port)
    }

    fn copy(&mut self, copies: &mut Copies) -> io::Result<()> {
        self.gntdev.copy(self.domid, copies)
    }

    fn notify(&mut self) -> io::Result<()> {
        self.evtchn.notify()
    }

    fn take_event(&mut self) -> io::Result<bool> {
        self.evtchn.take()
    }
}
