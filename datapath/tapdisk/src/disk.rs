//! A volume of the store as a disk that NBD connections serve.

use std::{io, ops::ControlFlow};

use nbd::{Export, Extent, StatusExtent};
use store::{Disk, Piece, Status};

/// The most extents of one answer to a request for the block status.
const EXTENTS_MAX: usize = 4096;

/// A disk, as its connections see it.
#[derive(Debug)]
pub(crate) struct Served<'a>(pub(crate) &'a mut Disk);

impl Export for Served<'_> {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_only(&self) -> bool {
        self.0.read_only()
    }

    fn read(&mut self, offset: u64, length: u32, into: &mut Vec<Extent>) -> io::Result<()> {
        self.0.read(offset, length.into(), |piece| {
            into.push(match piece {
                Piece::Data(slice) => Extent::Data(slice),
                Piece::Zeros(count) => {
                    Extent::Zeroes(u32::try_from(count).expect("a part of the request"))
                }
            });
        })?;
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        Ok(self.0.write(offset, data)?)
    }

    fn write_zeroes(&mut self, offset: u64, length: u64, keep_allocated: bool) -> io::Result<()> {
        Ok(self.0.write_zeroes(offset, length, keep_allocated)?)
    }

    fn trim(&mut self, offset: u64, length: u64) -> io::Result<()> {
        Ok(self.0.discard(offset, length)?)
    }

    fn status(&mut self, offset: u64, length: u64, into: &mut Vec<StatusExtent>) -> io::Result<()> {
        self.0.status(offset, length, |length, status| {
            let hole = status == Status::Hole;
            into.push(StatusExtent { length, hole, zero: hole });
            if into.len() < EXTENTS_MAX {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        Ok(())
    }
}
