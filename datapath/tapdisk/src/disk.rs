//! A volume of the store as a disk that NBD connections serve.

use std::{io, ops::ControlFlow};

use nbd::{Export, Extent, StatusExtent};
use store::{Disk, Piece, Status};

use crate::metrics::Failed;

/// The most extents of one answer to a request for the block status.
const EXTENTS_MAX: usize = 4096;

/// The unit in which failures are counted. Bytes.
const SECTOR_BYTES: u64 = 512;

/// A disk, as its connections see it.
#[derive(Debug)]
pub(crate) struct Served<'a> {
    pub(crate) disk: &'a mut Disk,
    pub(crate) failed: &'a mut Failed,
}

impl Export for Served<'_> {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read_only(&self) -> bool {
        self.disk.read_only()
    }

    fn read(&mut self, offset: u64, length: u32, into: &mut Vec<Extent>) -> io::Result<()> {
        let read = self.disk.read(offset, length.into(), |piece| {
            into.push(match piece {
                Piece::Data(slice) => Extent::Data(slice),
                Piece::Zeroes(count) => {
                    Extent::Zeroes(u32::try_from(count).expect("a part of the request"))
                }
            });
        });
        read.inspect_err(|_| {
            self.failed.read_sectors += u64::from(length).div_ceil(SECTOR_BYTES);
        })?;
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let written = self.disk.write(offset, data);
        Ok(written.inspect_err(|_| {
            self.failed.write_sectors += (data.len() as u64).div_ceil(SECTOR_BYTES);
        })?)
    }

    fn write_zeroes(&mut self, offset: u64, length: u64, keep_allocated: bool) -> io::Result<()> {
        Ok(self.disk.write_zeroes(offset, length, keep_allocated)?)
    }

    fn trim(&mut self, offset: u64, length: u64) -> io::Result<()> {
        Ok(self.disk.discard(offset, length)?)
    }

    fn status(&mut self, offset: u64, length: u64, into: &mut Vec<StatusExtent>) -> io::Result<()> {
        self.disk.status(offset, length, |length, status| {
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
