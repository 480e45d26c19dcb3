//! Which bytes of the source one request takes: a run of data, or a run of zeroes.

use block::Extent;

/// A run from a place of the disk on, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Data(u64),
    Zeroes(u64),
}

/// The first run of what was read from `at` on, which ends at multiples of `unit` or with all of it.
/// Zeroes that do not fill a unit count as data.
pub(crate) fn first(extents: &[Extent], at: u64, unit: u64) -> Piece {
    let end = at + extents.iter().map(|extent| extent.length() as u64).sum::<u64>();
    let usable = |from: u64, to: u64| {
        let from = if from == at { at } else { from.next_multiple_of(unit) };
        let to = if to == end { end } else { to - to % unit };
        (from < to).then_some((from, to))
    };
    let mut place = at;
    let mut zeroes_from = None;
    for extent in extents {
        if extent.is_zeroes() {
            zeroes_from.get_or_insert(place);
        } else if let Some((from, to)) = zeroes_from.take().and_then(|from| usable(from, place)) {
            return piece(at, from, to);
        }
        place += extent.length() as u64;
    }
    match zeroes_from.and_then(|from| usable(from, end)) {
        Some((from, to)) => piece(at, from, to),
        None => Piece::Data(end - at),
    }
}

/// The first run where the first zeroes lie between `from` and `to`.
fn piece(at: u64, from: u64, to: u64) -> Piece {
    if from == at { Piece::Zeroes(to - at) } else { Piece::Data(from - at) }
}

#[cfg(test)]
mod tests {
    use block::{Disk, memory::Memory};

    use super::*;

    const UNIT: u64 = 4096;

    /// Extents of those lengths; negative ones are zeroes.
    fn extents(lengths: &[i32]) -> Vec<Extent> {
        let mut extents = Vec::new();
        let mut disk = Memory::new(1 << 20).unwrap();
        disk.write(0, &[1; 1 << 20]).unwrap();
        for &length in lengths {
            if length < 0 {
                extents.push(Extent::Zeroes(length.unsigned_abs()));
            } else {
                disk.read(0, length.unsigned_abs(), &mut extents).unwrap();
            }
        }
        extents
    }

    #[test]
    fn runs_end_at_units_and_short_zeroes_are_data() {
        use Piece::{Data, Zeroes};
        for (lengths, at, expected) in [
            (&[8192, 4096][..], 0, Data(12288)),
            (&[-4096, -4096, 4096], 0, Zeroes(8192)),
            (&[4096, -4096, 4096], 0, Data(4096)),
            (&[4096, -4096], 0, Data(4096)),
            (&[-5000, 100], 0, Zeroes(4096)),
            (&[-100, 5000], 0, Data(5100)),
            (&[100, -5000, 100], 0, Data(5200)),
            (&[100, -8192, 100], 0, Data(4096)),
            // The end of what was read counts, as the end of a disk of whole sectors does.
            (&[-512], 0, Zeroes(512)),
            (&[4096, -512], 0, Data(4096)),
            // A copy of given blocks may begin in the middle of a unit.
            (&[-4096, 512], 512, Zeroes(3584)),
            (&[-512, 4096], 3584, Zeroes(512)),
        ] {
            assert_eq!(first(&extents(lengths), at, UNIT), expected, "{lengths:?} at {at}");
        }
    }
}
