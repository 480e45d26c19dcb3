//! A guest of a real Xen, from inside: its pages and event channels, for a frontend that is a program of it.

use std::{cell::Cell, fs::File, io, os::fd::AsFd, path::Path, sync::atomic::AtomicU32};

use blkif::{
    PAGE_BYTES,
    mock::{Channel, Machine},
};
use memory::WriteMap;

use crate::{
    devices::open,
    evtchn::Evtchn,
    ioctl::{self, AllocGrefs, GRANT_WRITABLE, GRANTED_MAX},
};

const GNTALLOC: &str = "/dev/xen/gntalloc";
const EVTCHN: &str = "/dev/xen/evtchn";

/// Pages that a backend's domain may reach.
#[derive(Debug)]
pub struct GuestPages {
    map: WriteMap,
    grefs: Vec<u32>,
    next: Cell<u32>,
    backend: u16,
    // The pages are granted as long as it is open.
    _gntalloc: File,
}

impl GuestPages {
    /// Makes the most pages that there can be at once.
    ///
    /// # Errors
    /// Where this is no guest of Xen, or the kernel has not so many.
    pub fn grant(backend: u16) -> io::Result<Self> {
        let device = open(Path::new(GNTALLOC))?;
        let mut alloc = AllocGrefs {
            domid: backend,
            flags: GRANT_WRITABLE,
            count: GRANTED_MAX as u32,
            index: 0,
            grefs: [0; GRANTED_MAX],
        };
        ioctl::alloc_grefs(device.as_fd(), &mut alloc)?;
        let map = WriteMap::new(&device, alloc.index, GRANTED_MAX * PAGE_BYTES)?;
        let (grefs, next) = (alloc.grefs.to_vec(), Cell::new(0));
        Ok(Self { map, grefs, next, backend, _gntalloc: device })
    }
}

impl Machine for GuestPages {
    fn take_pages(&self, count: u32) -> u32 {
        let first = self.next.get();
        assert!((first + count) as usize <= GRANTED_MAX, "there are only {GRANTED_MAX} pages");
        self.next.set(first + count);
        first
    }

    fn gref(&self, page: u32) -> u32 {
        self.grefs[page as usize]
    }

    fn word(&self, page: u32, index: usize) -> &AtomicU32 {
        &self.map.words()[page as usize * PAGE_BYTES / 4 + index]
    }

    fn read(&self, page: u32, offset: usize, into: &mut [u8]) {
        self.map.reader().read(page as usize * PAGE_BYTES + offset, into);
    }

    fn write(&self, page: u32, offset: usize, bytes: &[u8]) {
        self.map.write(page as usize * PAGE_BYTES + offset, bytes);
    }

    fn open_port(&self) -> io::Result<(u32, Box<dyn Channel>)> {
        let mut channel = Evtchn::open(Path::new(EVTCHN))?;
        let port = channel.offer(self.backend.into())?;
        Ok((port, Box::new(channel)))
    }
}

impl Channel for Evtchn {
    fn notify(&self) -> io::Result<()> {
        self.notify()
    }

    fn take(&self) -> io::Result<bool> {
        self.take()
    }
}
