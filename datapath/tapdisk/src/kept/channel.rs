//! The messages between a keeper and its server: on a socket that is the server's standard input, 16 bytes
//! each, with descriptors (SCM_RIGHTS, unix(7)).
//!
//! A keeper is never replaced while it lives, and its servers are of later versions: a message that is
//! known here keeps its number and its meaning for ever.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};

/// The most descriptors of one message.
pub(crate) const DESCRIPTORS_MAX: usize = 8;

const MESSAGE_BYTES: usize = 16;

/// How long a message may wait for room in the socket: for a keeper that the host does not let run.
const SEND_TIMEOUT: Duration = Duration::from_millis(200);

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// To the server, first, with the file of the state: so many `Keep` follow.
    Hello { groups: u32 },
    /// The descriptors of a group. To the keeper: to be kept. To the server: they were kept.
    Keep { group: u32 },
    /// To the keeper: a group is closed.
    Drop { group: u32 },
    /// To the keeper: the server serves what it has taken over.
    Ready,
}

impl Message {
    fn encode(self) -> [u8; MESSAGE_BYTES] {
        let (kind, argument): (u32, u32) = match self {
            Self::Hello { groups } => (1, groups),
            Self::Keep { group } => (2, group),
            Self::Drop { group } => (3, group),
            Self::Ready => (4, 0),
        };
        let mut bytes = [0; MESSAGE_BYTES];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[4..8].copy_from_slice(&argument.to_le_bytes());
        bytes
    }

    /// `None`: a message of a later version, which does not matter to this one.
    fn decode(bytes: [u8; MESSAGE_BYTES]) -> Option<Self> {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        match word(0) {
            1 => Some(Self::Hello { groups: word(4) }),
            2 => Some(Self::Keep { group: word(4) }),
            3 => Some(Self::Drop { group: word(4) }),
            4 => Some(Self::Ready),
            _ => None,
        }
    }
}

/// The outcome of receiving.
#[derive(Debug)]
pub(crate) enum Received {
    /// A message, and its descriptors. `None`: one that is not known.
    Message(Option<Message>, Vec<OwnedFd>),
    /// Nothing has come.
    Nothing,
    /// The other process is dead.
    End,
}

/// Sends a message with descriptors. When this returns, the message reaches the other process also if this
/// one dies.
pub(crate) fn send(
    socket: &UnixStream,
    message: Message,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    if descriptors.len() > DESCRIPTORS_MAX {
        return Err(Errno::INVAL.into());
    }
    let bytes = message.encode();
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        match sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, flags) {
            Ok(MESSAGE_BYTES) => return Ok(()),
            Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait_for_room(socket)?,
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn wait_for_room(socket: &UnixStream) -> io::Result<()> {
    let timeout = Timespec::try_from(SEND_TIMEOUT).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&timeout)) {
        Ok(0) => Err(Errno::TIMEDOUT.into()),
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Receives the next message; waits for it if that is asked for.
pub(crate) fn receive(socket: impl AsFd, wait: bool) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; MESSAGE_BYTES];
    let waiting = if wait { RecvFlags::WAITALL } else { RecvFlags::DONTWAIT };
    let flags = waiting | RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(Received::Nothing),
            // It has closed its end with messages of ours in it.
            Err(Errno::CONNRESET) => return Ok(Received::End),
            Err(errno) => return Err(errno.into()),
            Ok(received) => break received.bytes,
        }
    };
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            descriptors.extend(passed);
        }
    }
    match received {
        0 => Ok(Received::End),
        MESSAGE_BYTES => Ok(Received::Message(Message::decode(bytes), descriptors)),
        // Messages are sent whole: this is no keeper and no server.
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn messages_arrive_one_by_one_with_their_own_descriptors() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let file = File::open("/dev/null").unwrap();
        let sent = [
            (Message::Hello { groups: 2 }, 1),
            (Message::Keep { group: 7 }, DESCRIPTORS_MAX),
            (Message::Keep { group: 8 }, 4),
            (Message::Drop { group: 7 }, 0),
            (Message::Ready, 0),
        ];
        for (message, count) in sent {
            send(&ours, message, &vec![file.as_fd(); count]).unwrap();
        }
        drop(ours);
        for (message, count) in sent {
            let Received::Message(Some(found), descriptors) = receive(&theirs, false).unwrap()
            else {
                panic!("{message:?} does not come");
            };
            assert_eq!((found, descriptors.len()), (message, count));
        }
        assert!(matches!(receive(&theirs, true).unwrap(), Received::End));
    }

    #[test]
    fn a_message_of_a_later_version_is_left_out_and_none_is_waited_for_in_vain() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        assert!(matches!(receive(&theirs, false).unwrap(), Received::Nothing));
        rustix::io::write(&ours, &[9; MESSAGE_BYTES]).unwrap();
        assert!(matches!(receive(&theirs, true).unwrap(), Received::Message(None, _)));
    }
}
