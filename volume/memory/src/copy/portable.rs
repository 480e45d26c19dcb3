//! The copy for machines without one of their own: volatile accesses to the shared side, in words
//! where it is aligned to them.

use std::sync::atomic::{Ordering, fence as order};

use super::Reuse;

const WORD: usize = size_of::<u64>();

/// Copies `length` bytes from shared memory to memory of this process.
///
/// # Safety
/// `from` must be valid for reads and `into` for writes of that many bytes, without overlap.
pub(super) unsafe fn load(from: *const u8, into: *mut u8, length: usize) {
    // SAFETY: `at` is less than `length`.
    let byte = |at: usize| unsafe { into.add(at).write(from.add(at).read_volatile()) };
    // SAFETY: the word lies before `length`, and `from + at` is aligned to words.
    let word = |at: usize| unsafe {
        let word = from.add(at).cast::<u64>().read_volatile();
        into.add(at).cast::<u64>().write_unaligned(word);
    };
    copy(from, length, byte, word);
}

/// Copies `length` bytes from memory of this process to shared memory.
///
/// # Safety
/// As [`load`].
pub(super) unsafe fn store(from: *const u8, to: *mut u8, length: usize, _: Reuse) {
    // SAFETY: `at` is less than `length`.
    let byte = |at: usize| unsafe { to.add(at).write_volatile(from.add(at).read()) };
    // SAFETY: the word lies before `length`, and `to + at` is aligned to words.
    let word = |at: usize| unsafe {
        let word = from.add(at).cast::<u64>().read_unaligned();
        to.add(at).cast::<u64>().write_volatile(word);
    };
    copy(to, length, byte, word);
}

/// Copies `length` bytes from shared memory to shared memory.
///
/// # Safety
/// `from` must be valid for reads and `to` for writes of that many bytes. `_next` may be any address.
pub(super) unsafe fn between(
    from: *const u8,
    to: *mut u8,
    length: usize,
    _: Reuse,
    _next: *const u8,
) {
    // SAFETY: `at` is less than `length`.
    let byte = |at: usize| unsafe { to.add(at).write_volatile(from.add(at).read_volatile()) };
    if from.align_offset(WORD) != to.align_offset(WORD) {
        return (0..length).for_each(byte);
    }
    // SAFETY: the word lies before `length`, and both `from + at` and `to + at` are aligned to words.
    let word = |at: usize| unsafe {
        let word = from.add(at).cast::<u64>().read_volatile();
        to.add(at).cast::<u64>().write_volatile(word);
    };
    copy(to, length, byte, word);
}

/// Orders what was stored before what is stored next.
pub(super) fn fence() {
    order(Ordering::Release);
}

/// No hint.
pub(super) fn prefetch(_: *const u8) {}

/// Calls `word` for every aligned word of the shared side, and `byte` for each byte before the first
/// word and behind the last.
fn copy(shared: *const u8, length: usize, byte: impl Fn(usize), word: impl Fn(usize)) {
    let head = shared.align_offset(WORD).min(length);
    let words = (length - head) / WORD * WORD;
    (0..head).for_each(&byte);
    (head..head + words).step_by(WORD).for_each(word);
    (head + words..length).for_each(byte);
}
