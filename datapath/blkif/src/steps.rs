//! The stores to shared memory that a successor relies on: before each of them a test can have the
//! process die.

/// A process that a test has chosen dies here; any other goes on.
#[inline]
pub(crate) fn step() {
    #[cfg(feature = "testing")]
    failpoints::step();
}

/// Lets a test choose the step before which a process dies.
#[cfg(feature = "testing")]
pub mod failpoints {
    use std::sync::atomic::{AtomicI64, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    /// Steps that this process may still take; below zero, as many as it likes.
    static LEFT: AtomicI64 = AtomicI64::new(i64::MIN);

    /// Lets this process take `steps` more steps and be killed before the next: no destructor and
    /// no error path runs.
    pub fn die_after(steps: u32) {
        LEFT.store(steps.into(), Ordering::Relaxed);
    }

    /// A step.
    pub(crate) fn step() {
        if LEFT.load(Ordering::Relaxed) >= 0 && LEFT.fetch_sub(1, Ordering::Relaxed) == 0 {
            kill_process(getpid(), Signal::KILL).expect("a process may kill itself");
        }
    }
}
