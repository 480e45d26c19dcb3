//! Events from and to a guest.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use rustix::io::Errno;

use crate::{devices::open, ioctl};

/// The event device with the one port that a ring has bound. Closing it closes the port; the guest's end
/// can be bound again.
#[derive(Debug)]
pub(crate) struct Evtchn {
    device: File,
    port: Option<u32>,
}

impl Evtchn {
    /// Opens the device.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { device: open(path)?, port: None })
    }

    /// Binds a port of a guest.
    pub(crate) fn bind(&mut self, domid: u32, port: u32) -> io::Result<()> {
        self.port = Some(ioctl::bind_interdomain(self.device.as_fd(), domid, port)?);
        Ok(())
    }

    /// Makes a port to which a domain may bind; its number on this side.
    pub(crate) fn offer(&mut self, domid: u32) -> io::Result<u32> {
        let port = ioctl::bind_unbound(self.device.as_fd(), domid)?;
        self.port = Some(port);
        Ok(port)
    }

    /// Sends an event.
    pub(crate) fn notify(&self) -> io::Result<()> {
        ioctl::notify(self.device.as_fd(), self.port.ok_or(Errno::NOTCONN)?)
    }

    /// Takes a pending event, and lets the next one come; whether there was one.
    pub(crate) fn take(&self) -> io::Result<bool> {
        let mut port = [0; 4];
        match (&self.device).read(&mut port) {
            Ok(0) => Ok(false),
            // Written back, it is unmasked.
            Ok(_) => (&self.device).write_all(&port).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Evtchn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}
