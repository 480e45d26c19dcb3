//! Xen's devices.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

/// Where Xen's devices are.
#[derive(Clone, Debug)]
pub struct Devices {
    /// Granted pages.
    pub gntdev: PathBuf,
    /// Events.
    pub evtchn: PathBuf,
    /// Xenstore.
    pub xenbus: PathBuf,
}

impl Default for Devices {
    fn default() -> Self {
        Self {
            gntdev: "/dev/xen/gntdev".into(),
            evtchn: "/dev/xen/evtchn".into(),
            xenbus: "/dev/xen/xenbus".into(),
        }
    }
}

/// Opens a device of Xen for reading and writing; no call on it waits.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).expect("a flag");
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
}
