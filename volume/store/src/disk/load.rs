//! Plain files as disks: loaded into memory, never written back. As blktap's `ram:` driver, but of
//! any size that memory allows, thin, and several in one process.

use std::{
    collections::HashSet,
    fs::File,
    io,
    os::unix::fs::{FileExt, FileTypeExt},
    path::Path,
};

use rustix::fs::{MemfdFlags, SeekFrom, memfd_create, seek};

use super::{
    Disk,
    layers::{Layers, Top},
    map::BlockMap,
};
use crate::{
    block::{BLOCK_BYTES, LAYER_FIRST, NEVER, chunks},
    budget::Budget,
    error::{Context, Error, ErrorKind, Result},
};

/// The unit of a disk's size, and of a loaded file's. Bytes.
const SECTOR_BYTES: u64 = 512;
/// How much is read at a time. Bytes.
const READ_BYTES: usize = 1 << 20;

impl Disk {
    /// Loads a file; its size is rounded down to whole sectors.
    pub(super) fn load(path: &Path, read_only: bool) -> Result<Self> {
        const DOING: &str = "loading";
        let file = File::open(path).doing(DOING, || path)?;
        let kind = file.metadata().doing(DOING, || path)?.file_type();
        if kind.is_dir() {
            return Err(Error::os(DOING, path, rustix::io::Errno::ISDIR.into()));
        }
        if !kind.is_file() && !kind.is_block_device() {
            return Err(Error::new(
                ErrorKind::BadArgument,
                format!("{} is neither a plain file nor a block device", path.display()),
            ));
        }
        let length = seek(&file, SeekFrom::End(0)).doing(DOING, || path)?;
        let size = length / SECTOR_BYTES * SECTOR_BYTES;
        if size == 0 {
            return Err(Error::new(
                ErrorKind::BadSize,
                format!(
                    "{} has {length} bytes, less than one sector of {SECTOR_BYTES}",
                    path.display()
                ),
            ));
        }
        let memory =
            |name| memfd_create(name, MemfdFlags::CLOEXEC).map(File::from).doing(DOING, || path);
        let top = Top::new(LAYER_FIRST, memory("ram-disk")?, memory("ram-disk-map")?, size)?;
        let mut disk = Self {
            key: None,
            size,
            top: LAYER_FIRST,
            map: BlockMap::new(vec![NEVER; chunks(size)], None),
            layers: Layers::new(None, Some(top)),
            sole: HashSet::new(),
            budget: Budget::host(),
            _serving: None,
        };
        disk.fill(&file).doing(DOING, || path)?;
        if read_only {
            disk.top = 0;
        }
        Ok(disk)
    }

    fn fill(&mut self, file: &File) -> io::Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        let mut at = 0;
        while at < self.size {
            at = match seek(file, SeekFrom::Data(at)) {
                // The file has nothing but a hole from here on.
                Err(rustix::io::Errno::NXIO) => break,
                // A block device, or a file system that does not tell.
                Err(_) => at,
                Ok(data) => data / BLOCK_BYTES * BLOCK_BYTES,
            };
            let count = usize::try_from(self.size.saturating_sub(at)).unwrap_or(READ_BYTES);
            let count = count.min(READ_BYTES);
            file.read_exact_at(&mut buffer[..count], at)?;
            for (position, block) in buffer[..count].chunks(BLOCK_BYTES as usize).enumerate() {
                if block.iter().any(|&byte| byte != 0) {
                    self.write(at + position as u64 * BLOCK_BYTES, block)?;
                }
            }
            at += count as u64;
        }
        Ok(())
    }
}
