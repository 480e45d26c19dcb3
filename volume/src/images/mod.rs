//! One volume as a file on a disk of the host, and back: for the commands `export` and `import`.
//!
//! * [`Target`]: the file that is written. It has its name when it is complete on the disk, and not before.
//! * [`Source`]: the file that is read, and what it says of the disk in it.
//! * [`raw`]: the disk's bytes as they are; holes stay holes.
//! * [`qemu`]: every other format, by qemu-img, which reads or writes the volume through a socket that this
//!   process serves.

mod qemu;
mod raw;
mod served;
mod source;
mod target;

use std::{io, path::Path};

use save::Progress;
use store::{Disk, Error, ErrorKind, Result, Status};

pub(crate) use self::{raw::to_stdout, source::Source, target::Target};

/// The format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// The disk's bytes, one behind the other.
    Raw,
    /// QEMU's own.
    Qcow2,
}

impl Format {
    const ALL: [Self; 2] = [Self::Raw, Self::Qcow2];

    /// Its name, here and for qemu-img, and the ending of files that have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }

    /// The format that an argument names; without one, that which the file is named for.
    pub(crate) fn chosen(given: Option<&str>, file: &Path) -> Result<Self> {
        let named = |name: &str| Self::ALL.into_iter().find(|format| format.name() == name);
        let Some(given) = given else {
            let ending = file.extension().and_then(|ending| ending.to_str());
            return Ok(ending.and_then(named).unwrap_or(Self::Raw));
        };
        named(given).ok_or_else(|| {
            Error::new(
                ErrorKind::BadArgument,
                format!(
                    "--format: {given:?} is none of raw and qcow2 (qemu-img convert makes others of these)"
                ),
            )
        })
    }
}

/// Writes a disk into a file. Bytes of data that the disk has.
pub(crate) fn export(
    disk: &mut Disk,
    target: &Target,
    format: Format,
    progress: &dyn Progress,
) -> Result<u64> {
    let bytes = data_bytes(disk)?;
    target.require_room(bytes)?;
    progress.begin(bytes);
    let written = match format {
        Format::Raw => raw::export(disk, target, progress),
        Format::Qcow2 => qemu::export(disk, target, progress),
    };
    written.map_err(|error| target.explained(error, bytes))?;
    Ok(bytes)
}

/// Refuses a file with more data than an SR has room for, where that is known before it is read as a disk.
pub(crate) fn require_room(source: &Source, free: u64, progress: &dyn Progress) -> Result<()> {
    match source.format() {
        Format::Raw => raw::require_room(source, free, progress),
        Format::Qcow2 => Ok(()),
    }
}

/// Fills a new disk with what is in a file.
pub(crate) fn import(source: &Source, disk: &mut Disk, progress: &dyn Progress) -> Result<()> {
    match source.format() {
        Format::Raw => raw::import(source, disk, progress),
        Format::Qcow2 => qemu::import(source, disk, progress),
    }
}

/// Bytes of data that a disk has.
fn data_bytes(disk: &mut Disk) -> Result<u64> {
    let mut bytes = 0;
    disk.status(0, disk.size(), |length, status| {
        bytes += if status == Status::Data { length } else { 0 };
        std::ops::ControlFlow::Continue(())
    })?;
    Ok(bytes)
}

/// Adds what was being done, and to what, to an error of the operating system.
fn did<T>(doing: &'static str, to: impl AsRef<Path>, outcome: io::Result<T>) -> Result<T> {
    outcome.map_err(|error| Error::os(doing, to.as_ref(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_that_which_is_said_or_that_of_the_name() {
        let chosen = |given, file: &str| Format::chosen(given, Path::new(file));
        assert_eq!(chosen(None, "/a/disk.raw").unwrap(), Format::Raw);
        assert_eq!(chosen(None, "/a/disk.qcow2").unwrap(), Format::Qcow2);
        assert_eq!(chosen(None, "/a.qcow2/disk").unwrap(), Format::Raw);
        assert_eq!(chosen(Some("raw"), "/a/disk.qcow2").unwrap(), Format::Raw);
        let refused = chosen(Some("vmdk"), "/a/disk").unwrap_err().to_string();
        assert!(refused.contains("\"vmdk\" is none of raw and qcow2"), "{refused}");
    }
}
