//! Saves of SRs on a disk of the host: what is in a RAM SR, kept over a restart.
//!
//! A *generation* is one state of the SR. It refers to data that earlier generations have written, so a save
//! of an SR of which little has changed is small and fast to write. Everything is read and hashed each time:
//! what lies in a disk's own layer cannot be seen to be unchanged otherwise.
//!
//! * [`Saves`]: the directory of one SR's saves; which generations there are; the mark of an SR in use.
//! * [`Saves::write`]: makes a generation of a [`Still`](store::Still).
//! * [`Generation`]: reads one, and fills an SR with it.
//!
//! The volume plugin calls this for SR.detach, SR.attach and its commands `save` and `restore`.
//!
//! # Files
//!
//! ```text
//! <save-dir>/<uuid of the SR>/<number>.manifest   a generation: everything but the bytes of blocks
//!                             <number>.data       bytes of blocks that were new in this generation
//!                             in-use              there while the SR is attached: it holds more than the save
//!                             *.new               being written
//! ```
//!
//! Numbers are eight hexadecimal digits, and the largest is the newest. A manifest is written under another
//! name and renamed into place when it and all data that it refers to are on the disk: that commits. Then the
//! newest two generations are kept, with the data files that either refers to, and everything else is removed.
//! A killed save leaves files that no manifest names, which the next save removes.
//!
//! # Format, version 2
//!
//! All integers are little endian. A text is a `u32` length and UTF-8. A count is a `u32`.
//!
//! A data file begins with the 8 bytes `ram-data`, the version as `u32`, and its number as `u32`. After that
//! come zstd frames, each of the blocks of one unit, one behind the other; no frame says where it belongs.
//!
//! A manifest begins with the 8 bytes `ram-save`, the version as `u32`, a `u32` that is 0, the lengths of the
//! body as it is stored and as it is, each a `u64`, and the BLAKE3 hash (32 bytes) of these 32 bytes and the
//! stored body. The body is one zstd frame, and has, one behind the other:
//!
//! | part | content |
//! |---|---|
//! | head | a text: a JSON object with `saved` (seconds since 1970), `program` (its version), `left_out` (damaged volumes, each with why); unknown fields are ignored |
//! | SR | a text: the SR's record as the store has it, JSON with the fields that this program does not know; `u32`: the next number of a layer |
//! | volumes | a count, and for each a text: its record, likewise |
//! | indexes | a count, and for each its number (`u32`), how many blocks it refers to (`u64`, all ones: not known), a count, and per entry chunk and layer (`u32` each); from version 2 on another count, and for each chunk of which it says something else of single blocks the chunk (`u32`), a count, and per block its position in the chunk and its entry (`u32` each) |
//! | pages | a count, and for each the layer and the chunk (`u32` each), and 1024 entries (`u32` each) |
//! | data files | a count, and for each its number (`u32`) and how many bytes of it have to be there (`u64`) |
//! | units | a count, and for each 64 bytes: layer, number (`u32` each), mask (`u64`), hash (32 bytes), data file (`u32`), length of the frame (`u32`), its offset in that file (`u64`) |
//!
//! A unit is 64 blocks of 4 KiB of a layer; the mask has a bit for each block that holds data, the lowest for the
//! first, and the bytes of these blocks stand in their order in the frame. The hash is BLAKE3, of the mask (8
//! bytes) and those bytes: no guest can make two units that are taken for one another. Entries of indexes and
//! pages have the meaning that the store gives them.
//!
//! A manifest that has nothing of version 2 says that it is of version 1, as all data files do: earlier programs
//! read it. A later version of the format is refused by name and left as it is. A field that an earlier program may
//! ignore goes into the head.

mod directory;
mod format;
mod progress;
mod read;
mod step;
mod time;
mod work;
mod write;

pub use self::{
    directory::Saves,
    progress::Progress,
    read::{Found, Generation},
    write::Written,
};
