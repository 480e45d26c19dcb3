//! A small NBD client, and a server of a file: what the daemon's own tools would do with a disk, and what
//! a migration's destination is. Numbers are those of the protocol's `doc/proto.md`
//! (NetworkBlockDevice/nbd).

mod client;
mod server;

pub use self::{client::Client, server::serve};

/// The greeting, `NBDMAGIC`.
const GREETING: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`: the newstyle handshake, and each option.
const OPTION: u64 = 0x4948_4156_454f_5054;
/// A reply to an option.
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
/// A request.
const REQUEST: u32 = 0x2560_9513;
/// A reply to a request.
const REPLY: u32 = 0x6744_6698;
/// The oldstyle handshake.
const OLD_STYLE: u64 = 0x0000_4202_8186_1253;

/// Options of the handshake.
mod option {
    pub(super) const EXPORT_NAME: u32 = 1;
    pub(super) const ABORT: u32 = 2;
    pub(super) const GO: u32 = 7;
}

/// Commands of the transmission.
mod command {
    pub(super) const READ: u16 = 0;
    pub(super) const WRITE: u16 = 1;
    pub(super) const DISC: u16 = 2;
    pub(super) const FLUSH: u16 = 3;
}

/// Flags of an export.
mod flag {
    pub(super) const HAS_FLAGS: u16 = 1;
    pub(super) const READ_ONLY: u16 = 2;
    pub(super) const SEND_FLUSH: u16 = 4;
}
