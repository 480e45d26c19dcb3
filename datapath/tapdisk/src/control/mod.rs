//! Callers and their requests: one file for each group of messages. The errors are those of blktap's
//! tapdisk (`drivers/tapdisk-control.c`, `drivers/tapdisk-vbd.c`).

mod attach;
mod callers;
mod handle;
mod hold;
mod info;
mod mirrors;
mod names;
mod open;
mod pause;
mod rings;
mod structure;
mod upgrade;

pub(crate) use attach::ATTACH_RETRY;
pub(crate) use callers::CALLERS_PAUSE;
pub(crate) use names::{LOOK_INTERVAL, Look};
pub(crate) use rings::location;

use rustix::io::Errno;
use tapctl::{Failure, Flags};

/// Flags that ask for something a RAM disk cannot do, and that the caller relies on: a mirror or a
/// parent chain, a log of changes, encryption. blktap's flags for caches change nothing here.
const UNSUPPORTED: Flags = Flags::SECONDARY
    .with(Flags::STANDBY)
    .with(Flags::ADD_LOG)
    .with(Flags::ENCRYPTED)
    .with(Flags::REUSE_PARENT)
    .with(Flags::VHD_INDEX);

fn supported(flags: Flags) -> Result<(), Failure> {
    if flags.has(UNSUPPORTED) {
        let text = format!("flags {:#x}: not for a disk in memory", flags.0 & UNSUPPORTED.0);
        return Err(Failure::new(Errno::OPNOTSUPP, text));
    }
    Ok(())
}
