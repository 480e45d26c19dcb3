//! Identities that are used once.

use rustix::rand::{GetRandomFlags, getrandom};
use uuid::{Builder, Uuid};

/// A random UUID (version 4 of RFC 9562).
///
/// The kernel is asked directly: the `uuid` crate's own source looks getrandom(2) up by name at run time,
/// does not find it in a statically linked program, and then opens, waits for and reads two devices.
pub(crate) fn random_uuid() -> Uuid {
    let mut bytes = [0; 16];
    loop {
        match getrandom(&mut bytes, GetRandomFlags::empty()) {
            Ok(_whole) => return Builder::from_random_bytes(bytes).into_uuid(),
            // Before the kernel has collected enough at boot it waits, and may be interrupted.
            Err(error) => assert_eq!(error, rustix::io::Errno::INTR, "getrandom(2)"),
        }
    }
}
