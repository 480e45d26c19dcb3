//! The greetings of a server, and the flags that describe an export.

use crate::wire::{self, handshake_flag, transmission_flag as flag};

/// Identifies `base:allocation` in answers to `BLOCK_STATUS`.
pub(super) const ALLOCATION_ID: u32 = 1;

/// The greeting of a newstyle server.
pub(super) fn newstyle() -> [u8; wire::Greeting::BYTES] {
    let flags = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
    wire::Greeting { magic: wire::GREETING_MAGIC, style: wire::OPTION_MAGIC, flags }.to_bytes()
}

/// The greeting of an old-style server, after which requests follow at once.
pub(super) fn oldstyle(size: u64, flags: u16) -> Vec<u8> {
    let flags = u32::from(flags);
    let greeting = wire::OldGreeting {
        magic: wire::GREETING_MAGIC,
        style: wire::OLD_STYLE_MAGIC,
        size,
        flags,
    };
    [greeting.to_bytes().as_slice(), &[0; wire::RESERVED_ZEROES]].concat()
}

/// The flags that describe an export (proto.md, Transmission flags).
pub(super) fn transmission_flags(read_only: bool, structured: bool) -> u16 {
    let mut flags = flag::HAS_FLAGS
        | flag::SEND_FLUSH
        | flag::SEND_FUA
        | flag::SEND_TRIM
        | flag::SEND_WRITE_ZEROES
        | flag::CAN_MULTI_CONN
        | flag::SEND_CACHE
        | flag::SEND_FAST_ZERO;
    if read_only {
        flags |= flag::READ_ONLY;
    }
    if structured {
        flags |= flag::SEND_DF;
    }
    flags
}
