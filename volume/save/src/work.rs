//! Doing the same to many units on the processors of the host.

use std::{
    num::NonZero,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use store::Result;

/// A control domain has other work too.
const THREADS_MAX: usize = 4;

/// Calls `act` for each of the positions below `count`, in about that order, on several threads, each with what
/// `start` returns. The first error ends it.
pub(crate) fn for_each<T>(
    count: usize,
    start: impl Fn() -> Result<T> + Sync,
    act: impl Fn(&mut T, usize) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let run = || -> Result<()> {
        let mut own = start()?;
        loop {
            let position = next.fetch_add(1, Ordering::Relaxed);
            if position >= count {
                return Ok(());
            }
            if let Err(error) = act(&mut own, position) {
                // The others find nothing left to do.
                next.store(count, Ordering::Relaxed);
                return Err(error);
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get).clamp(1, THREADS_MAX);
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
        let mut outcome = run();
        for other in others {
            outcome = outcome.and(other.join().expect("a thread without a panic"));
        }
        outcome
    })
}
