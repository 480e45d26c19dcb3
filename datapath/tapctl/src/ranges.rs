//! Ours: a list of ranges of a disk, for which a message is too short.
//!
//! The caller keeps it in memory that it has open, and its message names that descriptor. The tapdisk opens it
//! by `/proc` while the caller waits for the answer. Where either of them dies, nothing is left of it.

use std::{
    fs::File,
    io::{self, Read, Write},
    ops::Range,
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::{
    fs::{CWD, FileType, MemfdFlags, Mode, OFlags, fstat, memfd_create, openat},
    io::Errno,
};

/// How many ranges a list has at most: reading so many takes a tapdisk some milliseconds.
pub const RANGES_MAX: usize = 1 << 18;

/// Start and end in bytes, in host byte order.
const RANGE_BYTES: usize = 16;

/// The name of a list in a message: a process, and the number of one of its descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeList {
    pub(crate) process: u32,
    pub(crate) descriptor: u32,
}

/// A list that this process holds for others to read, until it is dropped.
#[derive(Debug)]
pub struct HeldRanges(File);

impl HeldRanges {
    /// Holds a list.
    ///
    /// # Errors
    /// Where there are more ranges than [`RANGES_MAX`], or the system has no memory.
    pub fn new(ranges: &[Range<u64>]) -> io::Result<Self> {
        if ranges.len() > RANGES_MAX {
            return Err(Errno::FBIG.into());
        }
        let mut file = File::from(memfd_create("ranges", MemfdFlags::CLOEXEC)?);
        let words = ranges.iter().flat_map(|range| [range.start, range.end]);
        file.write_all(&words.flat_map(u64::to_ne_bytes).collect::<Vec<u8>>())?;
        Ok(Self(file))
    }

    /// Its name.
    #[must_use]
    pub fn list(&self) -> RangeList {
        let descriptor = self.0.as_raw_fd().unsigned_abs();
        RangeList { process: std::process::id(), descriptor }
    }
}

impl RangeList {
    pub(crate) fn from_number(number: u64) -> Self {
        let descriptor = number as u32;
        Self { process: (number >> 32) as u32, descriptor }
    }

    pub(crate) fn number(self) -> u64 {
        u64::from(self.process) << 32 | u64::from(self.descriptor)
    }

    /// Reads the list of another process. Never waits.
    ///
    /// # Errors
    /// Where that process or descriptor is not there, or is no such list.
    pub fn read(self) -> io::Result<Vec<Range<u64>>> {
        let path = format!("/proc/{}/fd/{}", self.process, self.descriptor);
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file: OwnedFd = openat(CWD, path, flags, Mode::empty())?;
        let stat = fstat(&file)?;
        let length = usize::try_from(stat.st_size).unwrap_or(usize::MAX);
        let is_regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !is_regular || length % RANGE_BYTES != 0 || length > RANGES_MAX * RANGE_BYTES {
            return Err(Errno::INVAL.into());
        }
        let mut bytes = vec![0; length];
        File::from(file).read_exact(&mut bytes)?;
        let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
        let range = |bytes: &[u8]| word(&bytes[..8])..word(&bytes[8..]);
        Ok(bytes.chunks_exact(RANGE_BYTES).map(range).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_was_held() {
        for ranges in [vec![], vec![0..1, 512..u64::MAX], vec![7..9; RANGES_MAX]] {
            let held = HeldRanges::new(&ranges).unwrap();
            let list = RangeList::from_number(held.list().number());
            assert_eq!(list, held.list());
            assert!(list.read().unwrap() == ranges);
            assert!(list.read().unwrap() == ranges, "it may be read again");
            drop(held);
            list.read().unwrap_err();
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        assert_eq!(
            HeldRanges::new(&vec![0..1; RANGES_MAX + 1]).unwrap_err().kind(),
            io::ErrorKind::FileTooLarge
        );
        let of = |file: &File| RangeList {
            process: std::process::id(),
            descriptor: file.as_raw_fd().unsigned_abs(),
        };
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[0; 17]).unwrap();
        assert_eq!(of(&file).read().unwrap_err().kind(), io::ErrorKind::InvalidInput);
        file.set_len(16 * (RANGES_MAX as u64 + 1)).unwrap();
        assert_eq!(of(&file).read().unwrap_err().kind(), io::ErrorKind::InvalidInput);
        // One that has nothing to read, and no end.
        let (reader, _writer) = std::io::pipe().unwrap();
        let pipe = File::from(OwnedFd::from(reader));
        assert_eq!(of(&pipe).read().unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
