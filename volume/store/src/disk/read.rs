//! Reading: which bytes of which layer a range consists of. Nothing is copied here.

use memory::Slice;

use super::{Disk, layers::WINDOW_BYTES};
use crate::{
    block::{BLOCK_BYTES, is_data},
    error::Result,
};

/// A part of the contents of a range.
#[derive(Debug)]
pub enum Piece {
    /// So many bytes that read as zeros.
    Zeroes(u64),
    /// Bytes of a layer, where they lie. They stay what they are until this disk lets go of them:
    /// see [`Disk::write_releases`] and [`Disk::erase_releases`].
    Data(Slice),
}

impl Disk {
    /// Hands out, in order, the pieces that a range consists of; neighbours may be of one sort.
    ///
    /// # Errors
    /// [`ErrorKind::BadArgument`](crate::ErrorKind) for a range outside the disk; an error of
    /// mapping a layer.
    pub fn read(&mut self, offset: u64, length: u64, mut piece: impl FnMut(Piece)) -> Result<()> {
        let end = self.end(offset, length)?;
        let mut at = offset;
        while at < end {
            let (layer, stop) = self.run(at / BLOCK_BYTES, end.div_ceil(BLOCK_BYTES))?;
            let stop = (stop * BLOCK_BYTES).min(end);
            if !is_data(layer) {
                piece(Piece::Zeroes(stop - at));
                at = stop;
            }
            while at < stop {
                let (map, start) = self.layers.data(layer, at)?;
                let part = (stop - at).min(WINDOW_BYTES - start as u64);
                let bytes = usize::try_from(part).expect("64-bit host");
                piece(Piece::Data(Slice::new(map, start, bytes)));
                at += part;
            }
        }
        Ok(())
    }

    /// Copies a range out.
    ///
    /// # Errors
    /// As [`Disk::read`].
    pub fn read_into(&mut self, offset: u64, into: &mut [u8]) -> Result<()> {
        let mut at = 0;
        self.read(offset, into.len() as u64, |piece| match piece {
            Piece::Zeroes(count) => {
                let count = usize::try_from(count).expect("inside `into`");
                into[at..at + count].fill(0);
                at += count;
            }
            Piece::Data(slice) => {
                slice.read(0, &mut into[at..at + slice.length()]);
                at += slice.length();
            }
        })
    }
}
