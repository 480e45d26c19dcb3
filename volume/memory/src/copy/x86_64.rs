//! The copy of x86-64: four SSE2 registers a line, in assembly.
//!
//! An ordinary store first reads the line that it is about to overwrite. For a large payload that
//! is half of all memory traffic, and it pushes out of the cache what is about to be copied. Stores
//! that go past the cache need neither, so large payloads are stored in that way. What is small is
//! likely to be read again soon, or to be in the cache already, and is stored as usual.
//!
//! Measured beside memcpy on AMD EPYC (`cargo run --release -p memory --example copy`): the usual copy
//! is as fast at every size. Stores past the cache are twice as fast from 64 KiB on where the target is
//! in no cache, and half as fast where it is. `rep movsb` was slower than both on that machine.

use std::arch::asm;

/// From this size on stores go past the cache.
const STREAM_BYTES_MIN: usize = 32 << 10;
/// Length of a line of the cache in bytes: what one step of the loops copies.
const LINE: usize = 64;

/// Copies whole lines, at least one, with the given instruction as store and others at the end. SSE2 is
/// part of x86-64, and loads may be unaligned.
macro_rules! copy_lines {
    ($from:expr, $to:expr, $bytes:expr, $store:literal $(, $last:literal)?) => {
        asm!(
            "2:",
            "movups {a}, [{from}]",
            "movups {b}, [{from} + 16]",
            "movups {c}, [{from} + 32]",
            "movups {d}, [{from} + 48]",
            concat!($store, " [{to}], {a}"),
            concat!($store, " [{to} + 16], {b}"),
            concat!($store, " [{to} + 32], {c}"),
            concat!($store, " [{to} + 48], {d}"),
            "add {from}, 64",
            "add {to}, 64",
            // Ends at exactly 0: whole lines.
            "sub {left}, 64",
            "jnz 2b",
            $($last,)?
            from = inout(reg) $from => _,
            to = inout(reg) $to => _,
            left = inout(reg) $bytes => _,
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            options(nostack),
        )
    };
}

/// Copies `length` bytes from shared memory to memory of this process.
///
/// # Safety
/// `from` must be valid for reads and `into` for writes of that many bytes, without overlap.
pub(super) unsafe fn load(from: *const u8, into: *mut u8, length: usize) {
    // SAFETY: what the caller guarantees.
    unsafe { cached(from, into, length) }
}

/// Copies `length` bytes from memory of this process to shared memory.
///
/// # Safety
/// As [`load`].
pub(super) unsafe fn store(from: *const u8, to: *mut u8, length: usize) {
    if length < STREAM_BYTES_MIN {
        // SAFETY: what the caller guarantees.
        return unsafe { cached(from, to, length) };
    }
    let head = to.align_offset(LINE).min(length);
    let lines = (length - head) / LINE * LINE;
    let tail = length - head - lines;
    // SAFETY: the three parts are `length` bytes together. `to + head` is aligned to a line, as
    // stores past the cache need it. `lines` is not 0: the bound on the length is many lines.
    unsafe {
        bytes(from, to, head);
        lines_past_the_cache(from.add(head), to.add(head), lines);
        bytes(from.add(head + lines), to.add(head + lines), tail);
    }
}

/// Copies `length` bytes from shared memory to shared memory: the compiler sees neither side of [`store`].
///
/// # Safety
/// `from` must be valid for reads and `to` for writes of that many bytes.
pub(super) unsafe fn between(from: *const u8, to: *mut u8, length: usize) {
    // SAFETY: what the caller guarantees. Instructions may overlap as they like.
    unsafe { store(from, to, length) }
}

/// The usual copy: lines, then the bytes that are left.
///
/// # Safety
/// As [`load`].
unsafe fn cached(from: *const u8, to: *mut u8, length: usize) {
    let lines = length / LINE * LINE;
    if lines > 0 {
        // SAFETY: `lines` bytes are part of `length`, whole lines, and not 0. Stores with movups may
        // be unaligned.
        unsafe { copy_lines!(from, to, lines, "movups") }
    }
    // SAFETY: the bytes behind the lines, up to `length`.
    unsafe { bytes(from.add(lines), to.add(lines), length - lines) }
}

/// The same for whole lines, past the cache, and fenced: such stores are not ordered before what
/// is stored next otherwise, a map entry that names the block among it.
///
/// # Safety
/// As [`load`]; `to` must be aligned to a line, and `length` must be whole lines and not 0.
unsafe fn lines_past_the_cache(from: *const u8, to: *mut u8, length: usize) {
    // SAFETY: what the caller guarantees.
    unsafe { copy_lines!(from, to, length, "movntps", "sfence") }
}

/// The same for less than a line.
///
/// # Safety
/// As [`load`].
unsafe fn bytes(from: *const u8, to: *mut u8, length: usize) {
    if length == 0 {
        return;
    }
    // SAFETY: what the caller guarantees; the direction flag is clear on entry to assembly.
    unsafe {
        asm!(
            "rep movsb",
            inout("rcx") length => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
}
