//! Raw files: the disk's bytes as they are. What reads as zeroes without taking memory is a hole in the file,
//! and a hole of the file takes no memory.

use std::io::Write;

use save::Progress;
use store::{Disk, Piece, Result};

use super::{Source, Target, data_bytes, did};

/// Bytes that are read or written at a time.
const STEP_BYTES: u64 = 1 << 20;
/// Bytes of a disk that are asked for at a time: a hole in it costs next to nothing.
const RANGE_BYTES: u64 = 1 << 30;
/// The unit in which a disk takes memory.
const BLOCK: usize = store::BLOCK_BYTES as usize;
/// What errors call the standard output.
const STDOUT: &str = "standard output";

/// Writes a disk into a file.
pub(super) fn export(disk: &mut Disk, target: &Target, progress: &dyn Progress) -> Result<()> {
    target.set_len(disk.size())?;
    for_each_part(disk, |offset, part| {
        let Part::Data(bytes) = part else { return Ok(()) };
        target.write_at(bytes, offset)?;
        progress.advance(bytes.len() as u64);
        Ok(())
    })
}

/// Writes a disk to the standard output, holes as zeroes. Bytes of data that it has.
pub(crate) fn to_stdout(disk: &mut Disk, progress: &dyn Progress) -> Result<u64> {
    let bytes = data_bytes(disk)?;
    progress.begin(disk.size());
    let mut stdout = std::io::stdout().lock();
    let zeroes = vec![0; step(u64::MAX)];
    for_each_part(disk, |_, part| {
        let (mut left, bytes) = match part {
            Part::Data(bytes) => (bytes.len() as u64, bytes),
            Part::Zeroes(count) => (count, &zeroes[..]),
        };
        while left > 0 {
            let part = &bytes[..step(left).min(bytes.len())];
            did("writing", STDOUT, stdout.write_all(part))?;
            progress.advance(part.len() as u64);
            left -= part.len() as u64;
        }
        Ok(())
    })?;
    did("writing", STDOUT, stdout.flush())?;
    Ok(bytes)
}

/// A part of a disk.
enum Part<'a> {
    Data(&'a [u8]),
    Zeroes(u64),
}

/// Calls `act` for each part of a disk with its offset, in order. Parts with data have 1 MiB at most.
fn for_each_part(disk: &mut Disk, mut act: impl FnMut(u64, Part<'_>) -> Result<()>) -> Result<()> {
    let (mut buffer, mut pieces) = (vec![0; step(u64::MAX)], Vec::new());
    let mut offset = 0;
    while offset < disk.size() {
        let length = RANGE_BYTES.min(disk.size() - offset);
        disk.read(offset, length, |piece| pieces.push(piece))?;
        for piece in pieces.drain(..) {
            match piece {
                Piece::Zeroes(count) => {
                    act(offset, Part::Zeroes(count))?;
                    offset += count;
                }
                Piece::Data(slice) => {
                    for at in (0..slice.length()).step_by(buffer.len()) {
                        let bytes = step((slice.length() - at) as u64);
                        slice.read(at, &mut buffer[..bytes]);
                        act(offset, Part::Data(&buffer[..bytes]))?;
                        offset += bytes as u64;
                    }
                }
            }
        }
    }
    Ok(())
}

/// So many bytes, but no more than are read or written at a time.
fn step(bytes: u64) -> usize {
    usize::try_from(bytes.min(STEP_BYTES)).expect("64-bit host")
}

/// Fills a new disk with what is in a file.
pub(super) fn import(source: &Source, disk: &mut Disk, progress: &dyn Progress) -> Result<()> {
    let extents = source.extents()?;
    progress.begin(extents.iter().map(|(start, end)| end - start).sum());
    for_each_run(source, &extents, progress, |offset, run| disk.write(offset, run))
}

/// Refuses a file with more data than there is room for, before anything of it is written: until an import fails
/// there, other disks would find no room. A file with many zeroes has to be read to know that.
pub(super) fn require_room(source: &Source, free: u64, progress: &dyn Progress) -> Result<()> {
    let extents = source.extents()?;
    let most = extents.iter().map(|(start, end)| end - start).sum();
    if most <= free {
        return Ok(());
    }
    progress.begin(most);
    let mut needed = 0;
    for_each_run(source, &extents, progress, |_, run| {
        needed += run.len().next_multiple_of(BLOCK) as u64;
        Ok(())
    })?;
    if needed <= free { Ok(()) } else { Err(source.no_room(Some(needed), free)) }
}

/// Calls `act` for each run of blocks that are not zeroes, with its offset.
fn for_each_run(
    source: &Source,
    extents: &[(u64, u64)],
    progress: &dyn Progress,
    mut act: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut buffer = vec![0; step(u64::MAX)];
    for &(start, end) in extents {
        let mut offset = start;
        while offset < end {
            let bytes = &mut buffer[..step(end - offset)];
            source.read_at(bytes, offset)?;
            runs(bytes).try_for_each(|(at, run)| act(offset + at, run))?;
            progress.advance(bytes.len() as u64);
            offset += bytes.len() as u64;
        }
    }
    Ok(())
}

/// The runs of whole blocks that are not zeroes, with their offsets; the last block may be short.
fn runs(bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let is_data = |at: usize| bytes[at..].iter().take(BLOCK).any(|&byte| byte != 0);
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < bytes.len() && !is_data(at) {
            at += BLOCK;
        }
        let start = at;
        while at < bytes.len() && is_data(at) {
            at += BLOCK;
        }
        (start < bytes.len()).then(|| (start as u64, &bytes[start..at.min(bytes.len())]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_whole_blocks_that_are_not_zeroes() {
        let mut bytes = vec![0; 6 * BLOCK + 512];
        assert_eq!(runs(&bytes).count(), 0);
        for at in [BLOCK + 7, 2 * BLOCK, 4 * BLOCK - 1, 6 * BLOCK + 511] {
            bytes[at] = 1;
        }
        let found: Vec<_> = runs(&bytes).map(|(at, run)| (at, run.len())).collect();
        assert_eq!(found, [(4096, 3 * BLOCK), (6 * 4096, 512)]);
    }
}
