//! Replies of a server, parsed as they come: a status may be longer than what is kept of it.

use block::StatusExtent;
use nbd::{
    Errno,
    wire::{self, chunk, state},
};

use crate::error::Error;

/// The longest error message that is believed, with the numbers before it, in bytes.
const MESSAGE_BYTES_MAX: u32 = 4096 + 64;

/// A part of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The request is done, unless a part before this one said an error.
    Done(u64),
    /// The request has failed; [`Part::Done`] still comes where this is not said to be the last part.
    Failed { cookie: u64, errno: Errno, message: String, is_last: bool },
    /// The status of a range of the destination, in order.
    Status { cookie: u64, extent: StatusExtent },
}

/// A status whose ranges are still coming.
#[derive(Clone, Copy, Debug)]
struct Coming {
    cookie: u64,
    bytes_left: u32,
    is_last: bool,
}

/// The state between two parts.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    coming: Option<Coming>,
    /// The number of `base:allocation`.
    allocation: Option<u32>,
}

impl Replies {
    pub(crate) fn new(allocation: Option<u32>) -> Self {
        Self { coming: None, allocation }
    }

    /// Takes the first part of `input`: how many bytes it has, and what it says. `None`: more bytes are
    /// needed. A part may say nothing.
    pub(crate) fn next(&mut self, input: &[u8]) -> Result<Option<(usize, Option<Part>)>, Error> {
        if let Some(coming) = self.coming {
            return Ok(self.extent(coming, input));
        }
        let Some(magic) = input.first_chunk() else { return Ok(None) };
        match u32::from_be_bytes(*magic) {
            wire::SIMPLE_REPLY_MAGIC => Ok(input.first_chunk().map(|bytes| {
                let reply = wire::SimpleReply::from_bytes(bytes);
                (bytes.len(), Some(simple(reply)))
            })),
            wire::CHUNK_MAGIC => self.chunk(input),
            _ => Err(Error::protocol("sends bytes that are no reply")),
        }
    }

    fn chunk(&mut self, input: &[u8]) -> Result<Option<(usize, Option<Part>)>, Error> {
        let Some((head, rest)) = input.split_first_chunk() else { return Ok(None) };
        let (head_bytes, head) = (head.len(), wire::Chunk::from_bytes(head));
        let (cookie, is_last) = (head.cookie, head.flags & chunk::DONE != 0);
        let last = |cookie| is_last.then_some(Part::Done(cookie));
        if head.kind == chunk::BLOCK_STATUS {
            let Some(id) = rest.first_chunk() else { return Ok(None) };
            let is_ours = Some(u32::from_be_bytes(*id)) == self.allocation;
            if !is_ours || head.length < 4 || head.length % 8 != 4 {
                return Err(Error::protocol("sends a malformed block status"));
            }
            self.coming = Some(Coming { cookie, bytes_left: head.length - 4, is_last });
            return Ok(Some((head_bytes + id.len(), None)));
        }
        if head.length > MESSAGE_BYTES_MAX {
            return Err(Error::protocol("sends data that it was not asked for"));
        }
        let Some(payload) = rest.get(..head.length as usize) else { return Ok(None) };
        let took = head_bytes + payload.len();
        if head.kind & chunk::ERROR_BIT != 0 {
            let number = payload.first_chunk().copied().map_or(0, u32::from_be_bytes);
            let errno = Errno::from_code(number).unwrap_or(Errno::EINVAL);
            let length =
                payload.get(4..6).map_or(0, |it| usize::from(it[0]) << 8 | usize::from(it[1]));
            let message = payload.get(6..6 + length).unwrap_or_default();
            let message = String::from_utf8_lossy(message).into_owned();
            return Ok(Some((took, Some(Part::Failed { cookie, errno, message, is_last }))));
        }
        if head.kind != chunk::NONE || head.length != 0 {
            return Err(Error::protocol("sends data that it was not asked for"));
        }
        Ok(Some((took, last(cookie))))
    }

    /// One range of a status, or its end.
    fn extent(&mut self, coming: Coming, input: &[u8]) -> Option<(usize, Option<Part>)> {
        let Coming { cookie, bytes_left, is_last } = coming;
        if bytes_left == 0 {
            self.coming = None;
            return Some((0, is_last.then_some(Part::Done(cookie))));
        }
        let bytes = input.first_chunk::<{ wire::Descriptor::BYTES }>()?;
        let descriptor = wire::Descriptor::from_bytes(bytes);
        self.coming = Some(Coming { bytes_left: bytes_left - bytes.len() as u32, ..coming });
        let extent = StatusExtent {
            length: descriptor.length.into(),
            hole: descriptor.flags & state::HOLE != 0,
            zero: descriptor.flags & state::ZERO != 0,
        };
        Some((bytes.len(), Some(Part::Status { cookie, extent })))
    }
}

fn simple(reply: wire::SimpleReply) -> Part {
    let cookie = reply.cookie;
    match Errno::from_code(reply.error) {
        None => Part::Done(cookie),
        Some(errno) => Part::Failed { cookie, errno, message: String::new(), is_last: true },
    }
}
