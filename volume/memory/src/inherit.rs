//! Descriptors that a careless caller leaked into this process.

use std::{io, os::fd::BorrowedFd};

use rustix::io::{FdFlags, fcntl_setfd};

/// Marks every descriptor above 2 close-on-exec, so that a long-lived child does not keep its
/// caller's sockets and files open. The descriptors stay usable in this process.
///
/// # Errors
/// Where `/proc/self/fd` cannot be read.
pub fn close_inherited_on_exec() -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if number > 2 {
            // SAFETY: the number was open a moment ago and is used only for this call. If it has
            // been closed since, fcntl answers EBADF; setting close-on-exec on a descriptor that
            // took its number is harmless: everything Rust opens has it already.
            let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
            let _gone_meanwhile = fcntl_setfd(descriptor, FdFlags::CLOEXEC);
        }
    }
    Ok(())
}
