//! A window of a file in memory, shared with other processes.

use std::{fs::File, io, ops::Range, ptr::NonNull, rc::Rc, sync::atomic::AtomicU32};

use rustix::mm::{MapFlags, ProtFlags};

use crate::copy;

/// Whether a mapping may be written through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Loads only: a store through the mapping would be a fault, so [`Map::write`] refuses.
    Read,
    /// Loads and stores.
    ReadWrite,
}

/// A `MAP_SHARED` window of a file, unmapped on drop.
///
/// Touching a page that the file does not back allocates it (tmpfs), and where that is not
/// possible raises SIGBUS. Which pages exist is the caller's knowledge: `store` touches only
/// what a block map names.
#[derive(Debug)]
pub struct Map {
    address: NonNull<u8>,
    length: usize,
    access: Access,
}

impl Map {
    /// Maps `length` bytes of `file` from `offset` on; both count in bytes, `offset` in whole pages.
    ///
    /// # Errors
    /// Those of mmap(2), and `InvalidInput` for a length of zero.
    pub fn new(file: &File, offset: u64, length: usize, access: Access) -> io::Result<Self> {
        let protection = match access {
            Access::Read => ProtFlags::READ,
            Access::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        };
        // SAFETY: the kernel chooses the address, so no existing mapping is replaced, and the
        // pages are reached only through the methods below, which stay inside `length`.
        let address = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                length,
                protection,
                MapFlags::SHARED,
                file,
                offset,
            )?
        };
        let address = NonNull::new(address.cast()).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { address, length, access })
    }

    /// Length of the window in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// Panics unless `range` lies in the window: a wrong offset is a bug of the caller, and
    /// reading somebody else's memory would be the alternative.
    fn at(&self, range: Range<usize>) -> *mut u8 {
        assert!(
            range.start <= range.end && range.end <= self.length,
            "{range:?} outside a mapping of {} bytes",
            self.length
        );
        // SAFETY: `start` is at most `length`, so the result is inside or one past the mapping.
        unsafe { self.address.as_ptr().add(range.start) }
    }

    /// Copies `into.len()` bytes at `offset` out of the file.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        let from = self.at(offset..offset + into.len());
        // SAFETY: `at` has checked the range; `into` is private memory, so they do not overlap.
        // Another process may change the bytes meanwhile: the copy is then a mixture of old and
        // new bytes, never undefined, since it goes through libc's memcpy on raw memory.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) }
    }

    /// Copies `bytes` into the file at `offset`.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        assert_eq!(self.access, Access::ReadWrite, "a read-only mapping is not written");
        let to = self.at(offset..offset + bytes.len());
        // SAFETY: as in `read`; the mapping is writable, as just asserted.
        unsafe { copy::into_memory(bytes, to) }
    }

    /// The window as 32-bit words that other processes may change: block map entries.
    #[must_use]
    pub fn words(&self) -> &[AtomicU32] {
        // SAFETY: mmap returns page-aligned memory, `length / 4` words lie inside it, they live
        // as long as `self`, and atomics may change under a shared reference. On a read-only
        // mapping only loads are made: `store` opens the maps it writes as `ReadWrite`.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr().cast(), self.length / 4) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `new` mapped; nothing borrowed from it is left, since
        // `words` borrows `self` and every `Slice` holds an `Rc` of it.
        let unmapped = unsafe { rustix::mm::munmap(self.address.as_ptr().cast(), self.length) };
        debug_assert!(unmapped.is_ok(), "munmap: {unmapped:?}");
    }
}

/// A range of a mapping, which stays mapped for as long as the slice exists.
#[derive(Clone, Debug)]
pub struct Slice {
    map: Rc<Map>,
    offset: usize,
    length: usize,
}

impl Slice {
    /// `length` bytes of `map` from `offset` on.
    ///
    /// # Panics
    /// If they are not inside the mapping.
    #[must_use]
    pub fn new(map: &Rc<Map>, offset: usize, length: usize) -> Self {
        map.at(offset..offset + length);
        Self { map: Rc::clone(map), offset, length }
    }

    /// Length in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// The slice without its first `count` bytes.
    ///
    /// # Panics
    /// If it is shorter.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.length, "cannot advance {count} of {} bytes", self.length);
        self.offset += count;
        self.length -= count;
    }

    /// Copies the bytes from `from` on into `into`.
    ///
    /// # Panics
    /// If `into` is longer than what is left there.
    pub fn read(&self, from: usize, into: &mut [u8]) {
        assert!(from + into.len() <= self.length, "read past the end of a slice");
        self.map.read(self.offset + from, into);
    }

    /// Address for the kernel.
    pub(crate) fn address(&self) -> *mut u8 {
        self.map.at(self.offset..self.offset + self.length)
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, sync::atomic::Ordering};

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn what_is_written_through_one_mapping_is_read_through_another() {
        let file = file(&[0; 8192]);
        let ours = Map::new(&file, 0, 8192, Access::ReadWrite).unwrap();
        let theirs = Map::new(&file, 4096, 4096, Access::Read).unwrap();
        ours.write(4100, b"hello");
        let mut got = [0; 5];
        theirs.read(4, &mut got);
        assert_eq!(&got, b"hello");
        ours.words()[1024].store(7, Ordering::Release);
        assert_eq!(theirs.words()[0].load(Ordering::Acquire), 7);
    }

    #[test]
    #[should_panic(expected = "outside a mapping")]
    fn a_read_past_the_window_panics_instead_of_reading_foreign_memory() {
        let map = Map::new(&file(&[0; 4096]), 0, 4096, Access::Read).unwrap();
        map.read(4090, &mut [0; 7]);
    }

    #[test]
    #[should_panic(expected = "read-only")]
    fn a_read_only_mapping_is_not_written() {
        Map::new(&file(&[0; 4096]), 0, 4096, Access::Read).unwrap().write(0, &[1]);
    }

    #[test]
    fn a_slice_keeps_its_mapping_alive() {
        let map = Rc::new(Map::new(&file(b"0123456789"), 0, 4096, Access::Read).unwrap());
        let mut slice = Slice::new(&map, 2, 6);
        drop(map);
        slice.advance(1);
        let mut got = [0; 3];
        slice.read(2, &mut got);
        assert_eq!((&got, slice.length()), (b"567", 5));
    }
}
