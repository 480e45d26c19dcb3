//! The blocks of a copy: from what a caller lists to ranges of the disk that the tapdisk reads.

use std::ops::Range;

use smapiv3::{Blocklist, Error, Failure};
use tapctl::{HeldRanges, ranges::RANGES_MAX};

/// Holds the listed blocks of a disk of `size` bytes as ascending ranges that do not touch each other, for the
/// tapdisk to read.
pub(crate) fn held(blocks: &Blocklist, size: u64) -> Result<HeldRanges, Error> {
    let ranges = ranges(blocks, size)?;
    if ranges.len() > RANGES_MAX {
        let message = format!(
            "the blocklist has {} ranges that do not touch each other, and one copy takes {RANGES_MAX}: \
             copy them in several operations, one after the other",
            ranges.len()
        );
        return Err(Error::new(Failure::InvalidArg, message));
    }
    HeldRanges::new(&ranges).map_err(|error| crate::errors::io("keeping the blocklist", error))
}

/// The ranges in bytes. The last block of a disk may reach beyond its end.
fn ranges(blocks: &Blocklist, size: u64) -> Result<Vec<Range<u64>>, Error> {
    let Blocklist { blocksize, ranges } = blocks;
    let wrong = |message: String| Err(Error::new(Failure::InvalidArg, message));
    if *blocksize == 0 {
        return wrong("the blocksize of the blocklist is 0, expected bytes per block".into());
    }
    let mut bytes: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    let count = size.div_ceil(*blocksize);
    for &(start, length) in ranges {
        let Some(end) = start.checked_add(length).filter(|&end| end <= count) else {
            return wrong(format!(
                "the blocklist names {length} blocks of {blocksize} bytes from block {start} on, and the \
                 disk of {size} bytes ends with block {count}"
            ));
        };
        if length > 0 {
            bytes.push(start * blocksize..size.min(end.saturating_mul(*blocksize)));
        }
    }
    bytes.sort_unstable_by_key(|range| range.start);
    bytes.dedup_by(|range, before| {
        let touches = range.start <= before.end;
        if touches {
            before.end = before.end.max(range.end);
        }
        touches
    });
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(blocksize: u64, ranges: &[(u64, u64)]) -> Blocklist {
        Blocklist { blocksize, ranges: ranges.to_vec() }
    }

    #[test]
    fn blocks_become_ranges_in_order_and_apart() {
        for (blocks, size, expected) in [
            (list(4096, &[]), 8192, vec![]),
            (list(4096, &[(1, 0)]), 8192, vec![]),
            (list(4096, &[(1, 1), (0, 1)]), 8192, vec![(0, 8192)]),
            (list(10, &[(5, 2), (0, 2), (1, 3), (6, 0)]), 100, vec![(0, 40), (50, 70)]),
            (list(1 << 20, &[(0, 1)]), 512, vec![(0, 512)]),
            (list(u64::MAX, &[(0, 1)]), 1 << 40, vec![(0, 1 << 40)]),
        ] {
            let ranges = ranges(&blocks, size).unwrap();
            let ends: Vec<(u64, u64)> = ranges.iter().map(|it| (it.start, it.end)).collect();
            assert_eq!(ends, expected, "{blocks:?}");
        }
    }

    #[test]
    fn what_no_disk_has_is_refused_with_its_numbers() {
        for (blocks, told) in [
            (list(0, &[(0, 1)]), "blocksize"),
            (list(4096, &[(0, 1), (2, 1)]), "1 blocks of 4096 bytes from block 2 on"),
            (list(4096, &[(1, 2)]), "ends with block 2"),
            (list(4096, &[(u64::MAX, 2)]), "ends with block 2"),
        ] {
            let error = held(&blocks, 8192).unwrap_err();
            assert!(error.params()[1].contains(told), "{error}");
        }
        let many: Vec<(u64, u64)> = (0..=RANGES_MAX as u64).map(|at| (at * 2, 1)).collect();
        let error = held(&list(512, &many), 1 << 40).unwrap_err();
        assert!(error.params()[1].contains("several operations"), "{error}");
        held(&list(512, &many[1..]), 1 << 40).unwrap();
    }
}
