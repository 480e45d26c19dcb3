//! A disk of the store, as drives see it, and how it is named.

use std::{fs::File, io, ops::ControlFlow, path::Path};

use block::{Disk, Extent, StatusExtent};
use memory::WriteSlice;
use rustix::io::Errno;
use store::{Piece, Status};
use tapctl::Failure;

/// The type in `<type>:<path>` that this tapdisk serves.
const TYPE: &str = "ram";

/// The most extents of one answer to a request for the block status.
const EXTENTS_MAX: usize = 4096;

/// A volume of an SR, or a plain file that was loaded into memory.
#[derive(Debug)]
pub(crate) struct Volume(Structure);

/// The structure of a disk: everything that can be changed beside its bytes.
#[derive(Debug)]
pub(crate) struct Structure {
    disk: store::Disk,
    is_loaded: bool,
}

impl Volume {
    /// A volume of an SR.
    pub(crate) fn of_sr(disk: store::Disk) -> Self {
        Self(Structure { disk, is_loaded: false })
    }

    /// A plain file. It exists nowhere but in this process.
    pub(crate) fn loaded(disk: store::Disk) -> Self {
        Self(Structure { disk, is_loaded: true })
    }

    /// The file that is locked as long as it is open; a loaded file has none.
    pub(crate) fn lock(&self) -> Option<&File> {
        self.0.disk.lock()
    }

    /// Whether it exists nowhere but in this process, and has to stay open over a pause.
    pub(crate) fn is_loaded(&self) -> bool {
        self.0.is_loaded
    }

    /// Closes the disk. What is left takes a while to let go of.
    pub(crate) fn close(self) -> store::Closed {
        self.0.disk.close()
    }
}

/// The path in `ram:<path>`. As blktap: EINVAL without a colon, ENOENT for another type.
pub(crate) fn path_of(params: &str) -> Result<&Path, Failure> {
    match params.split_once(':') {
        Some((TYPE, path)) => Ok(Path::new(path)),
        Some((other, _)) => Err(Failure::new(
            Errno::NOENT,
            format!("{params:?} has type {other:?}, and only {TYPE}:<path> is served here"),
        )),
        None => {
            Err(Failure::new(Errno::INVAL, format!("{params:?} is not of the form {TYPE}:<path>")))
        }
    }
}

/// An error of the store as the answer to a request.
pub(crate) fn failure(error: &store::Error) -> Failure {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    Failure::new(error.errno(), format!("{error}{}", cause.unwrap_or_default()))
}

/// Whether a path names a volume of an SR, and not a plain file.
pub(crate) fn is_volume(path: &Path) -> bool {
    store::Layout::of_volume(path).is_some()
}

impl Structure {
    /// Whether it exists nowhere but in this process.
    pub(crate) fn is_loaded(&self) -> bool {
        self.is_loaded
    }

    /// Why writes find no room, where they do not: see [`store::Disk::no_room`].
    pub(crate) fn no_room(&self) -> Option<&str> {
        self.disk.no_room()
    }

    /// Writes to another top from now on: see [`store::Disk::switch`].
    pub(crate) fn switch(&mut self, switch: &store::Switch) -> store::Result<()> {
        self.disk.switch(switch)
    }

    /// Takes over the size of the volume's record: see [`store::Disk::resize`].
    pub(crate) fn resize(&mut self, size_bytes: u64) -> store::Result<()> {
        self.disk.resize(size_bytes)
    }

    /// Takes over the sole set of the volume's record: see [`store::Disk::reload_sole`].
    pub(crate) fn reload_sole(&mut self) -> store::Result<()> {
        self.disk.reload_sole()
    }
}

impl Disk for Volume {
    type Structure = Structure;

    #[inline]
    fn size(&self) -> u64 {
        self.0.disk.size()
    }

    #[inline]
    fn read_only(&self) -> bool {
        self.0.disk.read_only()
    }

    fn structure(&mut self) -> &mut Structure {
        &mut self.0
    }

    #[inline]
    fn read(&mut self, offset: u64, length: u32, into: &mut Vec<Extent>) -> io::Result<()> {
        self.0.disk.read(offset, length.into(), |piece| {
            into.push(match piece {
                Piece::Data(slice) => Extent::Data(slice),
                Piece::Zeroes(count) => {
                    Extent::Zeroes(u32::try_from(count).expect("a part of the request"))
                }
            });
        })?;
        Ok(())
    }

    #[inline]
    fn prefetch(&mut self, offset: u64) {
        self.0.disk.prefetch(offset);
    }

    #[inline]
    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        Ok(self.0.disk.write(offset, data)?)
    }

    #[inline]
    fn places(&mut self, offset: u64, length: u32, into: &mut Vec<WriteSlice>) -> io::Result<bool> {
        Ok(self.0.disk.places(offset, length.into(), |place| into.push(place))?)
    }

    fn write_zeroes(&mut self, offset: u64, length: u64, keep_allocated: bool) -> io::Result<()> {
        Ok(self.0.disk.write_zeroes(offset, length, keep_allocated)?)
    }

    fn discard(&mut self, offset: u64, length: u64) -> io::Result<()> {
        Ok(self.0.disk.discard(offset, length)?)
    }

    fn status(&mut self, offset: u64, length: u64, into: &mut Vec<StatusExtent>) -> io::Result<()> {
        self.0.disk.status(offset, length, |length, status| {
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
