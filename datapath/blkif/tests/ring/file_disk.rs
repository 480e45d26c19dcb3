//! A disk in a file that several processes map, one after the other.

use std::{fs::File, io};

use block::{Disk, Extent, StatusExtent};
use memory::{Slice, WriteMap, WriteSlice};

/// The disk. Blocks of even numbers are written in place, the others through the buffer, so that both
/// ways are gone.
#[derive(Debug)]
pub(crate) struct FileDisk {
    map: WriteMap,
}

impl FileDisk {
    pub(crate) fn open(path: &str) -> Self {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let length = file.metadata().unwrap().len() as usize;
        Self { map: WriteMap::new(&file, 0, length).unwrap() }
    }
}

impl Disk for FileDisk {
    type Structure = Self;

    fn size(&self) -> u64 {
        self.map.reader().length() as u64
    }

    fn read_only(&self) -> bool {
        false
    }

    fn structure(&mut self) -> &mut Self {
        self
    }

    fn read(&mut self, offset: u64, length: u32, into: &mut Vec<Extent>) -> io::Result<()> {
        into.push(Extent::Data(Slice::new(self.map.reader(), offset as usize, length as usize)));
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.map.write(offset as usize, data);
        Ok(())
    }

    fn places(&mut self, offset: u64, length: u32, into: &mut Vec<WriteSlice>) -> io::Result<bool> {
        let even = (offset / Self::BLOCK_BYTES).is_multiple_of(2);
        if even {
            into.push(WriteSlice::new(&self.map, offset as usize, length as usize));
        }
        Ok(even)
    }

    fn write_zeroes(&mut self, offset: u64, length: u64, _keep: bool) -> io::Result<()> {
        self.map.write(offset as usize, &vec![0; length as usize]);
        Ok(())
    }

    fn discard(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.write_zeroes(offset, length, false)
    }

    fn status(&mut self, _: u64, length: u64, into: &mut Vec<StatusExtent>) -> io::Result<()> {
        into.push(StatusExtent { length, hole: false, zero: false });
        Ok(())
    }
}
