//! Copying into pages that are not in the processor's caches.
//!
//! An ordinary store first reads the line that it is about to overwrite. For a payload of some size
//! that is half of all memory traffic, and pushes out of the cache what is about to be copied.
//! Stores that go past the cache need neither: measured on AMD EPYC, 25 GB/s against 15. What is
//! small is likely to be read again soon, or to be there already, and is copied as usual.

/// From this size on bytes go past the cache.
const STREAM_BYTES_MIN: usize = 32 << 10;

/// Copies `bytes` to `to`.
///
/// # Safety
/// `to` must be valid for writes of that many bytes, and they must not overlap with `bytes`.
pub(crate) unsafe fn into_memory(bytes: &[u8], to: *mut u8) {
    if cfg!(target_arch = "x86_64") && bytes.len() >= STREAM_BYTES_MIN {
        // SAFETY: what the caller guarantees.
        unsafe { stream(bytes, to) }
    } else {
        // SAFETY: what the caller guarantees.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }
}

/// The same in whole lines past the cache; what is before the first and after the last one goes
/// the usual way. SSE2, which every x86-64 has.
///
/// # Safety
/// As [`into_memory`].
#[cfg(target_arch = "x86_64")]
unsafe fn stream(bytes: &[u8], to: *mut u8) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};

    const LINE: usize = 64;
    const PART: usize = size_of::<__m128i>();

    let head = to.align_offset(LINE).min(bytes.len());
    let (first, rest) = bytes.split_at(head);
    let (lines, last) = rest.as_chunks::<LINE>();
    // SAFETY: `to` is valid for `bytes.len()` bytes, and no part reaches further: `head` bytes, then
    // all lines, then `last`. `to + head` is aligned to a line, as the stores need it. The fence
    // orders them before whatever is stored next, a map entry that names the block among it.
    unsafe {
        std::ptr::copy_nonoverlapping(first.as_ptr(), to, first.len());
        let mut into = to.add(head);
        for line in lines {
            let from: *const u8 = line.as_ptr();
            for part in 0..LINE / PART {
                let loaded = _mm_loadu_si128(from.add(part * PART).cast());
                _mm_stream_si128(into.add(part * PART).cast(), loaded);
            }
            into = into.add(LINE);
        }
        _mm_sfence();
        std::ptr::copy_nonoverlapping(last.as_ptr(), into, last.len());
    }
}

/// Other processors have their own ways; the usual one is right everywhere.
///
/// # Safety
/// As [`into_memory`].
#[cfg(not(target_arch = "x86_64"))]
unsafe fn stream(bytes: &[u8], to: *mut u8) {
    // SAFETY: what the caller guarantees.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every alignment of both sides, sizes on both sides of the bound, and nothing beyond them.
    #[test]
    fn every_byte_arrives_and_none_beside_them() {
        let from: Vec<u8> = (0..STREAM_BYTES_MIN + 300).map(|i| (i % 251) as u8 + 1).collect();
        for length in [0, 1, 4096, STREAM_BYTES_MIN - 1, STREAM_BYTES_MIN, STREAM_BYTES_MIN + 100] {
            for (skew, at) in (0..65).map(|skew| (skew, 64 + 7 * skew % 64)) {
                let mut memory = vec![0; length + 256];
                // SAFETY: `at + length` is less than the length of `memory`.
                unsafe { into_memory(&from[skew..][..length], memory.as_mut_ptr().add(at)) };
                assert!(memory[at..at + length] == from[skew..skew + length], "{length} {skew}");
                let around = memory[..at].iter().chain(&memory[at + length..]);
                assert!(around.into_iter().all(|&byte| byte == 0), "{length} {skew}");
            }
        }
    }
}
