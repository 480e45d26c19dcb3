//! What a driver that is played needs of the machine that it runs in: the mock's, or a guest of a real Xen.

use std::{fmt::Debug, io, sync::atomic::AtomicU32};

use super::{events::Events, guest::Guest};
use crate::copies::PAGE_BYTES;

/// Pages that a backend may reach, and event channels.
pub trait Machine: Debug {
    /// Takes pages that lie one behind the other; the first of them.
    fn take_pages(&self, count: u32) -> u32;

    /// The grant reference of a page.
    fn gref(&self, page: u32) -> u32;

    /// A word of a page, which the other side may change.
    fn word(&self, page: u32, index: usize) -> &AtomicU32;

    /// Copies bytes out of pages that lie one behind the other.
    fn read(&self, page: u32, offset: usize, into: &mut [u8]);

    /// Copies bytes into such pages.
    fn write(&self, page: u32, offset: usize, bytes: &[u8]);

    /// Makes an event channel to the backend; its port.
    ///
    /// # Errors
    /// Where there can be none.
    fn open_port(&self) -> io::Result<(u32, Box<dyn Channel>)>;
}

/// The machine's end of an event channel.
pub trait Channel: Debug {
    /// Sends an event.
    ///
    /// # Errors
    /// Where the other end is closed.
    fn notify(&self) -> io::Result<()>;

    /// Takes the events that have come; whether there were any. It never waits.
    ///
    /// # Errors
    /// Where they cannot be taken.
    fn take(&self) -> io::Result<bool>;
}

/// Bytes that lie one behind the other in virtual memory.
#[derive(Clone, Debug)]
pub struct Buffer {
    /// Its pages.
    pub pages: Vec<u32>,
    /// Where it begins in the first of them: at any byte.
    pub offset: usize,
}

impl Buffer {
    /// Fills its begin.
    pub fn fill(&self, machine: &dyn Machine, bytes: &[u8]) {
        for (page, offset, part) in self.parts(bytes.len()) {
            machine.write(page, offset, &bytes[part]);
        }
    }

    /// So many bytes of its begin.
    #[must_use]
    pub fn bytes(&self, machine: &dyn Machine, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        for (page, offset, part) in self.parts(length) {
            machine.read(page, offset, &mut bytes[part]);
        }
        bytes
    }

    /// Its pages, where its bytes begin in each, and which they are.
    fn parts(
        &self,
        length: usize,
    ) -> impl Iterator<Item = (u32, usize, std::ops::Range<usize>)> + '_ {
        let mut done = 0;
        std::iter::from_fn(move || {
            let at = self.offset + done;
            let count = (PAGE_BYTES - at % PAGE_BYTES).min(length - done);
            let part = done..done + count;
            done += count;
            (count > 0).then(|| (self.pages[at / PAGE_BYTES], at % PAGE_BYTES, part))
        })
    }
}

impl Machine for Guest {
    fn take_pages(&self, count: u32) -> u32 {
        self.take_pages(count)
    }

    fn gref(&self, page: u32) -> u32 {
        page
    }

    fn word(&self, page: u32, index: usize) -> &AtomicU32 {
        &self.memory().words()[page as usize * PAGE_BYTES / 4 + index]
    }

    fn read(&self, page: u32, offset: usize, into: &mut [u8]) {
        self.read(page, offset, into);
    }

    fn write(&self, page: u32, offset: usize, bytes: &[u8]) {
        self.write(page, offset, bytes);
    }

    fn open_port(&self) -> io::Result<(u32, Box<dyn Channel>)> {
        let (port, events) = self.open_port()?;
        Ok((port, Box::new(events)))
    }
}

impl Channel for Events {
    fn notify(&self) -> io::Result<()> {
        self.notify()
    }

    fn take(&self) -> io::Result<bool> {
        self.take()
    }
}
