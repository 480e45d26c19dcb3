//! ioctl(2) on Xen's devices: everything `unsafe` of this crate.
//!
//! The numbers are made with `_IOC_NONE` although data goes both ways, so they carry the size of the
//! argument and no direction.

use std::{ffi::c_void, io, os::fd::BorrowedFd};

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};

/// A page that a guest has granted (`struct ioctl_gntdev_grant_ref`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GrantRef {
    pub(crate) domid: u32,
    pub(crate) gref: u32,
}

/// The most pages of a ring.
pub(crate) const PAGES_MAX: usize = 8;

/// `struct ioctl_gntdev_map_grant_ref`, with room for the pages of the largest ring.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct MapGrantRef {
    pub(crate) count: u32,
    pub(crate) pad: u32,
    /// Set by the kernel: the offset for mmap(2).
    pub(crate) index: u64,
    pub(crate) refs: [GrantRef; PAGES_MAX],
}

/// The most pages that a guest grants at once.
pub(crate) const GRANTED_MAX: usize = 512;

/// `struct ioctl_gntalloc_alloc_gref`, with room for the references of all pages.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct AllocGrefs {
    pub(crate) domid: u16,
    pub(crate) flags: u16,
    pub(crate) count: u32,
    /// Set by the kernel, as the references are: the offset for mmap(2).
    pub(crate) index: u64,
    pub(crate) grefs: [u32; GRANTED_MAX],
}

/// `GNTALLOC_FLAG_WRITABLE`: the other domain may write to the pages.
pub(crate) const GRANT_WRITABLE: u16 = 1;

/// One end of a copy: an address in this process, or a range of a guest's page
/// (`union` in `struct gntdev_grant_copy_segment`).
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct End(u64);

impl End {
    /// A place in this process.
    pub(crate) fn address(address: *const u8) -> Self {
        Self(address.expose_provenance() as u64)
    }

    /// A place in a page of a guest: `u32 ref; u16 offset; u16 domid`.
    pub(crate) fn granted(domid: u16, gref: u32, offset: u16) -> Self {
        let [r0, r1, r2, r3] = gref.to_ne_bytes();
        let ([o0, o1], [d0, d1]) = (offset.to_ne_bytes(), domid.to_ne_bytes());
        Self(u64::from_ne_bytes([r0, r1, r2, r3, o0, o1, d0, d1]))
    }
}

/// `GNTCOPY_source_gref`: the source is a guest's page.
pub(crate) const SOURCE_GRANT: u16 = 1;
/// `GNTCOPY_dest_gref`: the destination is.
pub(crate) const DEST_GRANT: u16 = 2;

/// `struct gntdev_grant_copy_segment`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopySegment {
    pub(crate) source: End,
    pub(crate) dest: End,
    pub(crate) length: u16,
    pub(crate) flags: u16,
    /// Set by the kernel.
    pub(crate) status: i16,
    pub(crate) pad: [u16; 1],
}

/// `struct ioctl_gntdev_grant_copy`.
#[repr(C)]
#[derive(Debug)]
struct GrantCopy {
    count: u32,
    pad: u32,
    segments: *mut CopySegment,
}

/// `struct ioctl_evtchn_bind_interdomain`.
#[repr(C)]
#[derive(Debug)]
struct BindInterdomain {
    domid: u32,
    port: u32,
}

// As a C compiler on x86-64 lays them out.
const _: () = {
    assert!(size_of::<GrantRef>() == 8);
    assert!(std::mem::offset_of!(MapGrantRef, index) == 8);
    assert!(std::mem::offset_of!(MapGrantRef, refs) == 16);
    assert!(size_of::<CopySegment>() == 24);
    assert!(std::mem::offset_of!(CopySegment, length) == 16);
    assert!(std::mem::offset_of!(CopySegment, flags) == 18);
    assert!(std::mem::offset_of!(CopySegment, status) == 20);
    assert!(size_of::<GrantCopy>() == 16);
    assert!(std::mem::offset_of!(GrantCopy, segments) == 8);
    assert!(size_of::<BindInterdomain>() == 8);
    assert!(std::mem::offset_of!(AllocGrefs, index) == 8);
    assert!(std::mem::offset_of!(AllocGrefs, grefs) == 16);
};

const fn number(group: u8, number: u8, bytes: usize) -> Opcode {
    opcode::from_components(rustix::ioctl::Direction::None, group, number, bytes)
}

/// The number of MAP_GRANT_REF is that of a single page, however many there are.
const MAP_GRANT_REF: Opcode = number(b'G', 0, 24);
const GRANT_COPY: Opcode = number(b'G', 8, size_of::<GrantCopy>());
/// The number of ALLOC_GREF is that of a single page, too.
const ALLOC_GREF: Opcode = number(b'G', 5, 24);
const BIND_INTERDOMAIN: Opcode = number(b'E', 1, size_of::<BindInterdomain>());
const BIND_UNBOUND: Opcode = number(b'E', 2, 4);
const NOTIFY: Opcode = number(b'E', 4, 4);

/// Asks for the mapping of pages; `map.index` is its offset for mmap(2).
pub(crate) fn map_grant_ref(gntdev: BorrowedFd<'_>, map: &mut MapGrantRef) -> io::Result<()> {
    assert!(map.count as usize <= PAGES_MAX, "{} pages", map.count);
    // SAFETY: the kernel reads the fields up to the `count`th reference, which are all there, and
    // writes `index`.
    unsafe { call(gntdev, MAP_GRANT_REF, map) }.map(drop)
}

/// Carries out copies; each segment gets its status.
///
/// # Safety
/// Every end that is an address must be valid for writes where it is a destination and for reads where
/// it is a source, of `length` bytes each, and no reference may exist to what is written to.
pub(crate) unsafe fn grant_copy(
    gntdev: BorrowedFd<'_>,
    segments: &mut [CopySegment],
) -> io::Result<()> {
    let count = u32::try_from(segments.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut copy = GrantCopy { count, pad: 0, segments: segments.as_mut_ptr() };
    // SAFETY: the kernel reads and writes `count` segments, which are there and borrowed exclusively;
    // the memory that they name is the caller's to vouch for.
    unsafe { call(gntdev, GRANT_COPY, &mut copy) }.map(drop)
}

/// Makes pages that another domain may reach; `alloc.index` is their offset for mmap(2).
pub(crate) fn alloc_grefs(gntalloc: BorrowedFd<'_>, alloc: &mut AllocGrefs) -> io::Result<()> {
    assert!(alloc.count as usize <= GRANTED_MAX, "{} pages", alloc.count);
    // SAFETY: the kernel reads the fields before `index`, and writes that and `count` references, which are all
    // there.
    unsafe { call(gntalloc, ALLOC_GREF, alloc) }.map(drop)
}

/// Makes a port to which a domain may bind; the port on this side.
pub(crate) fn bind_unbound(evtchn: BorrowedFd<'_>, domid: u32) -> io::Result<u32> {
    let mut domid = domid;
    // SAFETY: the kernel reads the number.
    let local = unsafe { call(evtchn, BIND_UNBOUND, &mut domid) }?;
    u32::try_from(local).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Binds a port of a guest; the port on this side.
pub(crate) fn bind_interdomain(evtchn: BorrowedFd<'_>, domid: u32, port: u32) -> io::Result<u32> {
    // SAFETY: the kernel reads the two numbers.
    let local = unsafe { call(evtchn, BIND_INTERDOMAIN, &mut BindInterdomain { domid, port }) }?;
    u32::try_from(local).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Sends an event through a port of this side.
pub(crate) fn notify(evtchn: BorrowedFd<'_>, port: u32) -> io::Result<()> {
    let mut port = port;
    // SAFETY: the kernel reads one number.
    unsafe { call(evtchn, NOTIFY, &mut port) }.map(drop)
}

/// An ioctl with one argument.
#[derive(Debug)]
struct Call<'a, T> {
    opcode: Opcode,
    argument: &'a mut T,
}

// SAFETY: `opcode` and the pointer are those that were given; who makes one vouches that they fit
// together (`call`). The result is the kernel's own number.
unsafe impl<T> Ioctl for Call<'_, T> {
    type Output = i32;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self.argument).cast()
    }

    unsafe fn output_from_ptr(
        output: IoctlOutput,
        _argument: *mut c_void,
    ) -> rustix::io::Result<Self::Output> {
        Ok(output)
    }
}

/// # Safety
/// `argument` must be of the type that the kernel expects for `opcode`.
unsafe fn call<T>(device: BorrowedFd<'_>, opcode: Opcode, argument: &mut T) -> io::Result<i32> {
    // SAFETY: what the caller guarantees.
    Ok(unsafe { ioctl(device, Call { opcode, argument }) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As seen in a trace of the system calls of another backend on a real host.
    #[test]
    fn the_numbers_are_the_kernels() {
        assert_eq!(MAP_GRANT_REF, 0x18_4700);
        assert_eq!(GRANT_COPY, 0x10_4708);
        assert_eq!(BIND_INTERDOMAIN, 0x8_4501);
        assert_eq!(NOTIFY, 0x4_4504);
        assert_eq!(ALLOC_GREF, 0x18_4705);
        assert_eq!(BIND_UNBOUND, 0x4_4502);
    }

    #[test]
    fn a_granted_end_lies_as_in_the_kernels_union() {
        let End(bits) = End::granted(0x0102, 0x0304_0506, 0x0708);
        assert_eq!(bits.to_le_bytes(), [0x06, 0x05, 0x04, 0x03, 0x08, 0x07, 0x02, 0x01]);
    }
}
