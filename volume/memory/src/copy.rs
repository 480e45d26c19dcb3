//! Copying between memory of this process and memory that other processes may change.
//!
//! Such memory races with its other users. In Rust a race is undefined behaviour for ordinary
//! loads and stores, `ptr::copy_nonoverlapping` included, whatever the C library's memcpy does: the
//! compiler may read a byte twice and rely on seeing the same one. So the copy is made of inline
//! assembly, which the compiler cannot look into (`x86_64`), or of volatile accesses (`portable`).
//! A copy that races yields a mixture of old and new bytes and nothing worse.

#[cfg(any(test, not(target_arch = "x86_64")))]
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(not(target_arch = "x86_64"))]
use portable as machine;
#[cfg(target_arch = "x86_64")]
use x86_64 as machine;

/// Copies out of shared memory, from `from` on, until `into` is full.
///
/// # Safety
/// `from` must be valid for reads of `into.len()` bytes and must not overlap with `into`.
pub(crate) unsafe fn load(from: *const u8, into: &mut [u8]) {
    // SAFETY: what the caller guarantees; `into` is a reference, so it is valid for writes.
    unsafe { machine::load(from, into.as_mut_ptr(), into.len()) }
}

/// When bytes that were stored are read again: what the architectures call their temporal locality.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// At once, as what a client asked for: the bytes had better be in the cache.
    Soon,
    /// Some time, as a block of a disk: the cache is left to others.
    Late,
}

/// Has the line of the cache of an address fetched, and the translation of the address. It is a hint: an address
/// where nothing is mapped does no harm, and a page that is not there is not made.
#[inline]
pub(crate) fn prefetch(from: *const u8) {
    machine::prefetch(from);
}

/// Copies `bytes` into shared memory at `to`, from which they are read [late](Reuse::Late).
///
/// # Safety
/// `to` must be valid for writes of `bytes.len()` bytes and must not overlap with `bytes`.
pub(crate) unsafe fn store(bytes: &[u8], to: *mut u8) {
    // SAFETY: what the caller guarantees; `bytes` is a reference, so it is valid for reads.
    unsafe { machine::store(bytes.as_ptr(), to, bytes.len(), Reuse::Late) }
}

/// Copies from shared memory to shared memory. Where the ranges overlap the result is a mixture. Until
/// [`fence`] others may see the bytes after what is stored next. Meanwhile `length` bytes from `next` on are
/// fetched, which is a hint as [`prefetch`] is.
///
/// # Safety
/// `from` must be valid for reads and `to` for writes of `length` bytes. `next` may be any address.
pub(crate) unsafe fn between(
    from: *const u8,
    to: *mut u8,
    length: usize,
    reuse: Reuse,
    next: *const u8,
) {
    // SAFETY: what the caller guarantees.
    unsafe { machine::between(from, to, length, reuse, next) }
}

/// What was stored by [`between`] is seen before what is stored next.
#[inline]
pub(crate) fn fence() {
    machine::fence();
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;

    type Load = unsafe fn(*const u8, *mut u8, usize);
    type Store = unsafe fn(*const u8, *mut u8, usize, Reuse);
    type Between = unsafe fn(*const u8, *mut u8, usize, Reuse, *const u8);

    /// Every alignment of both sides, sizes around those at which the copy changes its way, and
    /// nothing before the first byte or behind the last.
    fn check(load: Load, store: Store, between: Between) {
        let from: Vec<u8> = (0..(33 << 10) + 300).map(|i| (i % 251) as u8 + 1).collect();
        for length in (0..130).chain([4095, 4096, 4160, 4200, (32 << 10) + 100]) {
            for (skew, at) in (0..65).map(|skew| (skew, 64 + 7 * skew % 64)) {
                for copy in 0..5 {
                    let mut memory = vec![0; length + 256];
                    let (source, to) = (from[skew..].as_ptr(), memory[at..].as_mut_ptr());
                    // SAFETY: `skew + length` is less than the length of `from`, and
                    // `at + length` than that of `memory`.
                    unsafe {
                        match copy {
                            0 => load(source, to, length),
                            1 => store(source, to, length, Reuse::Soon),
                            2 => store(source, to, length, Reuse::Late),
                            3 => between(source, to, length, Reuse::Soon, source),
                            // What is fetched ahead may lie anywhere.
                            _ => between(source, to, length, Reuse::Late, ptr::null()),
                        }
                    }
                    assert!(
                        memory[at..at + length] == from[skew..skew + length],
                        "{length} {skew}"
                    );
                    let around = memory[..at].iter().chain(&memory[at + length..]);
                    assert!(around.into_iter().all(|&byte| byte == 0), "{length} {skew}");
                }
            }
        }
    }

    #[test]
    fn this_machines_copy_moves_every_byte_and_none_beside_them() {
        check(machine::load, machine::store, machine::between);
    }

    #[test]
    fn the_portable_copy_moves_every_byte_and_none_beside_them() {
        check(portable::load, portable::store, portable::between);
    }

    /// A machine's copy is compiled on that machine alone: here both are, so that neither loses the form of the other.
    #[test]
    fn hints_and_fences_of_both_may_be_given_anywhere() {
        for prefetch in [machine::prefetch, portable::prefetch] as [fn(*const u8); 2] {
            prefetch(ptr::null());
            prefetch(ptr::from_ref(&0));
        }
        for fence in [machine::fence, portable::fence] as [fn(); 2] {
            fence();
        }
    }
}
