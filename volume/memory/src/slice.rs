//! Ranges of mappings that keep their mapping: what a reply that is not sent yet points to, and where a
//! payload goes.

use crate::{ReadMap, Reuse, WriteMap, copy};

/// A range of a mapping, which stays mapped for as long as the slice exists.
#[derive(Clone, Debug)]
pub struct Slice {
    map: ReadMap,
    offset: usize,
    length: usize,
}

impl Slice {
    /// `length` bytes of `map` from `offset` on.
    ///
    /// # Panics
    /// If they are not inside the mapping.
    #[must_use]
    pub fn new(map: &ReadMap, offset: usize, length: usize) -> Self {
        map.at(offset, length);
        Self { map: map.clone(), offset, length }
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

    /// The first `count` bytes; the slice goes on behind them.
    ///
    /// # Panics
    /// If it is shorter.
    #[must_use]
    pub fn split_front(&mut self, count: usize) -> Self {
        let mut front = self.clone();
        self.advance(count);
        front.length = count;
        front
    }

    /// Copies the bytes from `from` on into `into`.
    ///
    /// # Panics
    /// If `into` is longer than what is left there.
    pub fn read(&self, from: usize, into: &mut [u8]) {
        assert!(from + into.len() <= self.length, "read past the end of a slice");
        self.map.read(self.offset + from, into);
    }

    /// Says that the slice is copied soon: its first line is on its way into the cache then, and the translation of
    /// its address, which takes longer in a large mapping. Translations of several slices are looked up side by
    /// side only where these calls follow each other closely.
    #[inline]
    pub fn prefetch(&self) {
        copy::prefetch(self.address());
    }

    /// Address for the kernel. It is valid for reads of [`length`](Self::length) bytes while the slice
    /// exists. Other processes may change the bytes, so that no reference to them may be made.
    #[must_use]
    pub fn address(&self) -> *const u8 {
        self.map.at(self.offset, self.length)
    }
}

/// A range of a mapping for writing, which stays mapped for as long as the slice exists.
#[derive(Clone, Debug)]
pub struct WriteSlice(Slice);

impl WriteSlice {
    /// `length` bytes of `map` from `offset` on.
    ///
    /// # Panics
    /// If they are not inside the mapping.
    #[must_use]
    pub fn new(map: &WriteMap, offset: usize, length: usize) -> Self {
        Self(Slice::new(map.reader(), offset, length))
    }

    /// Length in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.0.length
    }

    /// The first `count` bytes; the slice goes on behind them.
    ///
    /// # Panics
    /// If it is shorter.
    #[must_use]
    pub fn split_front(&mut self, count: usize) -> Self {
        Self(self.0.split_front(count))
    }

    /// The same range for those who only read.
    #[must_use]
    pub fn reader(&self) -> &Slice {
        &self.0
    }

    /// Stores bytes from `at` on.
    ///
    /// # Panics
    /// If they would not lie inside the slice.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.length(), "write past the end of a slice");
        let to = self.0.map.at(self.0.offset + at, bytes.len()).cast_mut();
        // SAFETY: `at` has checked the range, `bytes` is private memory, so they do not overlap, and the
        // map was mapped for writing: a `WriteSlice` is made of a `WriteMap` alone.
        unsafe { copy::store(bytes, to) }
    }

    /// Address for the kernel. It is valid for writes of [`length`](Self::length) bytes while the slice
    /// exists. Other processes may change the bytes, so that no reference to them may be made.
    #[must_use]
    pub fn address(&self) -> *mut u8 {
        self.0.address().cast_mut()
    }
}

/// Copies between slices. What is stored after its end is seen after the copied bytes: waiting for that once
/// costs less than after each of them.
#[derive(Debug, Default)]
pub struct Copying(());

impl Copying {
    /// Nothing is copied yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Copies all of a slice to another one of the same length; `reuse` is that of the other one. Where the two
    /// overlap, or other processes change the bytes meanwhile, the result is a mixture of old and new bytes.
    ///
    /// # Panics
    /// If the lengths differ.
    #[inline]
    pub fn copy(&mut self, from: &Slice, to: &WriteSlice, reuse: Reuse) {
        self.copy_before(from, to, reuse, from);
    }

    /// The same, with `next` to be copied next: that comes into the cache while this one is copied.
    ///
    /// # Panics
    /// If the lengths differ.
    #[inline]
    pub fn copy_before(&mut self, from: &Slice, to: &WriteSlice, reuse: Reuse, next: &Slice) {
        assert_eq!(to.length(), from.length, "a copy between slices of different lengths");
        // SAFETY: both addresses are valid for that many bytes while the slices exist, and the map of
        // `to` was mapped for writing. The fence is in `drop`.
        unsafe {
            copy::between(from.address(), to.address(), from.length, reuse, next.address());
        }
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        copy::fence();
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::fs::MetadataExt};

    use super::*;

    #[test]
    fn a_slice_keeps_its_mapping_alive() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let map = ReadMap::new(&file, 0, 4096).unwrap();
        let mut slice = Slice::new(&map, 2, 6);
        drop(map);
        slice.advance(1);
        let mut got = [0; 3];
        slice.read(2, &mut got);
        assert_eq!((&got, slice.length()), (b"567", 5));
    }

    #[test]
    fn a_slice_is_written_where_it_lies_and_nowhere_else() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let map = WriteMap::new(&file, 0, 4096).unwrap();
        let mut rest = WriteSlice::new(&map, 10, 20);
        let front = rest.split_front(5);
        front.write(3, b"ab");
        Copying::new().copy(&Slice::new(map.reader(), 0, 15), &rest, Reuse::Soon);
        assert_eq!((front.length(), rest.length(), rest.reader().length()), (5, 15, 15));
        let mut got = [1; 32];
        map.reader().read(0, &mut got);
        let mut expected = [0; 32];
        expected[13..15].copy_from_slice(b"ab");
        expected[28..30].copy_from_slice(b"ab");
        assert_eq!(got, expected);
    }

    #[test]
    fn what_is_fetched_ahead_is_not_allocated_by_it() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        let map = ReadMap::new(&file, 0, 8192).unwrap();
        Slice::new(&map, 0, 4096).prefetch();
        // The lines behind the last byte of a mapping are those of nothing.
        Slice::new(&map, 8191, 1).prefetch();
        map.words().prefetch(2047);
        assert_eq!(file.metadata().unwrap().blocks(), 0);
    }

    #[test]
    #[should_panic(expected = "past the end of a slice")]
    fn a_write_past_a_slice_panics_though_the_mapping_goes_on() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let map = WriteMap::new(&file, 0, 4096).unwrap();
        WriteSlice::new(&map, 0, 4).write(3, b"ab");
    }
}
