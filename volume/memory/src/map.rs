//! A window of a file in memory, shared with other processes.

use std::{
    fs::File,
    io,
    ptr::NonNull,
    rc::Rc,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use rustix::mm::{MapFlags, ProtFlags};

use crate::{Words, copy};

/// What is left when a window is cut counts in these: as many bytes as the largest page of any processor.
const CUT_UNIT: usize = 64 << 10;

/// A `MAP_SHARED` window of a file, unmapped on drop.
#[derive(Debug)]
struct Window {
    address: NonNull<u8>,
    length: usize,
}

impl Window {
    /// `offset` and `length` count in bytes, `offset` in whole pages.
    fn new(file: &File, offset: u64, length: usize, protection: ProtFlags) -> io::Result<Self> {
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
        Ok(Self { address, length })
    }

    /// The address of a range.
    ///
    /// # Panics
    /// Unless the range lies in the window: a wrong offset is a bug of the caller, and reading
    /// other memory of this process would be the alternative.
    fn at(&self, offset: usize, length: usize) -> *mut u8 {
        assert!(
            offset <= self.length && length <= self.length - offset,
            "{length} bytes at {offset} outside a mapping of {} bytes",
            self.length
        );
        // SAFETY: `offset` is at most `length`, so the result is inside or one past the mapping.
        unsafe { self.address.as_ptr().add(offset) }
    }

    /// The window as 32-bit words. On a mapping for reading they may be loaded relaxed, and
    /// nothing else: [`Words`] sees to that.
    fn words(&self) -> &[AtomicU32] {
        // SAFETY: mmap returns page-aligned memory, `length / 4` words lie inside it, they live
        // as long as `self`, and atomics may change under a shared reference.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr().cast(), self.length / 4) }
    }
}

impl Window {
    /// Unmaps about `bytes` at the end; whether anything is left.
    fn cut(&mut self, bytes: usize) -> bool {
        let rest = self.length.saturating_sub(bytes) / CUT_UNIT * CUT_UNIT;
        if rest == 0 || rest == self.length {
            return false;
        }
        // SAFETY: whole pages at the end of the range that `new` mapped; `&mut self` says that nothing is
        // borrowed from it, and with the smaller `length` nothing will reach them.
        let unmapped = unsafe {
            rustix::mm::munmap(self.address.as_ptr().add(rest).cast(), self.length - rest)
        };
        if unmapped.is_ok() {
            self.length = rest;
        }
        unmapped.is_ok()
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `new` mapped; nothing borrowed from it is left, since
        // `words` borrows `self` and every `ReadMap` and `WriteMap` holds an `Rc` of it.
        let unmapped = unsafe { rustix::mm::munmap(self.address.as_ptr().cast(), self.length) };
        debug_assert!(unmapped.is_ok(), "munmap: {unmapped:?}");
    }
}

/// A mapped window of a file that can be loaded from. A clone is the same mapping, which ends with
/// the last of them.
///
/// Touching a page that the file does not back allocates it (tmpfs), and where that is not
/// possible raises SIGBUS. Which pages exist is the caller's knowledge: `store` touches only
/// what a block map names.
#[derive(Clone, Debug)]
pub struct ReadMap(Rc<Window>);

impl ReadMap {
    /// Maps `length` bytes of `file` from `offset` on; both count in bytes, `offset` in whole pages.
    ///
    /// # Errors
    /// Those of mmap(2), and `InvalidInput` for a length of zero.
    pub fn new(file: &File, offset: u64, length: usize) -> io::Result<Self> {
        Window::new(file, offset, length, ProtFlags::READ).map(|window| Self(Rc::new(window)))
    }

    /// Length of the window in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.0.length
    }

    /// Copies `into.len()` bytes at `offset` out of the file.
    ///
    /// # Panics
    /// If they are not inside the mapping.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        let from = self.0.at(offset, into.len());
        // SAFETY: `at` has checked the range; `into` is private memory, so they do not overlap.
        unsafe { copy::load(from, into) }
    }

    /// The window as 32-bit words that other processes may change: block map entries.
    #[must_use]
    pub fn words(&self) -> Words<'_> {
        Words::new(self.0.words())
    }

    /// Unmaps about `bytes` at the end, since to unmap a gigabyte that was touched takes tens of milliseconds.
    /// Whether anything is left that can be cut so; what cannot is unmapped on drop, as is a mapping that a clone
    /// of this one keeps.
    pub fn cut(&mut self, bytes: usize) -> bool {
        Rc::get_mut(&mut self.0).is_some_and(|window| window.cut(bytes))
    }

    /// Address of a range for the kernel.
    pub(crate) fn at(&self, offset: usize, length: usize) -> *const u8 {
        self.0.at(offset, length)
    }
}

/// A mapped window of a file that can be loaded from and stored to.
#[derive(Debug)]
pub struct WriteMap(ReadMap);

impl WriteMap {
    /// Maps `length` bytes of `file` from `offset` on, as [`ReadMap::new`] does.
    ///
    /// # Errors
    /// As [`ReadMap::new`]; the file must be open for reading and writing.
    pub fn new(file: &File, offset: u64, length: usize) -> io::Result<Self> {
        let window = Window::new(file, offset, length, ProtFlags::READ | ProtFlags::WRITE)?;
        Ok(Self(ReadMap(Rc::new(window))))
    }

    /// As [`ReadMap::cut`].
    pub fn cut(&mut self, bytes: usize) -> bool {
        self.0.cut(bytes)
    }

    /// The same mapping for those who only read.
    #[must_use]
    pub fn reader(&self) -> &ReadMap {
        &self.0
    }

    /// Copies `bytes` into the file at `offset`.
    ///
    /// # Panics
    /// If they would not lie inside the mapping.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let to = self.0.0.at(offset, bytes.len());
        // SAFETY: `at` has checked the range; `bytes` is private memory, so they do not overlap;
        // `new` has mapped the window for writing.
        unsafe { copy::store(bytes, to) }
    }

    /// The window as 32-bit words that this process and others may change.
    #[must_use]
    pub fn words(&self) -> &[AtomicU32] {
        self.0.0.words()
    }

    /// Stores the words at an even index and behind it at once: another process sees both or neither of them.
    ///
    /// # Panics
    /// If the index is odd, or there are no such words.
    pub fn store_pair(&self, index: usize, pair: [u32; 2]) {
        assert!(index.is_multiple_of(2), "{index} is odd");
        let to: *mut u8 = self.0.0.at(index * 4, 8);
        // SAFETY: `at` has checked the range, `new` has mapped it for writing, mmap returns page-aligned memory, and
        // `index` is even, so this is an aligned word of 64 bits. It is only reached by atomics, as are its halves.
        let word = unsafe { AtomicU64::from_ptr(to.cast()) };
        let [first, second] = pair.map(u32::to_ne_bytes);
        let both = [first, second].as_flattened().try_into().expect("twice 4 bytes");
        word.store(u64::from_ne_bytes(both), Ordering::Release);
    }
}

/// A mapped window of a file of which only 32-bit words are reached, atomically, so that the threads of a
/// process may share it as processes do.
#[derive(Debug)]
pub struct SharedWords(Window);

// SAFETY: the only access is by atomics, and munmap(2) may be called by any thread.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Maps `length` bytes of `file` from its beginning.
    ///
    /// # Errors
    /// As [`WriteMap::new`].
    pub fn new(file: &File, length: usize) -> io::Result<Self> {
        Window::new(file, 0, length, ProtFlags::READ | ProtFlags::WRITE).map(Self)
    }

    /// The words.
    #[must_use]
    pub fn words(&self) -> &[AtomicU32] {
        self.0.words()
    }
}

/// Gives up storing; the mapping stays.
impl From<WriteMap> for ReadMap {
    fn from(map: WriteMap) -> Self {
        map.0
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn what_is_written_through_one_mapping_is_read_through_another() {
        let file = file(&[0; 8192]);
        let ours = WriteMap::new(&file, 0, 8192).unwrap();
        let theirs = ReadMap::new(&file, 4096, 4096).unwrap();
        ours.write(4100, b"hello");
        let mut got = [0; 5];
        theirs.read(4, &mut got);
        assert_eq!(&got, b"hello");
        ours.words()[1024].store(7, Ordering::Release);
        assert_eq!(theirs.words().load(0), 7);
    }

    #[test]
    fn a_pair_of_words_is_stored_where_both_are() {
        let file = file(&[0; 4096]);
        let map = WriteMap::new(&file, 0, 4096).unwrap();
        map.store_pair(1022, [3, u32::MAX]);
        let words = map.reader().words();
        assert_eq!(words.array(1021), [0, 3, u32::MAX]);
    }

    #[test]
    #[should_panic(expected = "outside a mapping")]
    fn a_pair_behind_the_window_panics() {
        WriteMap::new(&file(&[0; 4096]), 0, 4096).unwrap().store_pair(1024, [0; 2]);
    }

    #[test]
    #[should_panic(expected = "outside a mapping")]
    fn a_read_past_the_window_panics_instead_of_reading_foreign_memory() {
        let map = ReadMap::new(&file(&[0; 4096]), 0, 4096).unwrap();
        map.read(4090, &mut [0; 7]);
    }

    #[test]
    fn words_of_a_mapping_for_reading_are_counted_in_runs() {
        let file = file(&[7u32, 7, 7, 8, 7, 0].map(u32::to_ne_bytes).concat());
        file.set_len(4096).unwrap();
        let map = ReadMap::new(&file, 0, 4096).unwrap();
        assert_eq!(map.words().count_leading(7), 3);
        assert_eq!(map.words().range(1..5).count_leading(7), 2);
        assert_eq!(map.words().range(2..6).iter().collect::<Vec<_>>(), [7, 8, 7, 0]);
    }

    #[test]
    fn a_mapping_is_cut_from_its_end_until_one_piece_is_left_unless_a_clone_has_it() {
        let file = file(&[5; 256 << 10]);
        let mut map = ReadMap::new(&file, 0, 256 << 10).unwrap();
        let clone = map.clone();
        assert!(!map.cut(100 << 10), "the clone may be in use");
        drop(clone);
        let mut lengths = vec![map.length() >> 10];
        while map.cut(100 << 10) {
            lengths.push(map.length() >> 10);
            let mut last = [0];
            map.read(map.length() - 1, &mut last);
            assert_eq!(last, [5]);
        }
        assert_eq!(lengths, [256, 128]);
        drop(map);
    }

    /// A layer that is frozen is read through the mapping that it was written through.
    #[test]
    fn a_mapping_that_is_not_written_any_more_still_shows_what_others_write() {
        let file = file(&[0; 4096]);
        let ours = ReadMap::from(WriteMap::new(&file, 0, 4096).unwrap());
        WriteMap::new(&file, 0, 4096).unwrap().write(9, b"x");
        let mut got = [0];
        ours.read(9, &mut got);
        assert_eq!(&got, b"x");
    }
}
