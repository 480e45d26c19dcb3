//! An export in memory and a plain loop that serves it: the other side for tests of clients, and
//! the shortest example of how a loop drives connections.
//!
//! The disk is a memory file that is mapped once, with one flag for each 4 KiB block: a block
//! that was never written, or was discarded, is a hole of the file and is not touched by reads.
//! `poll` is enough for a test; a process that serves many clients takes something better.

use std::{
    fs::File,
    io,
    os::unix::net::{UnixListener, UnixStream},
    rc::Rc,
    sync::atomic::{AtomicBool, Ordering},
};

use memory::{Slice, WriteMap};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create},
};

use crate::{Connection, Export, Extent, Identity, Loans, Progress, Stats, StatusExtent};

/// Unit of allocation, in bytes.
const BLOCK_BYTES: u64 = 4096;
/// How long the loop sleeps at most, to notice that it is to stop.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// A disk in memory.
#[derive(Debug)]
pub struct Memory {
    file: File,
    map: WriteMap,
    size: u64,
    present: Vec<bool>,
    /// Whether writes are refused.
    pub read_only: bool,
    /// An error for the next operation, which then does nothing.
    pub fail_next: Option<io::Error>,
    /// How many writes, trims and zeroes were carried out.
    pub changes: u64,
    /// How many flushes were carried out.
    pub flushes: u64,
}

impl Memory {
    /// A disk of that many bytes, all holes.
    ///
    /// # Errors
    /// Where there is no memory file of that size.
    pub fn new(size: u64) -> io::Result<Self> {
        let file = File::from(memfd_create("nbd-memory", MemfdFlags::CLOEXEC)?);
        let blocks = size.div_ceil(BLOCK_BYTES);
        file.set_len(blocks * BLOCK_BYTES)?;
        let length =
            usize::try_from(blocks * BLOCK_BYTES).map_err(|_| io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            map: WriteMap::new(&file, 0, length)?,
            file,
            size,
            present: vec![false; length / BLOCK_BYTES as usize],
            read_only: false,
            fail_next: None,
            changes: 0,
            flushes: 0,
        })
    }

    /// Calls `each` with every run of blocks that are alike: offset, length, whether they are there.
    fn runs(&self, offset: u64, length: u64, mut each: impl FnMut(u64, u64, bool)) {
        let end = offset + length;
        let mut at = offset;
        while at < end {
            let block = (at / BLOCK_BYTES) as usize;
            let last = end.div_ceil(BLOCK_BYTES) as usize;
            let present = self.present[block];
            let alike = self.present[block..last].iter().take_while(|p| **p == present).count();
            let next = ((block + alike) as u64 * BLOCK_BYTES).min(end);
            each(at, next - at, present);
            at = next;
        }
    }

    fn failure(&mut self) -> io::Result<()> {
        self.fail_next.take().map_or(Ok(()), Err)
    }
}

impl Export for Memory {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read(&mut self, offset: u64, length: u32, into: &mut Vec<Extent>) -> io::Result<()> {
        self.failure()?;
        self.runs(offset, length.into(), |at, length, present| {
            into.push(if present {
                Extent::Data(Slice::new(self.map.reader(), at as usize, length as usize))
            } else {
                Extent::Zeroes(length as u32)
            });
        });
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.failure()?;
        self.changes += 1;
        self.map.write(offset as usize, data);
        let end = (offset + data.len() as u64).div_ceil(BLOCK_BYTES) as usize;
        self.present[(offset / BLOCK_BYTES) as usize..end].fill(true);
        Ok(())
    }

    fn write_zeroes(&mut self, offset: u64, length: u64, keep_allocated: bool) -> io::Result<()> {
        self.failure()?;
        self.changes += 1;
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, punch, offset, length)?;
        let whole =
            offset.div_ceil(BLOCK_BYTES) as usize..((offset + length) / BLOCK_BYTES) as usize;
        if keep_allocated {
            fallocate(&self.file, FallocateFlags::KEEP_SIZE, offset, length)?;
            let end = (offset + length).div_ceil(BLOCK_BYTES) as usize;
            self.present[(offset / BLOCK_BYTES) as usize..end].fill(true);
        } else if !whole.is_empty() {
            self.present[whole].fill(false);
        }
        Ok(())
    }

    fn trim(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.write_zeroes(offset, length, false)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.failure()?;
        self.flushes += 1;
        Ok(())
    }

    fn status(&mut self, offset: u64, length: u64, into: &mut Vec<StatusExtent>) -> io::Result<()> {
        self.failure()?;
        self.runs(offset, length, |_, length, present| {
            into.push(StatusExtent { length, hole: !present, zero: !present });
        });
        Ok(())
    }
}

/// How [`serve`] greets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// Fixed newstyle.
    New,
    /// Old style.
    Old,
}

/// Serves an export to everybody who connects, until `stop` is set. Returns what was served.
///
/// # Errors
/// Where the listener or the waiting fails. What goes wrong with a client ends only its connection.
pub fn serve(
    listener: &UnixListener,
    greeting: Greeting,
    export: &mut impl Export,
    stop: &AtomicBool,
) -> io::Result<Stats> {
    listener.set_nonblocking(true)?;
    let identity = Rc::new(Identity::new("memory", "a disk in memory"));
    let loans = Loans::new();
    let mut stats = Stats::default();
    let mut connections: Vec<Connection> = Vec::new();
    let mut more = false;
    while !stop.load(Ordering::Relaxed) {
        let ready = wait(listener, &connections, more)?;
        more = false;
        // From the back, so that what is removed does not move what is still to be looked at.
        for index in (0..connections.len()).rev() {
            if more || ready[1 + index] {
                match connections[index].ready(export, &mut stats) {
                    Progress::Closed(_) => drop(connections.swap_remove(index)),
                    Progress::More => more = true,
                    Progress::Idle | Progress::Worked => {}
                }
            }
        }
        if ready[0] {
            match listener.accept() {
                Ok((socket, _)) => {
                    connections.push(greet(socket, greeting, &identity, export)?.lending(&loans))
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(stats)
}

fn greet(
    socket: UnixStream,
    greeting: Greeting,
    identity: &Rc<Identity>,
    export: &impl Export,
) -> io::Result<Connection> {
    match greeting {
        Greeting::New => Connection::new(socket, Rc::clone(identity)),
        Greeting::Old => Connection::old_style(socket, Rc::clone(identity), export),
    }
}

/// Waits until something can be done, and says for the listener and each connection whether it is that.
fn wait(
    listener: &UnixListener,
    connections: &[Connection],
    at_once: bool,
) -> io::Result<Vec<bool>> {
    let mut descriptors = vec![PollFd::new(listener, PollFlags::IN)];
    for connection in connections {
        let interest = connection.interest();
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, interest.readable);
        events.set(PollFlags::OUT, interest.writable);
        descriptors.push(PollFd::new(connection, events));
    }
    let timeout = if at_once { Timespec { tv_sec: 0, tv_nsec: 0 } } else { TICK };
    match poll(&mut descriptors, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(descriptors.iter().map(|descriptor| !descriptor.revents().is_empty()).collect())
}
