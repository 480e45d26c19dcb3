//! Whether the loop looks again before it sleeps: waking a process on another core takes longer than
//! most requests do.
//!
//! It looks for 50 microseconds at most, unless the configuration says otherwise, and only where that has paid lately: after waits that
//! were short, never on an idle or slow disk, and hardly ever where a client can only go on when this
//! process sleeps, because both have to share a core. Guests' rings are polled by default as well, for
//! up to 8 ms at a time (`default-vbd3-polling-duration` of xapi).

use std::time::Duration;

/// The longest that can be asked for.
const LOOK_MAX: Duration = Duration::from_millis(1);
/// A wait up to this many times as long as a look might have been spared its sleep.
const SHORT: u32 = 2;
/// How many short waits in a row, more or less, it takes before looking.
const TRUST_NEEDED: u32 = 4;
const TRUST_MAX: u32 = 16;
/// A gap this long between two looks: somebody else had the processor.
const GAP: Duration = Duration::from_micros(200);
/// How many short waits are let pass at most after a look in vain.
const REST_MAX: u32 = 1024;

/// What has been learned from the waits so far.
#[derive(Debug)]
pub(crate) struct Polling {
    look: Duration,
    trust: u32,
    /// Short waits to let pass before looking again.
    rest: u32,
    /// How many that are after the next look in vain.
    next_rest: u32,
}

/// How a look ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Looked {
    /// Something came.
    Found,
    /// Nothing came in time.
    InVain,
    /// Somebody else had the processor meanwhile, for long.
    Crowded,
}

impl Polling {
    /// Looks for so long; zero: never.
    pub(crate) fn new(look: Duration) -> Self {
        Self { look: look.min(LOOK_MAX), trust: 0, rest: 0, next_rest: 1 }
    }

    /// For how long the next wait is to look, if at all.
    pub(crate) fn look(&self) -> Option<Duration> {
        let worth = self.trust >= TRUST_NEEDED && self.rest == 0 && !self.look.is_zero();
        worth.then_some(self.look)
    }

    /// Whether a gap between two looks shows that others want the processor.
    pub(crate) fn is_crowded(gap: Duration) -> bool {
        gap >= GAP
    }

    /// Learns from a look.
    pub(crate) fn looked(&mut self, how: Looked) {
        match how {
            Looked::Found => {
                self.trust = (self.trust + 1).min(TRUST_MAX);
                self.next_rest = (self.next_rest - self.next_rest.div_ceil(8)).max(1);
            }
            Looked::InVain => {
                self.trust = self.trust.saturating_sub(TRUST_NEEDED);
                self.rest = self.next_rest;
                // Pays off where no more than one look in ten or so is in vain.
                self.next_rest = (4 * self.next_rest).min(REST_MAX);
            }
            Looked::Crowded => self.rest = REST_MAX,
        }
    }

    /// Learns from how long something was slept for.
    pub(crate) fn slept(&mut self, time: Duration) {
        if time > SHORT * self.look {
            self.trust = self.trust.saturating_sub(1);
        } else {
            self.trust = (self.trust + 1).min(TRUST_MAX);
            self.rest = self.rest.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Duration = Duration::from_micros(50);
    const SHORT_WAIT: Duration = Duration::from_micros(30);
    const LONG_WAIT: Duration = Duration::from_millis(3);

    fn trusting() -> Polling {
        let mut polling = Polling::new(LOOK);
        (0..TRUST_MAX).for_each(|_| polling.slept(SHORT_WAIT));
        assert_eq!(polling.look(), Some(LOOK));
        polling
    }

    #[test]
    fn it_looks_only_after_some_short_waits() {
        let mut polling = Polling::new(LOOK);
        assert_eq!(polling.look(), None);
        (0..TRUST_NEEDED).for_each(|_| polling.slept(SHORT_WAIT));
        assert_eq!(polling.look(), Some(LOOK));
    }

    /// An idle disk, and one that gets a request now and then, costs a few looks and then none.
    #[test]
    fn what_is_idle_or_slow_is_slept_for() {
        let mut polling = trusting();
        let mut looks = 0;
        for _ in 0..1000 {
            if polling.look().is_some() {
                looks += 1;
                polling.looked(Looked::InVain);
            }
            polling.slept(LONG_WAIT);
        }
        assert!(looks <= 4, "{looks} looks");
    }

    #[test]
    fn a_busy_disk_is_looked_for_though_it_rests_now_and_then() {
        let mut polling = trusting();
        for _ in 0..100 {
            (0..20).for_each(|_| polling.looked(Looked::Found));
            polling.looked(Looked::InVain);
            polling.slept(LONG_WAIT);
            (0..4).for_each(|_| polling.slept(SHORT_WAIT));
            assert!(polling.look().is_some());
        }
    }

    /// On one core with its client it sees nothing come for as long as it looks, and every wait that
    /// sleeps is short.
    #[test]
    fn what_comes_only_when_it_sleeps_is_slept_for() {
        let mut polling = trusting();
        let mut looks = 0;
        for _ in 0..100_000 {
            if polling.look().is_some() {
                looks += 1;
                polling.looked(Looked::InVain);
            }
            polling.slept(SHORT_WAIT);
        }
        assert!(looks < 150, "{looks} looks");
    }

    #[test]
    fn others_who_want_the_processor_get_it() {
        let mut polling = trusting();
        assert!(Polling::is_crowded(LONG_WAIT) && !Polling::is_crowded(SHORT_WAIT));
        polling.looked(Looked::Crowded);
        (1..REST_MAX).for_each(|_| polling.slept(SHORT_WAIT));
        assert_eq!(polling.look(), None);
        polling.slept(SHORT_WAIT);
        assert_eq!(polling.look(), Some(LOOK));
    }

    #[test]
    fn it_can_be_switched_off_and_is_bounded() {
        let mut off = Polling::new(Duration::ZERO);
        (0..TRUST_MAX).for_each(|_| off.slept(Duration::ZERO));
        assert_eq!(off.look(), None);
        assert_eq!(Polling::new(Duration::from_secs(99)).look, LOOK_MAX);
    }
}
