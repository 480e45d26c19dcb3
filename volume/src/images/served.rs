//! A disk of the store as NBD serves it to qemu-img.

use std::{io, ops::ControlFlow};

use block::{Extent, StatusExtent};
use save::Progress;
use store::{Error, Piece, Status};

use super::Target;

/// The most extents of one answer to a request for the block status.
const EXTENTS_MAX: usize = 4096;

/// A disk that one program reads or fills, from its beginning to its end.
pub(super) struct Served<'a> {
    disk: &'a mut store::Disk,
    /// The file that what is read is written to.
    target: Option<&'a Target>,
    progress: &'a dyn Progress,
    /// The first error, which the program knows only by its number.
    failed: Option<Error>,
    structure: (),
}

impl<'a> Served<'a> {
    /// A disk whose bytes go to a file, or come from one.
    pub(super) fn new(
        disk: &'a mut store::Disk,
        target: Option<&'a Target>,
        progress: &'a dyn Progress,
    ) -> Self {
        Self { disk, target, progress, failed: None, structure: () }
    }

    /// Why the disk has refused something.
    pub(super) fn failed(self) -> Option<Error> {
        self.failed
    }

    fn kept<T>(&mut self, done: store::Result<T>) -> io::Result<T> {
        done.map_err(|error| {
            let answer = io::Error::from(error.errno());
            self.failed.get_or_insert(error);
            answer
        })
    }
}

impl block::Disk for Served<'_> {
    type Structure = ();

    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read_only(&self) -> bool {
        self.disk.read_only()
    }

    fn structure(&mut self) -> &mut () {
        &mut self.structure
    }

    fn read(&mut self, offset: u64, length: u32, into: &mut Vec<Extent>) -> io::Result<()> {
        let mut data = 0;
        let read = self.disk.read(offset, length.into(), |piece| {
            into.push(match piece {
                Piece::Data(slice) => {
                    data += slice.length() as u64;
                    Extent::Data(slice)
                }
                Piece::Zeroes(count) => {
                    Extent::Zeroes(u32::try_from(count).expect("a part of the request"))
                }
            });
        });
        // What was read before is written by now, or will be soon.
        let flushed = self.target.map_or(Ok(()), |target| target.written(data));
        self.progress.advance(data);
        self.kept(read.and(flushed))
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.progress.advance(data.len() as u64);
        let written = self.disk.write(offset, data);
        self.kept(written)
    }

    /// The disk is new: nothing lies below it, and what is given up reads as zeroes.
    fn write_zeroes(&mut self, offset: u64, length: u64, _: bool) -> io::Result<()> {
        self.progress.advance(length);
        let erased = self.disk.discard(offset, length);
        self.kept(erased)
    }

    fn discard(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let erased = self.disk.discard(offset, length);
        self.kept(erased)
    }

    fn status(&mut self, offset: u64, length: u64, into: &mut Vec<StatusExtent>) -> io::Result<()> {
        let told = self.disk.status(offset, length, |length, status| {
            let hole = status == Status::Hole;
            into.push(StatusExtent { length, hole, zero: hole });
            if into.len() < EXTENTS_MAX {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        self.kept(told)
    }
}
