//! The heap of the C library, which keeps what is freed for later: a tapdisk's clients come and go, and what
//! they have needed is memory of dom0.

/// From this size on a block is a mapping of its own, which is gone when it is freed. Bytes.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES_MIN: libc::c_int = 256 << 10;

/// Has every large block given back at once when it is freed, from now on. Without it the C library keeps
/// blocks of a size that was freed before, up to 32 MiB, in the heap.
pub fn return_large_blocks() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: mallopt(3) sets a number of the allocator, and touches no memory of the caller.
        let _as_it_was = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN) };
    }
}

/// Gives back the memory of small blocks that were freed. It takes milliseconds where there are many.
pub fn return_freed() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: malloc_trim(3) gives back pages that hold no block in use, and touches no other.
        let _nothing_to_give = unsafe { libc::malloc_trim(0) };
    }
}
