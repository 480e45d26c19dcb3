//! Plain files as disks: loaded into memory, never written back. As blktap's `ram:` driver, but of
//! any size that memory allows, thin, and several in one process.

use std::{
    collections::HashSet,
    fs::File,
    io,
    os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::fs::{MemfdFlags, OFlags, SeekFrom, memfd_create, seek};

use super::{
    Disk,
    erase::Found,
    layers::{Layers, Top},
    map::BlockMap,
};
use crate::{
    block::{BLOCK_BYTES, LAYER_FIRST, Layer, NEVER, chunks},
    budget::Budget,
    error::{Context, Error, ErrorKind, Result},
    record::BlockCount,
};

/// The unit of a disk's size, and of a loaded file's. Bytes.
const SECTOR_BYTES: u64 = 512;
/// What errors say is being done.
const DOING: &str = "loading";
/// How much is read at a time. Bytes.
const READ_BYTES: usize = 1 << 20;

/// A file in memory that no disk serves yet: a thread may load it while others are served.
#[derive(Debug)]
pub struct Loaded {
    size: u64,
    read_only: bool,
    data: File,
    map: File,
    index: Vec<Layer>,
}

impl Loaded {
    /// Loads a file; its size is rounded down to whole sectors. Gives up between two reads when
    /// `cancelled` is set.
    ///
    /// # Errors
    /// What reading the file gives, [`ErrorKind::BadArgument`] for what is neither a plain file nor a block
    /// device, [`ErrorKind::NoSpace`] where it does not fit into memory.
    pub fn read(path: &Path, read_only: bool, cancelled: &AtomicBool) -> Result<Self> {
        // Opening a FIFO would wait for its other end.
        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        let file = File::options()
            .read(true)
            .custom_flags(nonblocking)
            .open(path)
            .doing(DOING, || path)?;
        let size = size_of(&file, path)?;
        let memory =
            |name| memfd_create(name, MemfdFlags::CLOEXEC).map(File::from).doing(DOING, || path);
        let (data, map) = (memory("ram-disk")?, memory("ram-disk-map")?);
        let index = vec![NEVER; chunks(size)];
        let mut disk = Disk::try_from(Self { size, read_only: false, data, map, index })?;
        disk.fill(&file, cancelled).doing(DOING, || path)?;
        Ok(disk.unload(read_only))
    }
}

impl TryFrom<Loaded> for Disk {
    type Error = Error;

    fn try_from(loaded: Loaded) -> Result<Self> {
        let Loaded { size, read_only, data, map, index } = loaded;
        let top = Top::new(LAYER_FIRST, data, map, size)?;
        Ok(Self {
            key: None,
            size,
            top: if read_only { 0 } else { LAYER_FIRST },
            map: BlockMap::new(index, None, Vec::new(), BlockCount::default()),
            layers: Layers::new(None, Some(top)),
            sole: HashSet::new(),
            budget: Budget::host(),
            found: Found::default(),
            no_room: None,
            serving: None,
            unswept: false,
        })
    }
}

/// The size of a file as a disk, in bytes.
fn size_of(file: &File, path: &Path) -> Result<u64> {
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
    let length = seek(file, SeekFrom::End(0)).doing(DOING, || path)?;
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
    Ok(size)
}

impl Disk {
    /// Takes a loaded file out of the disk that it was loaded through.
    fn unload(mut self, read_only: bool) -> Loaded {
        let top = self.layers.top.take().expect("a loaded file has a top");
        let (data, map) = top.into_files();
        Loaded { size: self.size, read_only, data, map, index: self.map.take_index() }
    }

    fn fill(&mut self, file: &File, cancelled: &AtomicBool) -> io::Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        let mut at = 0;
        while at < self.size {
            if cancelled.load(Ordering::Relaxed) {
                return Err(rustix::io::Errno::CANCELED.into());
            }
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
