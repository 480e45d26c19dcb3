//! The file that an import reads, and what it says of the disk in it.

use std::{
    fs::File,
    os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{OFlags, SeekFrom, seek},
    io::Errno,
};
use store::{BLOCK_BYTES, Error, ErrorKind, Result, human};

use super::{Format, did};

/// The unit of a disk's size, in bytes.
const SECTOR_BYTES: u64 = 512;
/// How an image of QEMU's format begins, and where its header has what is looked at: `docs/interop/qcow2.txt` of
/// QEMU. Its numbers are big endian.
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";
const QCOW2_BACKING_FILE_OFFSET: usize = 8;
const QCOW2_SIZE: usize = 24;
const QCOW2_INCOMPATIBLE_FEATURES: usize = 72;
/// Bytes that have all of these. A header of version 2 ends before the last.
const QCOW2_HEADER_BYTES: usize = 80;
/// Where a header says its version, and the first one with features.
const QCOW2_VERSION: usize = 4;
const QCOW2_VERSION_WITH_FEATURES: u32 = 3;
/// The feature by which the data lies in another file.
const QCOW2_EXTERNAL_DATA: u64 = 1 << 2;

/// A plain file or a block device with the contents of a disk.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    file: File,
    format: Format,
    /// Of the disk, in bytes.
    size: u64,
    /// Of the file, in bytes.
    length: u64,
}

impl Source {
    /// Opens a file that has the format that is given, or that its name tells.
    pub(crate) fn open(path: &Path, given: Option<&str>) -> Result<Self> {
        let format = Format::chosen(given, path)?;
        // Opening a FIFO would wait for its other end.
        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        let opened = File::options().read(true).custom_flags(nonblocking).open(path);
        let file = did("opening", path, opened)?;
        let kind = did("opening", path, file.metadata())?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(wrong(path, "is neither a plain file nor a block device"));
        }
        let length = did("reading", path, seek(&file, SeekFrom::End(0)).map_err(Into::into))?;
        let mut header = [0; QCOW2_HEADER_BYTES];
        let count = did("reading", path, file.read_at(&mut header, 0))?;
        let is_qcow2 = header.starts_with(&QCOW2_MAGIC);
        let size = match format {
            // A machine can write such a header to its disk, and have another file of this host read by that.
            Format::Raw if is_qcow2 && given.is_none() => {
                return Err(wrong(
                    path,
                    "begins as a qcow2 image does: say what it is, --format qcow2 or --format raw",
                ));
            }
            Format::Raw => length,
            Format::Qcow2 if is_qcow2 && count == header.len() => qcow2_size(path, &header)?,
            Format::Qcow2 => {
                return Err(wrong(path, "is no qcow2 image (--format raw takes it as it is)"));
            }
        };
        check_size(path, size)?;
        Ok(Self { path: path.to_owned(), file, format, size, length })
    }

    /// Its format.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the disk in it.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Fills `bytes` with those at an offset.
    pub(super) fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<()> {
        did("reading", &self.path, self.file.read_exact_at(bytes, offset))
    }

    /// What of the file is no hole, in whole blocks, as far as its file system tells: beginnings and ends.
    pub(super) fn extents(&self) -> Result<Vec<(u64, u64)>> {
        let mut extents: Vec<(u64, u64)> = Vec::new();
        let mut at = 0;
        while at < self.length {
            let start = match seek(&self.file, SeekFrom::Data(at)) {
                // Nothing but a hole follows.
                Err(Errno::NXIO) => break,
                // A block device, or a file system that does not tell.
                Err(_) => at,
                Ok(start) => start / BLOCK_BYTES * BLOCK_BYTES,
            };
            let end = seek(&self.file, SeekFrom::Hole(start.max(at))).unwrap_or(self.length);
            at = end.next_multiple_of(BLOCK_BYTES).min(self.length);
            match extents.last_mut() {
                Some(last) if last.1 >= start => last.1 = at,
                _ => extents.push((start, at)),
            }
        }
        Ok(extents)
    }

    /// The error for a file with so many bytes of data, where there is too little room in an SR.
    pub(crate) fn no_room(&self, data: Option<u64>, free: u64) -> Error {
        let data = data.map_or_else(String::new, |data| format!(" with {} of data", human(data)));
        Error::new(
            ErrorKind::NoSpace,
            format!(
                "{} ({}{data}) does not fit into the SR, which has {} left: delete disks or snapshots there, give \
                 it another size (volume-plugin resize), or import it into a larger SR",
                self.path.display(),
                human(self.size),
                human(free)
            ),
        )
    }
}

/// The size of the disk in a qcow2 image. One that needs other files is refused: it could name any file of this host.
fn qcow2_size(path: &Path, header: &[u8; QCOW2_HEADER_BYTES]) -> Result<u64> {
    let number = |at: usize| {
        u64::from_be_bytes(header[at..at + 8].try_into().expect("eight bytes of the header"))
    };
    let version = &header[QCOW2_VERSION..QCOW2_VERSION + 4];
    let version = u32::from_be_bytes(version.try_into().expect("four bytes of the header"));
    let has_features = version >= QCOW2_VERSION_WITH_FEATURES;
    let is_external =
        has_features && number(QCOW2_INCOMPATIBLE_FEATURES) & QCOW2_EXTERNAL_DATA != 0;
    if number(QCOW2_BACKING_FILE_OFFSET) != 0 || is_external {
        return Err(wrong(
            path,
            "is a qcow2 image that needs other files (a backing file or a data file): make one of them (qemu-img \
             convert -O qcow2) and import that",
        ));
    }
    Ok(number(QCOW2_SIZE))
}

fn check_size(path: &Path, size: u64) -> Result<()> {
    let wrong = |why: &str| {
        let sentence = format!("{} has a disk of {size} bytes: {why}", path.display());
        Err(Error::new(ErrorKind::BadSize, sentence))
    };
    if size == 0 {
        return wrong("there is nothing to import");
    }
    if !size.is_multiple_of(SECTOR_BYTES) {
        return wrong(&format!(
            "disks have whole sectors of {SECTOR_BYTES} bytes; is the file complete? To add zeroes at its end, \
             truncate --size=%{SECTOR_BYTES}"
        ));
    }
    Ok(())
}

fn wrong(path: &Path, what: &str) -> Error {
    Error::new(ErrorKind::BadArgument, format!("--file: {} {what}", path.display()))
}
