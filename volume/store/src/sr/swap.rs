//! Whether the kernel may swap an SR's memory: what its configuration asks for, and what its mounts and the kernel
//! make of that.

use super::mount;
use crate::files::Layout;

/// Whether the kernel may swap the memory of an SR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// It is kept from that.
    Never,
    /// It may, as was asked for.
    Wanted,
    /// It may, whatever was asked for: the kernel is older than Linux 6.4 and knows no tmpfs without swap.
    InAnyCase,
    /// It may since the memory was made, though it is not asked for any more.
    StillPossible,
    /// It is kept from that since the memory was made, though it is asked for by now.
    NotYet,
    /// The SR is a directory of a tmpfs that it has no say in.
    OfAnother,
}

impl Swap {
    pub(super) fn of(layout: &Layout, wanted: bool) -> Self {
        let kept = mount::is_kept_from_swap(layout);
        Self::decide(wanted, kept, mount::kernel_knows_noswap)
    }

    /// `kept`: whether the mounts keep it out of swap; `None`: it has none.
    fn decide(wanted: bool, kept: Option<bool>, knows_noswap: impl Fn() -> bool) -> Self {
        match (wanted, kept) {
            (_, None) => Self::OfAnother,
            (false, Some(true)) => Self::Never,
            (true, Some(true)) => Self::NotYet,
            (_, Some(false)) if !knows_noswap() => Self::InAnyCase,
            (true, Some(false)) => Self::Wanted,
            (false, Some(false)) => Self::StillPossible,
        }
    }

    /// Whether the kernel may swap the SR's memory now.
    #[must_use]
    pub fn is_possible(self) -> bool {
        matches!(self, Self::Wanted | Self::InAnyCase | Self::StillPossible)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_mounts_do_counts_and_not_what_is_asked_for() {
        let on = |known: bool, wanted, kept| Swap::decide(wanted, kept, || known);
        for (known, wanted, kept, state) in [
            (true, false, Some(true), Swap::Never),
            (true, true, Some(false), Swap::Wanted),
            (true, true, Some(true), Swap::NotYet),
            (true, false, Some(false), Swap::StillPossible),
            (false, false, Some(false), Swap::InAnyCase),
            (false, true, Some(false), Swap::InAnyCase),
            (true, true, None, Swap::OfAnother),
        ] {
            assert_eq!(on(known, wanted, kept), state, "{known} {wanted} {kept:?}");
            assert_eq!(state.is_possible(), kept == Some(false), "{state:?}");
        }
    }
}
