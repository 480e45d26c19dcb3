//! Pages that guests have granted.

use std::{fs::File, io, os::fd::AsFd, path::Path, sync::LazyLock};

use blkif::{Copies, Local, PAGE_BYTES};
use memory::WriteMap;
use rustix::io::Errno;

use crate::{
    devices::open,
    ioctl::{self, CopySegment, DEST_GRANT, End, GrantRef, MapGrantRef, SOURCE_GRANT},
};

/// What a hole of a disk is copied from. It lies in memory of the heap, and must not lie in that of a file, as constants
/// of this program do: where one ioctl copies both ways, the kernel marks all pages dirty, also those that are only read
/// (`gntdev_put_pages` of Linux' `drivers/xen/gntdev.c` has one flag for some twenty copies). A file system that is asked
/// to write a page of a file back that was never written to stops dom0's kernel.
static ZEROES: LazyLock<Box<Page>> = LazyLock::new(|| Box::new(Page([0; PAGE_BYTES])));

/// Aligned, so that it takes one copy and not two.
#[derive(Debug)]
#[repr(align(4096))]
struct Page([u8; PAGE_BYTES]);

/// The grant device, as one ring uses it. The kernel unmaps what was mapped through it when it is closed
/// and the mapping is gone.
#[derive(Debug)]
pub(crate) struct Gntdev {
    device: File,
    /// Kept for its capacity.
    segments: Vec<CopySegment>,
}

impl Gntdev {
    /// Opens the device.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { device: open(path)?, segments: Vec::new() })
    }

    /// Maps pages of a guest one behind the other, for reading and writing.
    pub(crate) fn map(&self, domid: u32, grefs: &[u32]) -> io::Result<WriteMap> {
        let mut map = MapGrantRef::default();
        let slots = map.refs.get_mut(..grefs.len()).ok_or(Errno::INVAL)?;
        for (slot, &gref) in slots.iter_mut().zip(grefs) {
            *slot = GrantRef { domid, gref };
        }
        map.count = grefs.len() as u32;
        ioctl::map_grant_ref(self.device.as_fd(), &mut map)?;
        // The mapping keeps the device open, and the kernel forgets the pages when it ends.
        WriteMap::new(&self.device, map.index, grefs.len() * PAGE_BYTES)
    }

    /// Carries out all copies in one system call.
    pub(crate) fn copy(&mut self, domid: u16, copies: &mut Copies) -> io::Result<()> {
        let (wanted, buffer) = copies.parts();
        let buffer = buffer.as_mut_ptr();
        self.segments.clear();
        self.segments.extend(wanted.iter().map(|segment| {
            let grant = segment.grant();
            let guest = End::granted(domid, grant.gref(), grant.offset());
            let (source, dest, flags) = match segment.local() {
                Local::ToBlock(slice) => (guest, End::address(slice.address()), SOURCE_GRANT),
                // Inside the buffer: an invariant of `Copies`.
                Local::ToBuffer(at) => {
                    (guest, End::address(buffer.wrapping_add(*at)), SOURCE_GRANT)
                }
                Local::FromBlock(slice) => (End::address(slice.address()), guest, DEST_GRANT),
                Local::Zeroes => (End::address(ZEROES.0.as_ptr()), guest, DEST_GRANT),
            };
            CopySegment { source, dest, length: grant.length(), flags, status: 0, pad: [0] }
        }));
        // SAFETY: each end in this process has the length of its grant and lies in a mapping that the
        // segment keeps alive, in the buffer (both invariants of `Copies`, which is borrowed
        // exclusively), or in a page of zeroes that is only read. What is written to lies in a mapping
        // for writing, to which no references exist, or in the buffer.
        let copied = unsafe { ioctl::grant_copy(self.device.as_fd(), &mut self.segments) };
        copied?;
        for (segment, done) in wanted.iter_mut().zip(&self.segments) {
            segment.status = done.status;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// See [`ZEROES`]. The kernel's own list of mappings tells of which file each is (proc(5), `/proc/pid/maps`).
    #[test]
    fn holes_are_copied_from_a_page_of_no_file() {
        let address = ZEROES.0.as_ptr().addr();
        assert_eq!(address % PAGE_BYTES, 0);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let mapping = maps.lines().find(|line| {
            let (from, rest) = line.split_once('-').unwrap();
            let to = rest.split(' ').next().unwrap();
            let number = |text| usize::from_str_radix(text, 16).unwrap();
            (number(from)..number(to)).contains(&address)
        });
        let mapping = mapping.expect("a mapping");
        let inode = mapping.split_whitespace().nth(4).unwrap();
        assert_eq!(inode, "0", "{mapping}");
    }
}
