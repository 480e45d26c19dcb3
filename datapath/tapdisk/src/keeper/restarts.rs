//! How soon the next server is started after a death, and when no further one is.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// A server that has served for less than this has died of what it has taken over, or of itself.
const SHORT: Duration = Duration::from_millis(50);

/// So many deaths of that sort, one after the other, are answered at once.
const AT_ONCE: u32 = 3;
/// The pause after the next one; each one after it is twice as long.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// After so many, one after the other, no further server is started: some six seconds.
const SHORT_MAX: u32 = 20;

/// Whatever they have done before: after so many deaths in so much time no further server is started.
const DEATHS_MAX: usize = 600;
const WINDOW: Duration = Duration::from_secs(60);

/// The deaths so far.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    /// Servers that have died soon, one after the other.
    short: u32,
    /// Deaths within the window.
    deaths: VecDeque<Instant>,
}

impl Restarts {
    /// A server has died that has served since then; `None`: it has not got as far. How long to wait before
    /// the next is started; `None`: none is.
    pub(super) fn died(&mut self, now: Instant, ready_since: Option<Instant>) -> Option<Duration> {
        self.deaths.push_back(now);
        while self.deaths.front().is_some_and(|&at| at + WINDOW <= now) {
            self.deaths.pop_front();
        }
        let has_served = ready_since.is_some_and(|since| since + SHORT <= now);
        self.short = if has_served { 0 } else { self.short + 1 };
        if self.short > SHORT_MAX || self.deaths.len() > DEATHS_MAX {
            return None;
        }
        Some(match self.short.checked_sub(AT_ONCE + 1) {
            None => Duration::ZERO,
            Some(doubled) => (PAUSE_FIRST * 2_u32.pow(doubled.min(16))).min(PAUSE_MAX),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_after_some_service_is_answered_at_once_whatever_was_before() {
        let mut restarts = Restarts::default();
        let mut now = Instant::now();
        for _ in 0..SHORT_MAX {
            assert!(restarts.died(now, None).is_some());
        }
        for _ in 0..1000 {
            let since = now;
            now += Duration::from_millis(110);
            assert_eq!(restarts.died(now, Some(since)), Some(Duration::ZERO));
        }
    }

    #[test]
    fn servers_that_die_at_once_are_started_ever_more_slowly_and_then_not_any_more() {
        let mut restarts = Restarts::default();
        let now = Instant::now();
        let pauses: Vec<_> = std::iter::from_fn(|| restarts.died(now, Some(now))).collect();
        assert_eq!(pauses.len(), SHORT_MAX as usize);
        assert_eq!(pauses[..4], [0, 0, 0, 10].map(Duration::from_millis));
        assert!(pauses.is_sorted() && pauses[19] == PAUSE_MAX, "{pauses:?}");
        assert!(pauses.iter().sum::<Duration>() < Duration::from_secs(8));
    }

    #[test]
    fn a_server_that_dies_again_and_again_is_given_up_in_the_end() {
        let mut restarts = Restarts::default();
        let mut now = Instant::now();
        let mut deaths = 0;
        loop {
            let since = now;
            now += SHORT;
            if restarts.died(now, Some(since)).is_none() {
                break;
            }
            deaths += 1;
        }
        assert_eq!(deaths, DEATHS_MAX);
    }
}
