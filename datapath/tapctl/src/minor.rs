//! The number of a VBD on its host. Files that reserve and lock such numbers are in
//! [`crate::minors`].

/// The number of a VBD on this host.
pub type Minor = u16;

/// How many there are (`MAX_ID` in `include/blktap.h`).
pub const MINORS_MAX: Minor = 16384;
