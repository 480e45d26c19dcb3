//! The memory of the host: a reserve is kept for the host itself. Promises leave more than that, and new blocks are
//! refused before it is touched. Reads `/proc/meminfo` (proc(5)).
//!
//! Only memory is promised and given out, and free swap is none. What zram may still be given says nothing of the
//! memory that it will take for it: that is as much as the data where these cannot be compressed, which is not known
//! before. What has gone to swap is available again, less what zram took for it, and from then on it is
//! promised and given out like all that is available. So swap lets disks hold more, and none fails for it.

use std::{fs::File, io::Read};

use crate::error::{Context, Error, ErrorKind, Result};

const MEMINFO: &str = "/proc/meminfo";
/// How much of it is read, in bytes.
const START_BYTES: usize = 512;
/// A share of the host's memory that no disk takes: one part in this many...
const RESERVE_PART: u64 = 20;
/// ... but at least this. Bytes.
const RESERVE_BYTES_MIN: u64 = 128 << 20;
/// How much less may be available than the kernel says, which adds up counts of its processors now and then, and
/// what it takes itself for a block. Bytes.
const DRIFT_BYTES: u64 = 8 << 20;
/// What promises leave beside the reserve: they hold though the host's other programs take a little more than when
/// they were made. One part of its memory in this many.
const MARGIN_PART: u64 = 50;
/// Page tables and slab that tmpfs does not count: one part in this many of a promise.
const OVERHEAD_PART: u64 = 50;

/// The host's memory at one moment. All in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// Bytes that can be allocated without swapping: with what swap has given, and without what it may give.
    pub available: u64,
}

impl Memory {
    /// Reads the host's memory.
    ///
    /// # Errors
    /// Where `/proc/meminfo` cannot be read or lacks a line.
    pub fn now() -> Result<Self> {
        // The two lines are among the first three. Disks look while they are written to, which must not
        // allocate.
        let mut start = [0; START_BYTES];
        let count = File::open(MEMINFO).and_then(|mut file| file.read(&mut start));
        let count = count.doing("reading", || MEMINFO)?;
        str::from_utf8(&start[..count]).ok().and_then(Self::parse).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "/proc/meminfo has no MemTotal or no MemAvailable")
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| -> Option<u64> {
            let line = text.lines().find(|line| line.starts_with(name))?;
            let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
            Some(kib << 10)
        };
        Some(Self { total: field("MemTotal:")?, available: field("MemAvailable:")? })
    }

    /// Bytes that are kept for the host itself: no disk takes them.
    #[must_use]
    pub fn reserve(&self) -> u64 {
        (self.total / RESERVE_PART).max(RESERVE_BYTES_MIN)
    }

    /// Below so many available bytes no new block is given out.
    fn watermark(&self) -> u64 {
        self.reserve() + DRIFT_BYTES
    }

    /// Bytes that disks may still take: what is available above the watermark.
    #[must_use]
    pub fn above_watermark(&self) -> u64 {
        self.available.saturating_sub(self.watermark())
    }

    /// Bytes that are not promised to SRs.
    fn kept(&self) -> u64 {
        self.watermark() + self.total / MARGIN_PART
    }

    /// Refuses an SR of `size` bytes, which has `taken` bytes already and takes `fixed` bytes more than its
    /// size, beside `promised` bytes that other SRs have not used yet.
    pub(crate) fn check_promise(
        &self,
        size: u64,
        taken: u64,
        fixed: u64,
        promised: u64,
    ) -> Result<()> {
        let rest = size.saturating_sub(taken);
        let wanted = rest.saturating_add(rest / OVERHEAD_PART).saturating_add(fixed);
        let free = self.available.saturating_sub(promised).saturating_sub(self.kept());
        if wanted <= free {
            return Ok(());
        }
        let free = free.saturating_sub(fixed);
        let largest = taken + free - free.div_ceil(OVERHEAD_PART + 1);
        let taken = match taken {
            0 => String::new(),
            taken => format!(" beside the {} that it has in use", human(taken)),
        };
        Err(Error::new(
            ErrorKind::NoSpace,
            format!(
                "a ram SR of {} does not fit into this host's memory: of {} in all, {} are \
                 available{taken}, {} are promised to other ram SRs and {} are kept for the host; at \
                 most device-config:size={largest} ({}) is possible now. Choose a smaller size, \
                 destroy another ram SR, or give the control domain more memory \
                 (/opt/xensource/libexec/xen-cmdline --set-xen dom0_mem=...,max:..., then restart \
                 the host)",
                human(size),
                human(self.total),
                human(self.available),
                human(promised),
                human(self.kept()),
                human(largest),
            ),
        ))
    }
}

/// Bytes for a reader: `1.5 GiB`.
#[must_use]
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let text = format!("{value:.1}");
    format!("{} {}", text.strip_suffix(".0").unwrap_or(&text), UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_kernels_format_is_understood() {
        let text =
            "MemTotal:        4028248 kB\nMemFree:          1 kB\nMemAvailable:    3000000 kB\n";
        let memory = Memory::parse(text).unwrap();
        assert_eq!(memory, Memory { total: 4_028_248 << 10, available: 3_000_000 << 10 });
        assert_eq!(Memory::parse("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn a_promise_counts_what_others_were_promised_and_the_reserve() {
        let memory = Memory { total: 8 * GIB, available: 6 * GIB };
        memory.check_promise(4 * GIB, 0, 0, 0).unwrap();
        memory.check_promise(4 * GIB, 0, 0, 2 * GIB).unwrap_err();
        memory.check_promise(6 * GIB, 0, 0, 0).unwrap_err();
        memory.check_promise(2 * GIB, 0, 0, 3 * GIB).unwrap();
        memory.check_promise(2 * GIB, 0, GIB, 3 * GIB).unwrap_err();
        let error = memory.check_promise(u64::MAX, 0, 0, 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
    }

    #[test]
    fn the_largest_size_that_the_error_names_is_accepted() {
        let memory = Memory { total: 8 * GIB, available: 6 * GIB };
        let message = memory.check_promise(7 * GIB, 0, 4 << 20, GIB).unwrap_err().to_string();
        let (_, rest) = message.split_once("device-config:size=").unwrap();
        let size: u64 = rest.split_once(' ').unwrap().0.parse().unwrap();
        memory.check_promise(size, 0, 4 << 20, GIB).unwrap();
    }

    #[test]
    fn what_an_sr_has_already_is_not_asked_of_the_host_again() {
        let memory = Memory { total: 8 * GIB, available: 2 * GIB };
        memory.check_promise(5 * GIB, 4 * GIB, 0, 0).unwrap();
        let message = memory.check_promise(7 * GIB, 4 * GIB, 0, 0).unwrap_err().to_string();
        assert!(message.contains("2 GiB are available beside the 4 GiB that it has"), "{message}");
        let (_, rest) = message.split_once("device-config:size=").unwrap();
        let size: u64 = rest.split_once(' ').unwrap().0.parse().unwrap();
        assert!((5 * GIB..6 * GIB).contains(&size), "{size}");
        memory.check_promise(size, 4 * GIB, 0, 0).unwrap();
    }

    #[test]
    fn disks_may_take_what_is_above_the_watermark() {
        let memory = Memory { total: 2 * GIB, available: GIB };
        assert_eq!(memory.above_watermark(), GIB - (128 << 20) - DRIFT_BYTES);
        let memory = Memory { total: 64 * GIB, available: 64 * GIB / 20 };
        assert_eq!(memory.above_watermark(), 0);
    }

    /// What is promised can be written, and leaves the reserve, on hosts of every size.
    #[test]
    fn a_promise_that_is_kept_leaves_the_host_its_reserve() {
        let hosts = [GIB, 2 * GIB, 4 * GIB, 16 * GIB, 256 * GIB];
        for (total, odd) in hosts.into_iter().flat_map(|total| (0..60).map(move |odd| (total, odd)))
        {
            let memory = Memory { total, available: total / 8 * 7 + odd };
            let error = memory.check_promise(total, 0, 0, 0).unwrap_err().to_string();
            let (_, rest) = error.split_once("device-config:size=").unwrap();
            let size: u64 = rest.split_once(' ').unwrap().0.parse().unwrap();
            memory.check_promise(size, 0, 0, 0).expect("what the error says is possible");
            memory
                .check_promise(size + 2, 0, 0, 0)
                .expect_err("more than that, page tables included");
            let left = Memory { available: memory.available - size, ..memory };
            assert!(left.available > left.reserve() + total / MARGIN_PART, "{total}: {left:?}");
            // Other programs have taken the margin, and the kernel what it takes for the blocks.
            let available = left.available - total / MARGIN_PART - size / OVERHEAD_PART;
            let short = Memory { available, ..memory };
            assert!(short.available >= short.watermark(), "{total}: {short:?}");
        }
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!(human(512), "512 bytes");
        assert_eq!(human(4096), "4 KiB");
        assert_eq!(human(3 * GIB / 2), "1.5 GiB");
    }
}
