//! From the numbers of a request to something that may be carried out: the one place that checks.
//!
//! A [`wire::Request`] is what arrived. A [`Request`] is what `transmission` can carry out without
//! looking at it again: its range lies inside the export and is not empty, its flags fit its command,
//! and it changes nothing that is read-only.

use crate::{
    errno::Errno,
    wire::{self, PAYLOAD_BYTES_MAX, command, command_flag as flag},
};

/// A request that may be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// `whole`: in one chunk.
    Read {
        offset: u64,
        length: u32,
        whole: bool,
    },
    /// `length` bytes of payload follow.
    Write {
        offset: u64,
        length: u32,
        durable: bool,
    },
    /// Nothing follows any more.
    Disconnect,
    /// Everything acknowledged is to be permanent.
    Flush,
    Trim {
        offset: u64,
        length: u32,
        durable: bool,
    },
    Cache {
        offset: u64,
        length: u32,
    },
    /// `keep`: the range stays allocated. `fast`: rather fail than be slow.
    WriteZeroes {
        offset: u64,
        length: u32,
        keep: bool,
        durable: bool,
        fast: bool,
    },
    /// `one`: a single extent.
    Status {
        offset: u64,
        length: u32,
        one: bool,
    },
    /// An empty range, which the protocol leaves open: it succeeds and does nothing.
    Nothing,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) errno: Errno,
    pub(super) message: &'static str,
}

/// The limits that requests are checked against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes of the export.
    pub(super) size: u64,
    pub(super) read_only: bool,
    /// Structured replies were negotiated.
    pub(super) structured: bool,
    /// So was `base:allocation`.
    pub(super) allocation: bool,
}

const fn refusal(errno: Errno, message: &'static str) -> Refusal {
    Refusal { errno, message }
}

/// Checks a request (proto.md, Request types; Error values). Does not look at the payload.
#[inline]
pub(super) fn check(raw: &wire::Request, limits: &Limits) -> Result<Request, Refusal> {
    let &wire::Request { flags, offset, length, .. } = raw;
    let durable = flags & flag::FUA != 0;
    let request = match raw.command {
        command::READ => {
            let dont_fragment = if limits.structured { flag::DF } else { 0 };
            allow(flags, flag::FUA | dont_fragment)?;
            range(raw, limits, Errno::EINVAL)?;
            payload(length)?;
            Request::Read { offset, length, whole: flags & flag::DF != 0 }
        }
        command::WRITE => {
            allow(flags, flag::FUA)?;
            change(raw, limits)?;
            payload(length)?;
            Request::Write { offset, length, durable }
        }
        // Whatever else it says, the client is leaving.
        command::DISC => return Ok(Request::Disconnect),
        command::FLUSH => {
            allow(flags, flag::FUA)?;
            if offset != 0 || length != 0 {
                return Err(refusal(Errno::EINVAL, "a flush has no range"));
            }
            return Ok(Request::Flush);
        }
        command::TRIM => {
            allow(flags, flag::FUA)?;
            if limits.read_only {
                return Err(READ_ONLY);
            }
            range(raw, limits, Errno::EINVAL)?;
            Request::Trim { offset, length, durable }
        }
        command::CACHE => {
            allow(flags, flag::FUA)?;
            range(raw, limits, Errno::EINVAL)?;
            Request::Cache { offset, length }
        }
        command::WRITE_ZEROES => {
            allow(flags, flag::FUA | flag::NO_HOLE | flag::FAST_ZERO)?;
            change(raw, limits)?;
            Request::WriteZeroes {
                offset,
                length,
                keep: flags & flag::NO_HOLE != 0,
                durable,
                fast: flags & flag::FAST_ZERO != 0,
            }
        }
        command::BLOCK_STATUS => {
            allow(flags, flag::FUA | flag::REQ_ONE)?;
            if !limits.allocation {
                return Err(refusal(Errno::EINVAL, "no metadata context was negotiated"));
            }
            range(raw, limits, Errno::EINVAL)?;
            if length == 0 {
                return Err(refusal(Errno::EINVAL, "the status of an empty range"));
            }
            Request::Status { offset, length, one: flags & flag::REQ_ONE != 0 }
        }
        _ => return Err(refusal(Errno::EINVAL, "unknown command")),
    };
    Ok(if length == 0 { Request::Nothing } else { request })
}

const READ_ONLY: Refusal = refusal(Errno::EPERM, "the export is read-only");

#[inline]
fn allow(flags: u16, known: u16) -> Result<(), Refusal> {
    if flags & !known == 0 {
        Ok(())
    } else {
        Err(refusal(Errno::EINVAL, "a flag that this command does not have"))
    }
}

#[inline]
fn range(raw: &wire::Request, limits: &Limits, errno: Errno) -> Result<(), Refusal> {
    match raw.offset.checked_add(u64::from(raw.length)) {
        Some(end) if end <= limits.size => Ok(()),
        _ => Err(refusal(errno, "beyond the end of the export")),
    }
}

#[inline]
fn change(raw: &wire::Request, limits: &Limits) -> Result<(), Refusal> {
    if limits.read_only {
        return Err(READ_ONLY);
    }
    range(raw, limits, Errno::ENOSPC)
}

#[inline]
fn payload(length: u32) -> Result<(), Refusal> {
    if length <= PAYLOAD_BYTES_MAX {
        Ok(())
    } else {
        Err(refusal(Errno::EINVAL, "larger than the largest payload"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { size: 1 << 30, read_only: false, structured: true, allocation: true };

    fn raw(command: u16, flags: u16, offset: u64, length: u32) -> wire::Request {
        wire::Request { magic: wire::REQUEST_MAGIC, flags, command, cookie: 1, offset, length }
    }

    fn errno(raw: wire::Request, limits: &Limits) -> Option<Errno> {
        check(&raw, limits).err().map(|refusal| refusal.errno)
    }

    #[test]
    fn a_range_beyond_the_end_is_refused_as_the_command_demands() {
        for (command, expected) in [
            (command::READ, Errno::EINVAL),
            (command::WRITE, Errno::ENOSPC),
            (command::TRIM, Errno::EINVAL),
            (command::CACHE, Errno::EINVAL),
            (command::WRITE_ZEROES, Errno::ENOSPC),
            (command::BLOCK_STATUS, Errno::EINVAL),
        ] {
            for offset in [(1 << 30) - 511, 1 << 30, u64::MAX - 100, u64::MAX] {
                let refused = errno(raw(command, 0, offset, 512), &LIMITS);
                assert_eq!(refused, Some(expected), "command {command} at {offset}");
            }
            assert_eq!(errno(raw(command, 0, (1 << 30) - 512, 512), &LIMITS), None);
        }
    }

    #[test]
    fn every_flag_belongs_to_its_commands() {
        let all = [flag::FUA, flag::NO_HOLE, flag::DF, flag::REQ_ONE, flag::FAST_ZERO, 1 << 5];
        for (command, own) in [
            (command::READ, flag::DF),
            (command::WRITE, 0),
            (command::FLUSH, 0),
            (command::TRIM, 0),
            (command::CACHE, 0),
            (command::WRITE_ZEROES, flag::NO_HOLE | flag::FAST_ZERO),
            (command::BLOCK_STATUS, flag::REQ_ONE),
        ] {
            for flag in all {
                let length = if command == command::FLUSH { 0 } else { 512 };
                let refused = errno(raw(command, flag, 0, length), &LIMITS);
                let allowed = flag == flag::FUA || flag & own != 0;
                assert_eq!(refused.is_none(), allowed, "command {command} flag {flag:#x}");
            }
        }
        let simple = Limits { structured: false, ..LIMITS };
        assert_eq!(errno(raw(command::READ, flag::DF, 0, 512), &simple), Some(Errno::EINVAL));
    }

    #[test]
    fn what_is_read_only_is_not_changed() {
        let limits = Limits { read_only: true, ..LIMITS };
        for command in [command::WRITE, command::TRIM, command::WRITE_ZEROES] {
            assert_eq!(errno(raw(command, 0, 0, 512), &limits), Some(Errno::EPERM));
        }
        assert_eq!(errno(raw(command::READ, 0, 0, 512), &limits), None);
    }

    #[test]
    fn empty_ranges_do_nothing_but_are_checked() {
        assert_eq!(check(&raw(command::READ, 0, 1 << 30, 0), &LIMITS), Ok(Request::Nothing));
        assert_eq!(errno(raw(command::WRITE, 0, 1 << 31, 0), &LIMITS), Some(Errno::ENOSPC));
        assert_eq!(errno(raw(command::BLOCK_STATUS, 0, 0, 0), &LIMITS), Some(Errno::EINVAL));
        assert_eq!(errno(raw(command::FLUSH, 0, 0, 1), &LIMITS), Some(Errno::EINVAL));
        assert_eq!(errno(raw(4711, 0, 0, 0), &LIMITS), Some(Errno::EINVAL));
    }
}
