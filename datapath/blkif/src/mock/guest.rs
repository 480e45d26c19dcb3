//! A guest: its memory and its event channels.

use std::{cell::Cell, fs, io, path::PathBuf};

use memory::WriteMap;

use super::{domain_dir, events::Events, memory_path, port_paths};
use crate::copies::PAGE_BYTES;

/// A guest. Dropping it removes its directory; a backend that has mapped its memory keeps that.
#[derive(Debug)]
pub struct Guest {
    dir: PathBuf,
    domid: u32,
    memory: WriteMap,
    pages: u32,
    next_page: Cell<u32>,
    next_port: Cell<u32>,
}

/// A part of a page, in sectors of 512 bytes: the page, the first and the last of its sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The page.
    pub gref: u32,
    /// The first sector.
    pub first: u8,
    /// The last sector.
    pub last: u8,
}

impl Span {
    /// A whole page.
    #[must_use]
    pub fn page(gref: u32) -> Self {
        Self { gref, first: 0, last: 7 }
    }
}

impl Guest {
    /// Makes a guest with that much memory in a directory.
    ///
    /// # Errors
    /// Where the directory or the memory cannot be made.
    pub fn create(dir: impl Into<PathBuf>, domid: u32, pages: u32) -> io::Result<Self> {
        let dir = dir.into();
        fs::create_dir_all(domain_dir(&dir, domid))?;
        let path = memory_path(&dir, domid);
        let mut options = fs::OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).open(path)?;
        let length = pages as usize * PAGE_BYTES;
        file.set_len(length as u64)?;
        let memory = WriteMap::new(&file, 0, length)?;
        let (next_page, next_port) = (Cell::new(0), Cell::new(1));
        Ok(Self { dir, domid, memory, pages, next_page, next_port })
    }

    /// Its number.
    #[must_use]
    pub fn domid(&self) -> u32 {
        self.domid
    }

    /// How many pages it has.
    #[must_use]
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// Takes pages that lie one behind the other; the first of them.
    ///
    /// # Panics
    /// If there are no more.
    #[must_use]
    pub fn take_pages(&self, count: u32) -> u32 {
        let first = self.next_page.get();
        assert!(first + count <= self.pages, "the guest has only {} pages", self.pages);
        self.next_page.set(first + count);
        first
    }

    /// Makes an event channel; its port.
    pub(super) fn open_port(&self) -> io::Result<(u32, Events)> {
        let port = self.next_port.get();
        self.next_port.set(port + 1);
        let paths = port_paths(&self.dir, self.domid, port);
        Events::create(&paths)?;
        let [to_backend, to_guest] = paths;
        Ok((port, Events::open([to_guest, to_backend])?))
    }

    /// Its memory.
    #[must_use]
    pub fn memory(&self) -> &WriteMap {
        &self.memory
    }

    /// Fills a part of a page.
    pub fn write(&self, gref: u32, offset: usize, bytes: &[u8]) {
        self.memory.write(gref as usize * PAGE_BYTES + offset, bytes);
    }

    /// Copies a part of a page out.
    pub fn read(&self, gref: u32, offset: usize, into: &mut [u8]) {
        self.memory.reader().read(gref as usize * PAGE_BYTES + offset, into);
    }

    /// The keys that backends have written for a device.
    #[must_use]
    pub fn keys(&self, devid: u32) -> String {
        fs::read_to_string(super::keys_path(&self.dir, self.domid, devid)).unwrap_or_default()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // What cannot be removed ends with the directory of the test.
        let _left = fs::remove_dir_all(domain_dir(&self.dir, self.domid));
    }
}
