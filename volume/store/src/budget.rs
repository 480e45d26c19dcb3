//! Who may have how much memory. An SR with a tmpfs of its own is limited by that; one in a
//! directory by a counter that all processes share. The host's memory limits both.

use std::sync::atomic::Ordering;

use memory::WriteMap;
use rustix::fs::{StatFs, fstatfs};

use crate::{
    block::{BLOCK_BYTES, PAGE_BYTES},
    error::{Context, Result},
    files::{Directory, Dirs, Entry, steps},
    memory::Memory,
};

/// After so many new blocks the host's memory is looked at again: 16 MiB.
const LOOK_BLOCKS: u64 = (16 << 20) / BLOCK_BYTES;

/// The blocks that one process may still allocate.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Blocks in use by the SR, and how many it may use: only without a tmpfs of its own.
    shared: Option<(WriteMap, u32)>,
    since_look: u64,
    low: bool,
}

impl Budget {
    /// The budget of a process that writes to a volume of an SR of `size` bytes.
    pub(crate) fn of(dirs: &Dirs, size: u64) -> Result<Self> {
        if dirs.is_mounted(Directory::Data) { Ok(Self::host()) } else { Self::counted(dirs, size) }
    }

    /// The budget of an SR of `size` bytes without a tmpfs of its own.
    fn counted(dirs: &Dirs, size: u64) -> Result<Self> {
        let file = dirs.edit(Entry::Used)?;
        let length = usize::try_from(PAGE_BYTES).expect("64-bit host");
        let map = WriteMap::new(&file, 0, length).doing("mapping", || dirs.path(Entry::Used))?;
        let blocks = u32::try_from(size / BLOCK_BYTES).unwrap_or(u32::MAX);
        Ok(Self { shared: Some((map, blocks)), ..Self::host() })
    }

    /// The budget where a tmpfs counts, or nothing but the host does.
    pub(crate) fn host() -> Self {
        Self { shared: None, since_look: LOOK_BLOCKS, low: false }
    }

    /// Makes the counter of a new SR, or sets it after a recount. A page that exists is never
    /// taken away, so that a mapping of it stays good on a full tmpfs.
    pub(crate) fn set_used(dirs: &Dirs, blocks: u32) -> Result<()> {
        let file = dirs.edit_or_create(Entry::Used)?;
        steps::write_at(&file, &blocks.to_ne_bytes(), 0)
            .and_then(|()| steps::set_len(&file, PAGE_BYTES))
            .doing("writing", || dirs.path(Entry::Used))
    }

    /// Asks for new blocks; `false`: there is no room.
    pub(crate) fn take(&mut self, blocks: u64) -> bool {
        self.since_look += blocks;
        if self.low || self.since_look >= LOOK_BLOCKS {
            self.since_look = 0;
            self.low = Memory::now().is_ok_and(|memory| memory.is_low());
        }
        if self.low {
            return false;
        }
        let Some((map, limit)) = &self.shared else { return true };
        let Ok(blocks) = u32::try_from(blocks) else { return false };
        let more = |used: u32| used.checked_add(blocks).filter(|used| used <= limit);
        map.words()[0].fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// Gives blocks back.
    pub(crate) fn give(&mut self, blocks: u64) {
        if let Some((map, _)) = &self.shared {
            let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
            let less = |used: u32| Some(used.saturating_sub(blocks));
            // The closure never refuses.
            let _before = map.words()[0].fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        }
    }
}

/// Bytes of data in use, by the file system's own count.
pub(crate) fn used(dirs: &Dirs) -> Result<u64> {
    if dirs.is_mounted(Directory::Data) { used_of_mount(dirs) } else { used_by_files(dirs) }
}

/// Bytes allocated to the layers. Files that vanish meanwhile count as gone.
fn used_by_files(dirs: &Dirs) -> Result<u64> {
    let layers = dirs.numbers(Directory::Data)?;
    Ok(layers.into_iter().map(|layer| dirs.allocated(Entry::Layer(layer))).sum())
}

/// Recounts the blocks in use, for SRs without a tmpfs of their own.
pub(crate) fn recount(dirs: &Dirs) -> Result<()> {
    if dirs.is_mounted(Directory::Data) {
        return Ok(());
    }
    let blocks = used_by_files(dirs)? / BLOCK_BYTES;
    Budget::set_used(dirs, u32::try_from(blocks).unwrap_or(u32::MAX))
}

/// Bytes in use on the SR's own tmpfs.
fn used_of_mount(dirs: &Dirs) -> Result<u64> {
    let found = dirs.directory(Directory::Data).and_then(|data| Ok(fstatfs(data)?));
    let StatFs { f_blocks, f_bfree, f_bsize, .. } =
        found.doing("statfs", || dirs.layout().directory(Directory::Data))?;
    Ok((f_blocks - f_bfree) * u64::try_from(f_bsize).expect("a block size is positive"))
}
