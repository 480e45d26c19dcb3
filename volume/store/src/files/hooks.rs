//! Counters for tests, and points at which a test can interfere.

use std::{
    cell::{Cell, RefCell},
    sync::mpsc::{Receiver, channel},
};

/// What is done once for each lock, or less often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Records of SRs that were parsed.
    pub srs: usize,
    /// Records of volumes that were parsed.
    pub volumes: usize,
    /// Mappings of the count of an SR's memory that were made.
    pub counts: usize,
}

/// A closure that runs once.
type Hook = Box<dyn FnOnce()>;

thread_local! {
    static UNLOCKED: RefCell<Option<Hook>> = const { RefCell::new(None) };
    static LIMITED: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

/// Runs `act` when this thread lets go of an SR's lock next in order to free memory: after the
/// release, and before anything is freed. The receiver gets its result.
pub fn at_unlock<T: 'static>(act: impl FnOnce() -> T + 'static) -> Receiver<T> {
    let (send, received) = channel();
    let hook = move || send.send(act()).expect("received later");
    UNLOCKED.replace(Some(Box::new(hook)));
    received
}

/// Runs `act` when this thread makes an SR smaller next: after what is in use was seen to fit, and before disks keep
/// to the new size.
pub fn at_limit(act: impl FnOnce() + 'static) {
    LIMITED.replace(Some(Box::new(act)));
}

pub(crate) fn limited() {
    if let Some(hook) = LIMITED.take() {
        hook();
    }
}

pub(crate) fn unlocked() {
    if let Some(hook) = UNLOCKED.take() {
        hook();
    }
}

thread_local! {
    static WORK: Cell<Work> = const { Cell::new(Work { srs: 0, volumes: 0, counts: 0 }) };
}

/// What this thread has done since it was asked last.
pub fn work() -> Work {
    WORK.take()
}

pub(crate) fn count_parse(is_sr: bool, is_volume: bool) {
    let mut work = WORK.get();
    work.srs += usize::from(is_sr);
    work.volumes += usize::from(is_volume);
    WORK.set(work);
}

pub(crate) fn count_mapping() {
    let mut work = WORK.get();
    work.counts += 1;
    WORK.set(work);
}
