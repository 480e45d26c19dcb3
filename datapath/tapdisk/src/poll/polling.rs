//! Whether the loop polls before it sleeps: waking a process on another core takes longer than most
//! requests do.
//!
//! It polls for 50 microseconds at most, unless the configuration says otherwise, and only where that has paid lately: after waits that were
//! short, never on an idle or slow disk, and hardly ever where a client can only go on when this process
//! sleeps, because both share a core. For guests' rings it polls longer where the toolstack asks for it and the
//! host has processors to spare ([`GuestPolling`](super::GuestPolling)).

use std::time::Duration;

/// The longest time that can be configured.
const TIME_MAX: Duration = Duration::from_millis(1);
/// A wait up to this many times as long as a poll might have been spared its sleep.
const SHORT: u32 = 2;
/// How many short waits in a row, more or less, it takes before polling.
const TRUST_NEEDED: u32 = 4;
const TRUST_MAX: u32 = 16;
/// A gap this long between two questions to the kernel: another process had the processor.
const CONTENDED: Duration = Duration::from_micros(200);
/// The most short waits that sleep after an empty poll.
const BACK_OFF_MAX: u32 = 1024;

/// The state of the decision, which learns from each wait.
#[derive(Debug)]
pub(crate) struct Polling {
    time: Duration,
    trust: u32,
    /// Short waits that still sleep before the next poll.
    back_off: u32,
    /// The back-off after the next empty poll.
    next_back_off: u32,
}

/// How a poll ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Something was ready.
    Found,
    /// Nothing was ready in time.
    Empty,
    /// Another process had the processor meanwhile, for long.
    Contended,
}

impl Polling {
    /// Polls for so long; zero: never.
    pub(crate) fn new(time: Duration) -> Self {
        Self { time: time.min(TIME_MAX), trust: 0, back_off: 0, next_back_off: 1 }
    }

    /// Whether anything is ever polled for.
    pub(crate) fn is_on(&self) -> bool {
        !self.time.is_zero()
    }

    /// How long the next wait polls, if at all.
    pub(crate) fn time(&self) -> Option<Duration> {
        let pays = self.trust >= TRUST_NEEDED && self.back_off == 0 && !self.time.is_zero();
        pays.then_some(self.time)
    }

    /// Whether a gap between two questions shows that other processes want the processor.
    pub(crate) fn is_contended(gap: Duration) -> bool {
        gap >= CONTENDED
    }

    /// Learns from a poll.
    pub(crate) fn polled(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Found => {
                self.trust = (self.trust + 1).min(TRUST_MAX);
                self.next_back_off = (self.next_back_off - self.next_back_off.div_ceil(8)).max(1);
            }
            Outcome::Empty => {
                self.trust = self.trust.saturating_sub(TRUST_NEEDED);
                self.back_off = self.next_back_off;
                // Pays off where no more than one poll in ten or so is empty.
                self.next_back_off = (4 * self.next_back_off).min(BACK_OFF_MAX);
            }
            Outcome::Contended => self.back_off = BACK_OFF_MAX,
        }
    }

    /// Learns from the length of a wait that slept.
    pub(crate) fn slept(&mut self, time: Duration) {
        if time > SHORT * self.time {
            self.trust = self.trust.saturating_sub(1);
        } else {
            self.trust = (self.trust + 1).min(TRUST_MAX);
            self.back_off = self.back_off.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_micros(50);
    const SHORT_WAIT: Duration = Duration::from_micros(30);
    const LONG_WAIT: Duration = Duration::from_millis(3);

    fn trusting() -> Polling {
        let mut polling = Polling::new(TIME);
        (0..TRUST_MAX).for_each(|_| polling.slept(SHORT_WAIT));
        assert_eq!(polling.time(), Some(TIME));
        polling
    }

    #[test]
    fn it_polls_only_after_some_short_waits() {
        let mut polling = Polling::new(TIME);
        assert_eq!(polling.time(), None);
        (0..TRUST_NEEDED).for_each(|_| polling.slept(SHORT_WAIT));
        assert_eq!(polling.time(), Some(TIME));
    }

    /// An idle disk, and one that gets a request now and then, costs a few polls and then none.
    #[test]
    fn what_is_idle_or_slow_is_slept_for() {
        let mut polling = trusting();
        let mut polls = 0;
        for _ in 0..1000 {
            if polling.time().is_some() {
                polls += 1;
                polling.polled(Outcome::Empty);
            }
            polling.slept(LONG_WAIT);
        }
        assert!(polls <= 4, "{polls} polls");
    }

    #[test]
    fn a_busy_disk_is_polled_for_though_it_rests_now_and_then() {
        let mut polling = trusting();
        for _ in 0..100 {
            (0..20).for_each(|_| polling.polled(Outcome::Found));
            polling.polled(Outcome::Empty);
            polling.slept(LONG_WAIT);
            (0..4).for_each(|_| polling.slept(SHORT_WAIT));
            assert!(polling.time().is_some());
        }
    }

    /// On one core with its client it sees nothing come for as long as it polls, and every wait that
    /// sleeps is short.
    #[test]
    fn what_comes_only_when_it_sleeps_is_slept_for() {
        let mut polling = trusting();
        let mut polls = 0;
        for _ in 0..100_000 {
            if polling.time().is_some() {
                polls += 1;
                polling.polled(Outcome::Empty);
            }
            polling.slept(SHORT_WAIT);
        }
        assert!(polls < 150, "{polls} polls");
    }

    #[test]
    fn other_processes_that_want_the_processor_get_it() {
        let mut polling = trusting();
        assert!(Polling::is_contended(LONG_WAIT) && !Polling::is_contended(SHORT_WAIT));
        polling.polled(Outcome::Contended);
        (1..BACK_OFF_MAX).for_each(|_| polling.slept(SHORT_WAIT));
        assert_eq!(polling.time(), None);
        polling.slept(SHORT_WAIT);
        assert_eq!(polling.time(), Some(TIME));
    }

    #[test]
    fn it_can_be_switched_off_and_is_bounded() {
        let mut off = Polling::new(Duration::ZERO);
        (0..TRUST_MAX).for_each(|_| off.slept(Duration::ZERO));
        assert_eq!(off.time(), None);
        assert_eq!(Polling::new(Duration::from_secs(99)).time, TIME_MAX);
    }
}
