//! A host without Xen.

use std::{fs::File, io};

use rustix::io::Errno;

use crate::domain::{Domain, Update, Updating, Xen};

/// The device that a ring is mapped through.
const DEVICE: &str = "/dev/xen/gntdev";

/// No guest can be reached. The error is that of opening the device, as with blktap.
#[derive(Clone, Copy, Debug)]
pub struct NoXen;

impl Xen for NoXen {
    fn domain(&self, _: u32) -> io::Result<Box<dyn Domain>> {
        let _device = File::options().read(true).write(true).open(DEVICE)?;
        Err(Errno::OPNOTSUPP.into())
    }

    fn update(&self, _: u32, _: u32, _: &Update) -> io::Result<Box<dyn Updating>> {
        Err(Errno::NOENT.into())
    }
}
