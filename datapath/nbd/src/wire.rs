//! The wire format: constants and fixed-size messages of the protocol, each with its clause.
//!
//! Used by the server and the client; knows nothing of what either does. All numbers are
//! big-endian on the wire ("proto.md, Conventions"). A message is a struct whose `from_bytes`
//! and `to_bytes` are total functions of an array of exactly its size: whether its numbers make
//! sense is decided elsewhere, once.

/// Defines a fixed-size message and asserts that its fields add up to the size it claims.
macro_rules! message {
    ($(#[$doc:meta])* $name:ident, $bytes:literal bytes {
        $($(#[$field_doc:meta])* $field:ident: $type:ty),+ $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)+
        }

        impl $name {
            /// Size on the wire.
            pub const BYTES: usize = $bytes;

            /// Decodes received bytes.
            #[inline]
            #[must_use]
            pub fn from_bytes(bytes: &[u8; $bytes]) -> Self {
                let mut rest = bytes.as_slice();
                $(
                    let mut number = [0; size_of::<$type>()];
                    let (head, tail) = rest.split_at(number.len());
                    number.copy_from_slice(head);
                    rest = tail;
                    let $field = <$type>::from_be_bytes(number);
                )+
                debug_assert!(rest.is_empty());
                Self { $($field,)+ }
            }

            /// Encodes it for sending.
            #[inline]
            #[must_use]
            pub fn to_bytes(&self) -> [u8; $bytes] {
                let mut bytes = [0; $bytes];
                let mut rest = bytes.as_mut_slice();
                $(
                    let (head, tail) = rest.split_at_mut(size_of::<$type>());
                    head.copy_from_slice(&self.$field.to_be_bytes());
                    rest = tail;
                )+
                debug_assert!(rest.is_empty());
                bytes
            }
        }

        const _: () = assert!(0 $(+ size_of::<$type>())+ == $bytes);
    };
}

/// First eight bytes of every greeting, `NBDMAGIC` (proto.md, Newstyle negotiation).
pub const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second magic of the old-style greeting (proto.md, Oldstyle negotiation).
pub const OLD_STYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// Second magic of the newstyle greeting and of every option, `IHAVEOPT` (proto.md, Newstyle negotiation).
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Magic of every reply to an option (proto.md, Fixed newstyle negotiation).
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Magic of a request (proto.md, Request message).
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Magic of a simple reply (proto.md, Simple reply message).
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Magic of a structured reply chunk (proto.md, Structured reply chunk message).
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Longest string, such as an export name, in bytes (proto.md, Conventions).
pub const STRING_BYTES_MAX: usize = 4096;
/// Zeroes after the old-style greeting and, unless negotiated away, after the answer to
/// `EXPORT_NAME` (proto.md, Newstyle negotiation).
pub const RESERVED_ZEROES: usize = 124;
/// Largest payload that every peer must expect, and the largest we take: 2^25
/// (proto.md, Size constraints).
pub const PAYLOAD_BYTES_MAX: u32 = 1 << 25;

/// Handshake flags, server to client (proto.md, Handshake flags).
pub mod handshake_flag {
    /// Options other than `EXPORT_NAME` are answered.
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    /// The zeroes after `EXPORT_NAME` can be left out.
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// Client flags, the answer to the greeting (proto.md, Client flags).
pub mod client_flag {
    /// The client speaks fixed newstyle.
    pub const FIXED_NEWSTYLE: u32 = 1 << 0;
    /// The client wants no zeroes after `EXPORT_NAME`.
    pub const NO_ZEROES: u32 = 1 << 1;
}

/// Transmission flags: what the export can do (proto.md, Transmission flags).
pub mod transmission_flag {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// Writes are refused.
    pub const READ_ONLY: u16 = 1 << 1;
    /// `FLUSH` is understood.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// The flag `FUA` is understood.
    pub const SEND_FUA: u16 = 1 << 3;
    /// `TRIM` is understood.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// `WRITE_ZEROES` and its flag `NO_HOLE` are understood.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// The flag `DF` is understood; only with structured replies.
    pub const SEND_DF: u16 = 1 << 7;
    /// Several connections see one disk, also after a flush on only one of them.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// `CACHE` is understood.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// The flag `FAST_ZERO` is understood.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Options of the handshake (proto.md, Option types).
pub mod option {
    /// Choose an export and start; cannot be refused but by closing.
    pub const EXPORT_NAME: u32 = 1;
    /// End of the session.
    pub const ABORT: u32 = 2;
    /// Names of the exports.
    pub const LIST: u32 = 3;
    /// Upgrade to TLS.
    pub const STARTTLS: u32 = 5;
    /// The size and the flags of an export.
    pub const INFO: u32 = 6;
    /// The same, and start.
    pub const GO: u32 = 7;
    /// Structured replies from now on.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// Which metadata contexts there are.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Which of them `BLOCK_STATUS` is to report.
    pub const SET_META_CONTEXT: u32 = 10;
    /// 64-bit headers, an extension not served here.
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Types of a reply to an option (proto.md, Option reply types).
pub mod option_reply {
    /// Done.
    pub const ACK: u32 = 1;
    /// One export of a list.
    pub const SERVER: u32 = 2;
    /// One piece of information about an export.
    pub const INFO: u32 = 3;
    /// One metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// Set in every error.
    pub const ERROR: u32 = 1 << 31;
    /// Option unknown.
    pub const ERR_UNSUP: u32 = ERROR | 1;
    /// Option known and not allowed.
    pub const ERR_POLICY: u32 = ERROR | 2;
    /// Option malformed.
    pub const ERR_INVALID: u32 = ERROR | 3;
    /// Server is going away.
    pub const ERR_SHUTDOWN: u32 = ERROR | 7;
    /// Request or reply too large.
    pub const ERR_TOO_BIG: u32 = ERROR | 9;
}

/// Kinds of information in `INFO` and `GO` (proto.md, Option reply types, `NBD_REP_INFO`).
pub mod info {
    /// Size and transmission flags; always sent.
    pub const EXPORT: u16 = 0;
    /// The canonical name.
    pub const NAME: u16 = 1;
    /// A description for people.
    pub const DESCRIPTION: u16 = 2;
    /// Size constraints.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Request types (proto.md, Request types).
pub mod command {
    /// Data wanted.
    pub const READ: u16 = 0;
    /// Data follows.
    pub const WRITE: u16 = 1;
    /// End of the session; not answered.
    pub const DISC: u16 = 2;
    /// Make acknowledged writes permanent.
    pub const FLUSH: u16 = 3;
    /// Data no longer needed.
    pub const TRIM: u16 = 4;
    /// Data soon needed.
    pub const CACHE: u16 = 5;
    /// Zeroes, without sending them.
    pub const WRITE_ZEROES: u16 = 6;
    /// Metadata wanted.
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of a request (proto.md, Command flags).
pub mod command_flag {
    /// Answer when it is permanent.
    pub const FUA: u16 = 1 << 0;
    /// `WRITE_ZEROES`: keep the range allocated.
    pub const NO_HOLE: u16 = 1 << 1;
    /// `READ`: one chunk of content only.
    pub const DF: u16 = 1 << 2;
    /// `BLOCK_STATUS`: one extent only.
    pub const REQ_ONE: u16 = 1 << 3;
    /// `WRITE_ZEROES`: fail where it would be as slow as writing.
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// Structured reply chunks (proto.md, Structured reply flags; Structured reply types).
pub mod chunk {
    /// Flag: the last chunk of its reply.
    pub const DONE: u16 = 1 << 0;
    /// Nothing; only as the last one.
    pub const NONE: u16 = 0;
    /// Offset and data.
    pub const OFFSET_DATA: u16 = 1;
    /// Offset and length of zeroes.
    pub const OFFSET_HOLE: u16 = 2;
    /// Context and block descriptors.
    pub const BLOCK_STATUS: u16 = 5;
    /// Set in the type of every error chunk.
    pub const ERROR_BIT: u16 = 1 << 15;
    /// An error and a message.
    pub const ERROR: u16 = ERROR_BIT | 1;
    /// The same with the offset where it happened.
    pub const ERROR_OFFSET: u16 = ERROR_BIT | 2;
}

/// Flags of `base:allocation` (proto.md, `base:allocation` metadata context).
pub mod state {
    /// Not allocated.
    pub const HOLE: u32 = 1 << 0;
    /// Reads as zeroes.
    pub const ZERO: u32 = 1 << 1;
}

/// The one metadata context of the protocol itself (proto.md, The `base:` metadata namespace).
pub const BASE_ALLOCATION: &[u8] = b"base:allocation";
/// The query for every context of that namespace (same clause).
pub const BASE_WILDCARD: &[u8] = b"base:";

message! {
    /// The greeting of a newstyle server (proto.md, Newstyle negotiation).
    Greeting, 18 bytes {
        /// [`GREETING_MAGIC`].
        magic: u64,
        /// [`OPTION_MAGIC`].
        style: u64,
        /// See [`handshake_flag`].
        flags: u16,
    }
}

message! {
    /// The greeting of an old-style server; [`RESERVED_ZEROES`] follow (proto.md, Oldstyle negotiation).
    OldGreeting, 28 bytes {
        /// [`GREETING_MAGIC`].
        magic: u64,
        /// [`OLD_STYLE_MAGIC`].
        style: u64,
        /// Bytes of the export.
        size: u64,
        /// See [`transmission_flag`]; the upper half is reserved.
        flags: u32,
    }
}

message! {
    /// The head of an option; its data follows (proto.md, Newstyle negotiation).
    OptionHead, 16 bytes {
        /// [`OPTION_MAGIC`].
        magic: u64,
        /// See [`option`].
        option: u32,
        /// Bytes of data.
        length: u32,
    }
}

message! {
    /// The head of a reply to an option; its data follows (proto.md, Fixed newstyle negotiation).
    OptionReply, 20 bytes {
        /// [`OPTION_REPLY_MAGIC`].
        magic: u64,
        /// The option as it was sent.
        option: u32,
        /// See [`option_reply`].
        kind: u32,
        /// Bytes of data.
        length: u32,
    }
}

message! {
    /// The answer to `EXPORT_NAME`; [`RESERVED_ZEROES`] may follow (proto.md, Newstyle negotiation).
    ExportName, 10 bytes {
        /// Bytes of the export.
        size: u64,
        /// See [`transmission_flag`].
        flags: u16,
    }
}

message! {
    /// Information `EXPORT` (proto.md, Option reply types, `NBD_INFO_EXPORT`).
    InfoExport, 12 bytes {
        /// [`info::EXPORT`].
        kind: u16,
        /// Bytes of the export.
        size: u64,
        /// See [`transmission_flag`].
        flags: u16,
    }
}

message! {
    /// Information `BLOCK_SIZE` (proto.md, Option reply types, `NBD_INFO_BLOCK_SIZE`).
    InfoBlockSize, 14 bytes {
        /// [`info::BLOCK_SIZE`].
        kind: u16,
        /// Smallest unit of a request.
        minimum: u32,
        /// Unit that is efficient.
        preferred: u32,
        /// Largest payload.
        payload: u32,
    }
}

message! {
    /// A request; the payload of a `WRITE` follows (proto.md, Request message).
    Request, 28 bytes {
        /// [`REQUEST_MAGIC`].
        magic: u32,
        /// See [`command_flag`].
        flags: u16,
        /// See [`command`].
        command: u16,
        /// Whatever the client chose, to be repeated in the reply.
        cookie: u64,
        /// Where, in bytes.
        offset: u64,
        /// How much, in bytes.
        length: u32,
    }
}

message! {
    /// A simple reply; data of a successful `READ` follows (proto.md, Simple reply message).
    SimpleReply, 16 bytes {
        /// [`SIMPLE_REPLY_MAGIC`].
        magic: u32,
        /// 0 or an [`Errno`](crate::Errno).
        error: u32,
        /// The request's.
        cookie: u64,
    }
}

message! {
    /// The head of a structured reply chunk; its payload follows (proto.md, Structured reply chunk message).
    Chunk, 20 bytes {
        /// [`CHUNK_MAGIC`].
        magic: u32,
        /// [`chunk::DONE`] or 0.
        flags: u16,
        /// See [`chunk`].
        kind: u16,
        /// The request's.
        cookie: u64,
        /// Bytes of payload.
        length: u32,
    }
}

message! {
    /// A data chunk up to its data (proto.md, Structured reply types, `NBD_REPLY_TYPE_OFFSET_DATA`).
    DataChunk, 28 bytes {
        /// [`CHUNK_MAGIC`].
        magic: u32,
        /// [`chunk::DONE`] or 0.
        flags: u16,
        /// [`chunk::OFFSET_DATA`].
        kind: u16,
        /// The request's.
        cookie: u64,
        /// Bytes of data, and 8 for the offset.
        length: u32,
        /// Where the data lies in the export.
        offset: u64,
    }
}

message! {
    /// A hole chunk (proto.md, Structured reply types, `NBD_REPLY_TYPE_OFFSET_HOLE`).
    HoleChunk, 32 bytes {
        /// [`CHUNK_MAGIC`].
        magic: u32,
        /// [`chunk::DONE`] or 0.
        flags: u16,
        /// [`chunk::OFFSET_HOLE`].
        kind: u16,
        /// The request's.
        cookie: u64,
        /// Always 12.
        length: u32,
        /// Where the zeroes lie in the export.
        offset: u64,
        /// How many.
        zeroes: u32,
    }
}

message! {
    /// A block descriptor (proto.md, Structured reply types, `NBD_REPLY_TYPE_BLOCK_STATUS`).
    Descriptor, 8 bytes {
        /// Bytes that are alike.
        length: u32,
        /// See [`state`].
        flags: u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_laid_out_as_the_protocol_says() {
        let request = Request {
            magic: REQUEST_MAGIC,
            flags: command_flag::FUA,
            command: command::WRITE,
            cookie: 0x0102_0304_0506_0708,
            offset: 0x1000,
            length: 512,
        };
        let bytes = request.to_bytes();
        assert_eq!(bytes[..8], [0x25, 0x60, 0x95, 0x13, 0, 1, 0, 1]);
        assert_eq!(bytes[8..16], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(bytes[16..], [0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 2, 0]);
        assert_eq!(Request::from_bytes(&bytes), request);
    }

    #[test]
    fn the_greeting_spells_its_magic() {
        let greeting = Greeting { magic: GREETING_MAGIC, style: OPTION_MAGIC, flags: 3 };
        assert_eq!(&greeting.to_bytes(), b"NBDMAGICIHAVEOPT\0\x03");
    }
}
