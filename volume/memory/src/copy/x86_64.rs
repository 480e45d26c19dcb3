//! The copy of x86-64: four SSE2 registers a line, in assembly.
//!
//! An ordinary store first reads the line that it is about to overwrite. That is half of all memory
//! traffic where the line is in no cache, and it pushes out of the cache what others need. Stores
//! that go past the cache need neither, so whole blocks of a disk are stored in that way. What is smaller
//! is likely to be in the cache already, and what a client has asked for is read by it at once: both
//! are stored as usual.
//!
//! Measured beside memcpy on AMD EPYC with 8 MiB of last cache (`cargo run --release -p memory --example
//! copy`): the usual copy is as fast at every size. Stores past the cache take half the time for 4 KiB at
//! random places of 64 MiB or more, two thirds of it in 16 MiB, and twice the time where the target is in
//! a cache. `rep movsb` was slower than both on that machine.

use std::arch::{
    asm,
    x86_64::{_MM_HINT_T0, _mm_prefetch},
};

use super::Reuse;

/// From this size on stores of what is read late go past the cache: a block of a disk.
const STREAM_BYTES_MIN: usize = 4 << 10;
/// Length of a line of the cache in bytes: what one step of the loops copies.
const LINE: usize = 64;

/// Copies whole lines, at least one, with the given instruction as store, and has as many lines fetched from
/// another address on: into the second cache, since what is fetched into the first one takes the room of the loads
/// there. SSE2 is part of x86-64, and loads may be unaligned.
macro_rules! copy_lines {
    ($from:expr, $to:expr, $bytes:expr, $next:expr, $store:literal) => {
        asm!(
            "2:",
            "prefetcht1 [{next}]",
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
            "add {next}, 64",
            // Ends at exactly 0: whole lines.
            "sub {left}, 64",
            "jnz 2b",
            from = inout(reg) $from => _,
            to = inout(reg) $to => _,
            left = inout(reg) $bytes => _,
            next = inout(reg) $next => _,
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
    unsafe { cached(from, into, length, from) }
}

/// Copies `length` bytes from memory of this process to shared memory.
///
/// # Safety
/// As [`load`].
pub(super) unsafe fn store(from: *const u8, to: *mut u8, length: usize, reuse: Reuse) {
    // SAFETY: what the caller guarantees.
    unsafe { store_unfenced(from, to, length, reuse, from) }
    if goes_past_the_cache(length, reuse) {
        fence();
    }
}

/// Whether stores of so many bytes go past the cache.
fn goes_past_the_cache(length: usize, reuse: Reuse) -> bool {
    reuse == Reuse::Late && length >= STREAM_BYTES_MIN
}

/// Orders stores past the cache before what is stored next, a map entry that names the block among it.
pub(super) fn fence() {
    // SAFETY: the instruction touches no memory.
    unsafe { asm!("sfence", options(nostack, preserves_flags)) }
}

/// The same as [`store`], of which the bytes may be seen after what is stored next, until [`fence`]. Has `length`
/// bytes from `next` on fetched meanwhile.
///
/// # Safety
/// As [`load`]. `next` may be any address.
unsafe fn store_unfenced(
    from: *const u8,
    to: *mut u8,
    length: usize,
    reuse: Reuse,
    next: *const u8,
) {
    if !goes_past_the_cache(length, reuse) {
        // SAFETY: what the caller guarantees.
        return unsafe { cached(from, to, length, next) };
    }
    let head = to.align_offset(LINE).min(length);
    let lines = (length - head) / LINE * LINE;
    let tail = length - head - lines;
    // SAFETY: the three parts are `length` bytes together. `to + head` is aligned to a line, as
    // stores past the cache need it. `lines` is not 0: the bound on the length is many lines.
    unsafe {
        bytes(from, to, head);
        lines_past_the_cache(from.add(head), to.add(head), lines, next);
        bytes(from.add(head + lines), to.add(head + lines), tail);
    }
}

/// Copies `length` bytes from shared memory to shared memory: the compiler sees neither side of [`store`].
/// Until [`fence`] they may be seen after what is stored next. Has as many bytes from `next` on fetched meanwhile.
///
/// # Safety
/// `from` must be valid for reads and `to` for writes of that many bytes. `next` may be any address.
pub(super) unsafe fn between(
    from: *const u8,
    to: *mut u8,
    length: usize,
    reuse: Reuse,
    next: *const u8,
) {
    // SAFETY: what the caller guarantees. Instructions may overlap as they like.
    unsafe { store_unfenced(from, to, length, reuse, next) }
}

/// Has the line of an address fetched.
#[inline]
pub(super) fn prefetch(from: *const u8) {
    // SAFETY: the instruction may be given any address; it changes nothing and never faults.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
}

/// The usual copy: lines, then the bytes that are left. Has as many lines from `next` on fetched meanwhile.
///
/// # Safety
/// As [`load`]. `next` may be any address.
unsafe fn cached(from: *const u8, to: *mut u8, length: usize, next: *const u8) {
    let lines = length / LINE * LINE;
    if lines > 0 {
        // SAFETY: `lines` bytes are part of `length`, whole lines, and not 0. Stores with movups may
        // be unaligned.
        unsafe { copy_lines!(from, to, lines, next, "movups") }
    }
    // SAFETY: the bytes behind the lines, up to `length`.
    unsafe { bytes(from.add(lines), to.add(lines), length - lines) }
}

/// The same for whole lines, past the cache: such stores are not ordered before what is stored next, until
/// [`fence`].
///
/// # Safety
/// As [`load`]; `to` must be aligned to a line, and `length` must be whole lines and not 0. `next` may be any address.
unsafe fn lines_past_the_cache(from: *const u8, to: *mut u8, length: usize, next: *const u8) {
    // SAFETY: what the caller guarantees.
    unsafe { copy_lines!(from, to, length, next, "movntps") }
}

/// The same for less than a line, which a slot of a ring or its answer is: two words at a time, and one, and bytes.
/// (`rep movsb` alone takes longer to begin than all of that.)
///
/// # Safety
/// As [`load`].
#[inline]
unsafe fn bytes(mut from: *const u8, mut to: *mut u8, length: usize) {
    for _ in 0..length / 16 {
        // SAFETY: what the caller guarantees: these 16 bytes are among the `length`, unaligned as they may be.
        unsafe {
            asm!(
                "movups {a}, [{from}]",
                "movups [{to}], {a}",
                from = in(reg) from,
                to = in(reg) to,
                a = out(xmm_reg) _,
                options(nostack, preserves_flags),
            );
        }
        (from, to) = (from.wrapping_add(16), to.wrapping_add(16));
    }
    if length & 8 != 0 {
        // SAFETY: the same for 8 bytes.
        unsafe {
            asm!(
                "mov {a}, [{from}]",
                "mov [{to}], {a}",
                from = in(reg) from,
                to = in(reg) to,
                a = out(reg) _,
                options(nostack, preserves_flags),
            );
        }
        (from, to) = (from.wrapping_add(8), to.wrapping_add(8));
    }
    if length & 7 != 0 {
        // SAFETY: the last bytes; the direction flag is clear on entry to assembly.
        unsafe {
            asm!(
                "rep movsb",
                inout("rcx") length & 7 => _,
                inout("rsi") from => _,
                inout("rdi") to => _,
                options(nostack, preserves_flags),
            );
        }
    }
}
