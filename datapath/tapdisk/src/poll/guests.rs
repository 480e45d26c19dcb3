//! How long the loop looks for requests of guests before it sleeps, as the toolstack asks for it: blktap's
//! polling (`tapdisk_start_polling` of `drivers/td-blkif.c`).
//!
//! Each request of a ring begins the time anew, while more of the host's processors is idle than the
//! toolstack says. The daemon cpumond measures that; where it does not run, nothing is idle.

use std::time::{Duration, Instant};

use tapctl::{MetricsDir, Ring};

/// How old what cpumond said may be.
const MEASURED_FOR: Duration = Duration::from_millis(100);

/// Until when requests are looked for, and what is known of the host's processors.
#[derive(Debug)]
pub(crate) struct GuestPolling {
    dir: MetricsDir,
    idle_percent: Option<f32>,
    measured: Option<Instant>,
    until: Option<Instant>,
}

impl GuestPolling {
    pub(crate) fn new(dir: &MetricsDir) -> Self {
        Self { dir: dir.clone(), idle_percent: None, measured: None, until: None }
    }

    /// A ring, which was connected so, has had requests.
    pub(crate) fn had_requests(&mut self, ring: &Ring, now: Instant) {
        if ring.poll_duration == 0 {
            return;
        }
        if self.measured.is_none_or(|at| now.saturating_duration_since(at) >= MEASURED_FOR) {
            self.idle_percent = self.dir.idle_percent();
            self.measured = Some(now);
        }
        #[expect(clippy::cast_precision_loss, reason = "a percentage")]
        let threshold = ring.poll_idle_threshold as f32;
        if self.idle_percent.is_some_and(|idle| idle > threshold) {
            let until = now + Duration::from_micros(ring.poll_duration.into());
            self.until = self.until.max(Some(until));
        }
    }

    /// Until when requests are looked for.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use scratch::Scratch;

    use super::*;

    const DURATION: Duration = Duration::from_millis(8);

    fn ring(poll_duration: u32) -> Ring {
        Ring {
            domid: 1,
            devid: 51712,
            grefs: [0; 8],
            order: 0,
            protocol: 1,
            pool: None,
            port: 1,
            poll_duration,
            poll_idle_threshold: 50,
        }
    }

    fn says(root: &Scratch, idle: f32) {
        let mut bytes = [0; 8];
        bytes[4..].copy_from_slice(&idle.to_ne_bytes());
        fs::write(root.path().join("cpu_util_monitor"), bytes).unwrap();
    }

    #[test]
    fn each_request_begins_the_time_anew_while_processors_are_idle() {
        let root = Scratch::in_memory();
        let mut polling = GuestPolling::new(&MetricsDir::new(root.path()));
        let (ring, start) = (ring(8000), Instant::now());
        says(&root, 50.5);
        polling.had_requests(&ring, start);
        assert_eq!(polling.until(), Some(start + DURATION));
        let later = start + Duration::from_millis(5);
        polling.had_requests(&ring, later);
        assert_eq!(polling.until(), Some(later + DURATION));
        // As many as the threshold says are not more.
        says(&root, 50.0);
        polling.had_requests(&ring, later + MEASURED_FOR);
        assert_eq!(polling.until(), Some(later + DURATION));
    }

    #[test]
    fn without_a_measurement_or_a_time_nothing_is_polled_for() {
        let root = Scratch::in_memory();
        let mut polling = GuestPolling::new(&MetricsDir::new(root.path()));
        let start = Instant::now();
        polling.had_requests(&ring(8000), start);
        fs::write(root.path().join("cpu_util_monitor"), [0; 7]).unwrap();
        polling.had_requests(&ring(8000), start + MEASURED_FOR);
        says(&root, f32::NAN);
        polling.had_requests(&ring(8000), start + 2 * MEASURED_FOR);
        says(&root, 100.0);
        polling.had_requests(&ring(0), start + 3 * MEASURED_FOR);
        assert_eq!(polling.until(), None);
    }
}
