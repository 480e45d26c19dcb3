//! A range of a mapping that keeps its mapping: what a reply that is not sent yet points to.

use crate::ReadMap;

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

    /// Copies the bytes from `from` on into `into`.
    ///
    /// # Panics
    /// If `into` is longer than what is left there.
    pub fn read(&self, from: usize, into: &mut [u8]) {
        assert!(from + into.len() <= self.length, "read past the end of a slice");
        self.map.read(self.offset + from, into);
    }

    /// Address for the kernel.
    pub(crate) fn address(&self) -> *const u8 {
        self.map.at(self.offset, self.length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

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
}
