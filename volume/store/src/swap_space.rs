//! The host's swap: how much there is, and what zram, a swap area in memory that compresses, takes for what is in
//! it. Reads `/proc/swaps` (proc(5)) and zram's `mm_stat` (the kernel's `admin-guide/blockdev/zram.rst`).
//!
//! It is told to administrators. No promise and no watermark counts it: see [`Memory`](crate::Memory).

use std::fs;

use crate::error::{Context, Error, ErrorKind, Result};

const SWAPS: &str = "/proc/swaps";

/// The swap of the host at one moment. All in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwapSpace {
    /// What all areas may hold, whatever they take for it.
    pub size: u64,
    /// What is in them.
    pub used: u64,
    /// The part of that which zram holds...
    pub zram_holds: u64,
    /// ... and the memory that it takes for it.
    pub zram_takes: u64,
}

impl SwapSpace {
    /// Reads the host's swap.
    ///
    /// # Errors
    /// Where `/proc/swaps` cannot be read or understood.
    pub fn now() -> Result<Self> {
        let text = fs::read_to_string(SWAPS).doing("reading", || SWAPS)?;
        let mm_stat = |zram: &str| {
            fs::read_to_string(format!("/sys/block/{zram}/mm_stat")).unwrap_or_default()
        };
        Self::parse(&text, mm_stat).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, format!("{SWAPS} is not understood: {text:?}"))
        })
    }

    fn parse(text: &str, mm_stat: impl Fn(&str) -> String) -> Option<Self> {
        let mut sum = Self::default();
        for line in text.lines().skip(1) {
            // Name, kind, size and used in KiB, priority. A name has no spaces: the kernel escapes them.
            let words: Vec<&str> = line.split_whitespace().collect();
            let kib = |word: usize| Some(words.get(word)?.parse::<u64>().ok()? << 10);
            sum.size += kib(2)?;
            sum.used += kib(3)?;
            let device = words.first()?.rsplit('/').next()?;
            if device.starts_with("zram") {
                let text = mm_stat(device);
                let bytes: Vec<u64> =
                    text.split_whitespace().map_while(|it| it.parse().ok()).collect();
                // orig_data_size, compr_data_size, mem_used_total, and others.
                if let [holds, _, takes, ..] = bytes[..] {
                    sum.zram_holds += holds;
                    sum.zram_takes += takes;
                }
            }
        }
        Some(sum)
    }

    /// What may still be put into it.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.size.saturating_sub(self.used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";

    #[test]
    fn the_areas_are_summed_and_zram_says_what_it_takes() {
        let text = format!(
            "{HEAD}/dev/zram0                              partition\t524284\t\t2048\t\t100\n\
             /dev/dm-1                               partition\t1024\t\t24\t\t-2\n"
        );
        let found = SwapSpace::parse(&text, |zram| match zram {
            "zram0" => {
                " 2000000  500000   600000        0   600000      12        0        3        0\n"
                    .into()
            }
            other => panic!("{other} is no zram"),
        });
        let expected = SwapSpace {
            size: (524_284 + 1024) << 10,
            used: (2048 + 24) << 10,
            zram_holds: 2_000_000,
            zram_takes: 600_000,
        };
        assert_eq!(found, Some(expected));
        assert_eq!(expected.free(), (524_284 + 1024 - 2048 - 24) << 10);
    }

    #[test]
    fn a_host_without_swap_and_a_zram_that_tells_nothing_are_understood() {
        assert_eq!(SwapSpace::parse(HEAD, |_| panic!("no zram")), Some(SwapSpace::default()));
        let text = format!("{HEAD}/dev/zram1 partition 8 4 1\n");
        let found = SwapSpace::parse(&text, |_| String::new()).unwrap();
        assert_eq!((found.used, found.zram_takes), (4 << 10, 0));
        assert_eq!(SwapSpace::parse("x\n/dev/sda1 partition lots 4 1\n", |_| String::new()), None);
    }
}
