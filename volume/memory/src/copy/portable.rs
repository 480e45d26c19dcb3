//! The copy for machines without one of their own: volatile accesses to the shared side, in words
//! where it is aligned to them.

const WORD: usize = size_of::<u64>();

/// Copies `length` bytes from shared memory to memory of this process.
///
/// # Safety
/// `from` must be valid for reads and `into` for writes of that many bytes, without overlap.
pub(super) unsafe fn load(from: *const u8, into: *mut u8, length: usize) {
    let (head, words) = parts(from, length);
    let byte = |at: usize| {
        // SAFETY: `at` is less than `length`.
        unsafe { into.add(at).write(from.add(at).read_volatile()) }
    };
    (0..head).for_each(byte);
    for at in (head..head + words * WORD).step_by(WORD) {
        // SAFETY: the word ends at `length` at the latest; `from + head` is aligned to words, and
        // so is every word after it.
        unsafe {
            let word = from.add(at).cast::<u64>().read_volatile();
            into.add(at).cast::<u64>().write_unaligned(word);
        }
    }
    (head + words * WORD..length).for_each(byte);
}

/// Copies `length` bytes from memory of this process to shared memory.
///
/// # Safety
/// As [`load`].
pub(super) unsafe fn store(from: *const u8, to: *mut u8, length: usize) {
    let (head, words) = parts(to, length);
    let byte = |at: usize| {
        // SAFETY: `at` is less than `length`.
        unsafe { to.add(at).write_volatile(from.add(at).read()) }
    };
    (0..head).for_each(byte);
    for at in (head..head + words * WORD).step_by(WORD) {
        // SAFETY: as in `load`, with `to` as the aligned side.
        unsafe {
            let word = from.add(at).cast::<u64>().read_unaligned();
            to.add(at).cast::<u64>().write_volatile(word);
        }
    }
    (head + words * WORD..length).for_each(byte);
}

/// The number of bytes before the first aligned word of the shared side, and of whole words after.
fn parts(shared: *const u8, length: usize) -> (usize, usize) {
    let head = shared.align_offset(WORD).min(length);
    (head, (length - head) / WORD)
}
