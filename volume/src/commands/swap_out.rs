//! `swap-out`: has the kernel put memory that is not used into swap before disks need the room.
//!
//! The kernel swaps when it has no free memory, and disks stop above that, at their watermark. This process takes
//! memory until enough of what is cold has given way, and ends. Should the kernel find nothing to swap, it ends
//! this process and no other.

use std::{fs, hint::black_box};

use rustix::process::nice;
use smapiv3::{Error, Failure};
use smapiv3_plugin::{Arg, Args, size};
use store::{Memory, SwapSpace, human};

use crate::Context;

pub(crate) const ARGS: &[Arg] = &[Arg::required(
    "available",
    "How much of the host's memory is to be available afterwards, e.g. 1GiB",
)];

/// Memory is taken in such steps, in bytes.
const STEP_BYTES: usize = 8 << 20;
/// What goes to zram is judged after so many bytes...
const JUDGED_BYTES: u64 = 128 << 20;
/// ... of which zram may take so many parts in a hundred.
const TAKEN_PERCENT_MAX: u64 = 90;
/// After so many steps at the end of the memory, in which nothing has gone to swap, nothing will.
const STEPS_WITHOUT: u32 = 4;

/// The lowest priority that a process can give itself, beside the usual one.
const LEAST_PRIORITY: i32 = 19;

pub(crate) fn run(ctx: &Context<'_>, args: &Args) -> Result<String, Error> {
    let wanted = size::parse(args.get("available").unwrap_or_default())
        .map_err(|problem| Error::new(Failure::InvalidArg, format!("--available: {problem}")))?;
    let (memory, swap) = (Memory::now()?, SwapSpace::now()?);
    if swap.size == 0 {
        return Err(Error::new(
            Failure::InvalidArg,
            "this host has no swap: make some in memory that is compressed (zram), as ram-sr(7) shows",
        ));
    }
    if wanted > memory.total {
        let message =
            format!("--available: {}: this host has {}", human(wanted), human(memory.total));
        return Err(Error::new(Failure::InvalidArg, message));
    }
    let end = if memory.available >= wanted { End::Enough } else { press(wanted, swap)? };
    let said = tell(&end, &memory, &Memory::now()?, &SwapSpace::now()?);
    match end {
        End::Enough => ctx.log.info(&said),
        _ => ctx.log.warning(&said),
    }
    Ok(said + "\n")
}

/// Takes memory until one of these is so.
fn press(wanted: u64, swap: SwapSpace) -> Result<End, Error> {
    // Otherwise it might be a program that is needed.
    fs::write("/proc/self/oom_score_adj", "1000").map_err(|error| {
        Error::new(Failure::InvalidArg, format!("/proc/self/oom_score_adj: {error}"))
    })?;
    // Much of the packing is done by this process, and disks go first. Where that is not allowed it is no less right.
    let _kept = nice(LEAST_PRIORITY);
    let mut held: Vec<Vec<u8>> = Vec::new();
    let mut judge = Judge { wanted, judged: swap, moved: swap.used, without: 0 };
    loop {
        let bytes = (held.len() * STEP_BYTES) as u64;
        let back = bytes.saturating_sub(own_swap());
        if let Some(end) = judge.look(Memory::now()?.available, back, SwapSpace::now()?) {
            return Ok(end);
        }
        held.push(black_box(vec![1; STEP_BYTES]));
    }
}

/// What of this process is in swap: it gives back no memory with that.
fn own_swap() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmSwap:"));
    let kib = kib.and_then(|it| it.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() << 10
}

/// Why no more memory is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Enough,
    SwapIsFull,
    DoesNotCompress,
    NothingIsCold,
}

/// Says when it is the end.
struct Judge {
    wanted: u64,
    /// The swap when it was judged last.
    judged: SwapSpace,
    /// What was in swap when that grew last.
    moved: u64,
    without: u32,
}

impl Judge {
    /// `back`: what this process gives back when it ends.
    fn look(&mut self, available: u64, back: u64, swap: SwapSpace) -> Option<End> {
        if available + back >= self.wanted {
            return Some(End::Enough);
        }
        if swap.free() < 2 * STEP_BYTES as u64 {
            return Some(End::SwapIsFull);
        }
        let since = |now: u64, then: u64| now.saturating_sub(then);
        let held = since(swap.zram_holds, self.judged.zram_holds);
        if held >= JUDGED_BYTES {
            let taken = since(swap.zram_takes, self.judged.zram_takes);
            if taken * 100 > held * TAKEN_PERCENT_MAX {
                return Some(End::DoesNotCompress);
            }
            self.judged = swap;
        }
        if available > 0 || swap.used > self.moved {
            (self.moved, self.without) = (swap.used, 0);
            return None;
        }
        self.without += 1;
        (self.without == STEPS_WITHOUT).then_some(End::NothingIsCold)
    }
}

fn tell(end: &End, before: &Memory, after: &Memory, swap: &SwapSpace) -> String {
    let why = match end {
        End::Enough => "",
        End::SwapIsFull => "; swap is full: make more of it",
        End::DoesNotCompress => "; what is cold does not compress well enough to go on",
        End::NothingIsCold => "; there is nothing more that the kernel can swap",
    };
    format!(
        "{} are available, {} before; {} of {} of swap are in use, of which zram holds {} in {}{why}",
        human(after.available),
        human(before.available),
        human(swap.used),
        human(swap.size),
        human(swap.zram_holds),
        human(swap.zram_takes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Swap of 1 GiB, all of it zram, that holds so much in so much memory.
    fn zram(holds: u64, takes: u64) -> SwapSpace {
        let [used, zram_takes] = [holds, takes].map(|mib| mib * MIB);
        SwapSpace { size: 1024 * MIB, used, zram_holds: used, zram_takes }
    }

    fn judge(swap: SwapSpace) -> Judge {
        Judge { wanted: 300 * MIB, judged: swap, moved: swap.used, without: 0 }
    }

    #[test]
    fn it_ends_when_there_will_be_enough() {
        let mut judge = judge(zram(0, 0));
        assert_eq!(judge.look(100 * MIB, 0, zram(0, 0)), None);
        assert_eq!(judge.look(0, 299 * MIB, zram(300, 100)), None);
        assert_eq!(judge.look(MIB, 299 * MIB, zram(301, 100)), Some(End::Enough));
    }

    #[test]
    fn it_ends_when_the_last_part_did_not_compress() {
        let mut judge = judge(zram(300, 100));
        assert_eq!(judge.look(0, 0, zram(427, 227)), None, "too little to tell");
        assert_eq!(judge.look(0, 0, zram(440, 220)), None, "120 of 140");
        let end = judge.look(0, 0, zram(580, 350));
        assert_eq!(end, Some(End::DoesNotCompress), "130 of 140, however well it did before");
    }

    #[test]
    fn it_ends_where_nothing_more_goes_to_swap() {
        let mut judge = judge(zram(100, 10));
        assert_eq!(judge.look(50 * MIB, 0, zram(100, 10)), None, "there is memory yet");
        for _ in 1..STEPS_WITHOUT {
            assert_eq!(judge.look(0, 50 * MIB, zram(100, 10)), None);
        }
        assert_eq!(judge.look(0, 50 * MIB, zram(101, 10)), None, "it does");
        for _ in 1..STEPS_WITHOUT {
            assert_eq!(judge.look(0, 50 * MIB, zram(101, 10)), None);
        }
        assert_eq!(judge.look(0, 50 * MIB, zram(101, 10)), Some(End::NothingIsCold));
        assert_eq!(judge.look(0, 0, zram(1010, 10)), Some(End::SwapIsFull));
    }
}
