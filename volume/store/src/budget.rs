//! Who may have how much memory. An SR with a tmpfs of its own is limited by that; one in a
//! directory by a counter that all processes share. The host's memory limits both.

use std::{fs::OpenOptions, sync::atomic::Ordering};

use memory::WriteMap;

use crate::{
    block::{BLOCK_BYTES, PAGE_BYTES},
    error::{Context, Result},
    memory::Memory,
    sr::{layout::Layout, steps},
};

/// After so many new blocks the host's memory is looked at again: 16 MiB.
const LOOK_BLOCKS: u64 = (16 << 20) / BLOCK_BYTES;

/// What one process may still allocate.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Blocks in use by the SR, and how many it may use: only without a tmpfs of its own.
    shared: Option<(WriteMap, u32)>,
    since_look: u64,
    low: bool,
}

impl Budget {
    /// The budget of an SR of `size` bytes without a tmpfs of its own.
    pub(crate) fn counted(layout: &Layout, size: u64) -> Result<Self> {
        let path = layout.used();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .while_doing(|| format!("opening {}", path.display()))?;
        let length = usize::try_from(PAGE_BYTES).expect("64-bit host");
        let map = WriteMap::new(&file, 0, length)
            .while_doing(|| format!("mapping {}", path.display()))?;
        let blocks = u32::try_from(size / BLOCK_BYTES).unwrap_or(u32::MAX);
        Ok(Self { shared: Some((map, blocks)), ..Self::host() })
    }

    /// The budget where a tmpfs counts, or nothing but the host does.
    pub(crate) fn host() -> Self {
        Self { shared: None, since_look: LOOK_BLOCKS, low: false }
    }

    /// Makes the counter of a new SR, or sets it after a recount. A page that exists is never
    /// taken away, so that a mapping of it stays good on a full tmpfs.
    pub(crate) fn set_used(layout: &Layout, blocks: u32) -> Result<()> {
        let path = layout.used();
        steps::step();
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .and_then(|file| {
                steps::write_at(&file, &blocks.to_ne_bytes(), 0)?;
                steps::set_len(&file, PAGE_BYTES)
            })
            .while_doing(|| format!("writing {}", path.display()))
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
