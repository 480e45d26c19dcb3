//! Messages: a head of four numbers in host order, and a payload of at most 4096 bytes.

use std::io;

use rustix::io::Errno;

/// Length of the head in bytes.
const HEAD: usize = 16;
/// The longest payload, in bytes (`XENSTORE_PAYLOAD_MAX`).
const PAYLOAD_MAX: usize = 4096;

/// What is asked for (`enum xsd_sockmsg_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    Read = 2,
    TransactionStart = 6,
    TransactionEnd = 7,
    Write = 11,
    SetPermissions = 14,
}

/// A watch has fired; it answers nothing.
const WATCH_EVENT: u32 = 15;
/// The answer to a request that failed; the payload is the name of an errno.
const ERROR: u32 = 16;

/// A request. The answer to it carries `id`.
pub(super) fn message(kind: Kind, id: u32, transaction: u32, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    debug_assert!(length <= PAYLOAD_MAX, "a payload of {length} bytes");
    let head = [kind as u32, id, transaction, length as u32].map(u32::to_ne_bytes);
    [head.as_flattened(), &parts.concat()].concat()
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// The request that it answers.
    pub(super) id: u32,
    /// The payload, or the error that xenstored names.
    pub(super) result: Result<Vec<u8>, Errno>,
}

/// Takes the next answer off what was received; `None` where it is not complete. Events of watches are
/// skipped.
///
/// # Errors
/// `InvalidData` where no such message can be.
pub(super) fn take(received: &mut Vec<u8>) -> io::Result<Option<Answer>> {
    loop {
        let Some(head) = received.first_chunk::<HEAD>() else { return Ok(None) };
        let number = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|i| head[at + i]));
        let (kind, id, length) = (number(0), number(4), number(12) as usize);
        if length > PAYLOAD_MAX {
            let text = format!("xenstored sent a payload of {length} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        if received.len() < HEAD + length {
            return Ok(None);
        }
        let payload: Vec<u8> = received.drain(..HEAD + length).skip(HEAD).collect();
        match kind {
            WATCH_EVENT => {}
            ERROR => return Ok(Some(Answer { id, result: Err(errno(&payload)) })),
            _ => return Ok(Some(Answer { id, result: Ok(payload) })),
        }
    }
}

/// The errno of a name (`xsd_errors` of xs_wire.h). Of those that are not told apart here `EIO` is made.
fn errno(name: &[u8]) -> Errno {
    match name.strip_suffix(b"\0").unwrap_or(name) {
        b"ENOENT" => Errno::NOENT,
        b"EAGAIN" => Errno::AGAIN,
        b"EACCES" => Errno::ACCESS,
        b"EINVAL" => Errno::INVAL,
        b"ENOSPC" => Errno::NOSPC,
        b"EBUSY" => Errno::BUSY,
        b"EROFS" => Errno::ROFS,
        _ => Errno::IO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_in_pieces_is_taken_when_it_is_whole_and_events_are_skipped() {
        let sent = message(Kind::Write, 7, 0, &[b"a\0", b"b"]);
        assert_eq!(sent[..16], [11u32, 7, 0, 3].map(u32::to_ne_bytes).concat());
        let mut event = sent.clone();
        event[..4].copy_from_slice(&WATCH_EVENT.to_ne_bytes());
        let mut received = [event, sent].concat();
        let rest = received.split_off(30);
        assert!(take(&mut received).unwrap().is_none());
        received.extend(rest);
        let answer = take(&mut received).unwrap().unwrap();
        assert_eq!((answer.id, answer.result.unwrap()), (7, b"a\0b".to_vec()));
        assert!(received.is_empty());
    }

    #[test]
    fn a_payload_that_cannot_be_is_an_error_and_takes_no_memory() {
        let mut received = [2u32, 1, 0, 4097].map(u32::to_ne_bytes).concat();
        assert!(take(&mut received).is_err());
    }

    #[test]
    fn an_error_has_the_errno_that_xenstored_names() {
        let mut received = [ERROR, 3, 0, 7].map(u32::to_ne_bytes).concat();
        received.extend(b"EAGAIN\0");
        let answer = take(&mut received).unwrap().unwrap();
        assert_eq!((answer.id, answer.result), (3, Err(Errno::AGAIN)));
    }
}
