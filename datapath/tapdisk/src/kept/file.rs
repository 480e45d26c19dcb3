//! The file in memory that a server writes its state to, and its successor reads.
//!
//! There are two copies, written in turn: where the process dies while it writes one, the other is whole.
//! Each has a number that grows, and a checksum.

use std::{
    fs::File,
    io::{self, ErrorKind},
    os::unix::fs::FileExt,
};

use rustix::fs::{MemfdFlags, memfd_create};

/// "rS", and the version of this layout.
const MAGIC: u32 = 0x7253_0001;

/// Where the second copy begins. Only what is written takes memory.
const COPY_BYTES: u64 = 64 << 20;
/// Magic, four bytes of nothing, number, length, checksum.
const HEADER_BYTES: usize = 32;

/// The file.
#[derive(Debug)]
pub(crate) struct StateFile {
    file: File,
    /// The number of the last copy that was written.
    number: u64,
}

/// Makes an empty one, for [`StateFile::open`].
pub(crate) fn create() -> io::Result<File> {
    Ok(File::from(memfd_create("tapdisk-state", MemfdFlags::CLOEXEC)?))
}

impl StateFile {
    /// Opens one, and reads what was written last; nothing if nothing was.
    pub(crate) fn open(file: File) -> io::Result<(Self, Option<Vec<u8>>)> {
        let copies = [read(&file, 0)?, read(&file, COPY_BYTES)?];
        let last = copies.into_iter().flatten().max_by_key(|(number, _)| *number);
        let (number, bytes) = last.map_or((0, None), |(number, bytes)| (number, Some(bytes)));
        Ok((Self { file, number }, bytes))
    }

    /// Writes a state. It counts when this returns; where the process dies before, the one before does.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = bytes.len() as u64;
        if length > COPY_BYTES - HEADER_BYTES as u64 {
            return Err(ErrorKind::FileTooLarge.into());
        }
        let number = self.number + 1;
        let at = (number & 1) * COPY_BYTES;
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&MAGIC.to_le_bytes());
        header[8..16].copy_from_slice(&number.to_le_bytes());
        header[16..24].copy_from_slice(&length.to_le_bytes());
        header[24..].copy_from_slice(&checksum(number, bytes).to_le_bytes());
        self.file.write_all_at(bytes, at + HEADER_BYTES as u64)?;
        self.file.write_all_at(&header, at)?;
        self.number = number;
        Ok(())
    }
}

/// A copy with its number, if it is whole.
fn read(file: &File, at: u64) -> io::Result<Option<(u64, Vec<u8>)>> {
    let mut header = [0; HEADER_BYTES];
    match file.read_exact_at(&mut header, at) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let word = |at: usize| {
        u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes of the header"))
    };
    let (number, length) = (word(8), word(16));
    if header[..4] != MAGIC.to_le_bytes() || length > COPY_BYTES {
        return Ok(None);
    }
    let mut bytes = vec![0; length as usize];
    match file.read_exact_at(&mut bytes, at + HEADER_BYTES as u64) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    Ok((checksum(number, &bytes) == word(24)).then_some((number, bytes)))
}

/// FNV-1a, over the number and the bytes: what it is to find is a copy that was written in part.
fn checksum(number: u64, bytes: &[u8]) -> u64 {
    let mut sum = 0xcbf2_9ce4_8422_2325_u64;
    for byte in number.to_le_bytes().iter().chain(bytes) {
        sum = (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reopened(file: &File) -> (StateFile, Option<Vec<u8>>) {
        StateFile::open(file.try_clone().unwrap()).unwrap()
    }

    #[test]
    fn the_last_state_is_read_again_and_an_empty_file_has_none() {
        let file = create().unwrap();
        assert_eq!(reopened(&file).1, None);
        for text in ["first, and longer than what follows", "second", "", "fourth"] {
            let (mut state, _) = reopened(&file);
            state.write(text.as_bytes()).unwrap();
            assert_eq!(reopened(&file).1.as_deref(), Some(text.as_bytes()));
        }
    }

    /// A process that dies while it writes has written any first part of it.
    #[test]
    fn a_state_that_is_written_in_part_does_not_count() {
        for parts in 0..HEADER_BYTES + 3 {
            let file = create().unwrap();
            let (mut state, _) = reopened(&file);
            state.write(b"one").unwrap();
            state.write(b"two").unwrap();
            let (number, at) = (3_u64, COPY_BYTES);
            let mut whole = Vec::new();
            whole.extend_from_slice(&MAGIC.to_le_bytes());
            whole.extend_from_slice(&[0; 4]);
            whole.extend_from_slice(&number.to_le_bytes());
            whole.extend_from_slice(&6_u64.to_le_bytes());
            whole.extend_from_slice(&checksum(number, b"threee").to_le_bytes());
            let bytes_first = parts.min(3);
            file.write_all_at(&b"threee"[..bytes_first], at + HEADER_BYTES as u64).unwrap();
            file.write_all_at(&whole[..parts.saturating_sub(3)], at).unwrap();
            assert_eq!(reopened(&file).1.as_deref(), Some(b"two".as_slice()), "{parts}");
        }
    }
}
