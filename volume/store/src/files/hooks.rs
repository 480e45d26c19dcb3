//! Counters for tests, and points at which a test can interfere.

use std::{
    cell::{Cell, RefCell},
    sync::mpsc::{Receiver, channel},
};

/// How many records were parsed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Records of SRs.
    pub srs: usize,
    /// Records of volumes.
    pub volumes: usize,
}

/// A closure that runs when a lock is released.
type Hook = Box<dyn FnOnce()>;

thread_local! {
    static UNLOCKED: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

/// Runs `act` when this thread lets go of an SR's lock next in order to free memory: after the
/// release, and before anything is freed. The receiver gets its result.
pub fn at_unlock<T: 'static>(act: impl FnOnce() -> T + 'static) -> Receiver<T> {
    let (send, received) = channel();
    let hook = move || send.send(act()).expect("received later");
    UNLOCKED.replace(Some(Box::new(hook)));
    received
}

pub(crate) fn unlocked() {
    if let Some(hook) = UNLOCKED.take() {
        hook();
    }
}

thread_local! {
    static PARSED: Cell<Parsed> = const { Cell::new(Parsed { srs: 0, volumes: 0 }) };
}

/// How many records this thread has parsed since it was asked last.
pub fn parsed() -> Parsed {
    PARSED.take()
}

pub(crate) fn count_parse(is_sr: bool, is_volume: bool) {
    let Parsed { srs, volumes } = PARSED.get();
    PARSED.set(Parsed { srs: srs + usize::from(is_sr), volumes: volumes + usize::from(is_volume) });
}
