//! Processes that pass on a connection: each connects, sends one message with a descriptor, and is
//! disconnected. None of them is waited for; one that sends nothing is disconnected in time.

use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use block::Interest;
use rustix::{
    io::Errno,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
};
use slab::Slab;

use crate::poll::{Endpoint, Source, Sources, VbdKey, Watched};

/// How many may be connected at a time, in the whole process; with more, the oldest is disconnected.
const RECEIVERS_MAX: usize = 32;

/// How long one may take to send its message.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How much text is taken with the descriptor, and ignored. (`UNIX_BUFFER_SIZE` of blktap.)
const TEXT_BYTES: usize = 16 << 10;

/// How many descriptors are taken from one message, of which only the first counts.
const DESCRIPTORS_MAX: usize = 8;

/// A process that has connected and not passed on anything yet.
#[derive(Debug)]
struct Receiver {
    socket: Watched<UnixStream>,
    /// The VBD that the connection is for.
    vbd: VbdKey,
    endpoint: Endpoint,
    until: Instant,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Receivers {
    slots: Slab<Receiver>,
}

/// The outcome of receiving.
#[derive(Debug)]
pub(crate) enum Passed {
    /// Nothing has come yet.
    Nothing,
    /// A message, or the end: with a descriptor, or without one.
    Over { vbd: VbdKey, endpoint: Endpoint, connection: Option<OwnedFd> },
}

impl Receivers {
    /// Takes a connection that was accepted at a socket of a VBD, and gives its slot.
    pub(crate) fn add(
        &mut self,
        sources: &Sources,
        socket: UnixStream,
        vbd: VbdKey,
        endpoint: Endpoint,
    ) -> io::Result<usize> {
        if self.slots.len() >= RECEIVERS_MAX {
            let oldest = self.slots.iter().min_by_key(|(_, receiver)| receiver.until);
            if let Some(slot) = oldest.map(|(slot, _)| slot) {
                self.slots.remove(slot);
            }
        }
        let entry = self.slots.vacant_entry();
        let slot = entry.key();
        let readable = Interest { readable: true, writable: false };
        let socket = sources.watch(socket, Source::Receiver(slot), readable)?;
        let until = Instant::now() + RECEIVE_TIMEOUT;
        entry.insert(Receiver { socket, vbd, endpoint, until });
        Ok(slot)
    }

    /// Takes the connection that one passes on, and disconnects it.
    pub(crate) fn receive(&mut self, slot: usize) -> Passed {
        let Some(receiver) = self.slots.get(slot) else { return Passed::Nothing };
        let connection = match descriptor(&receiver.socket) {
            Err(Errno::AGAIN | Errno::INTR) => return Passed::Nothing,
            // It has gone away.
            Err(_) => None,
            Ok(connection) => connection,
        };
        let Receiver { vbd, endpoint, .. } = self.slots.remove(slot);
        Passed::Over { vbd, endpoint, connection }
    }

    /// Disconnects those of a VBD.
    pub(crate) fn remove_of(&mut self, vbd: VbdKey) {
        self.slots.retain(|_, receiver| receiver.vbd != vbd);
    }

    /// Disconnects those that took too long.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.slots.retain(|_, receiver| receiver.until > now);
    }

    /// When the next of them will have taken too long.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.slots.iter().map(|(_, receiver)| receiver.until).min()
    }
}

/// The first descriptor of the next message; the others are closed.
fn descriptor(socket: impl AsFd) -> Result<Option<OwnedFd>, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut text = [0; TEXT_BYTES];
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    recvmsg(socket, &mut [IoSliceMut::new(&mut text)], &mut ancillary, flags)?;
    let mut descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok(descriptors.next().and_then(|mut descriptors| descriptors.next()))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{IoSlice, Read, Write},
        os::fd::AsFd,
    };

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    use super::*;
    use crate::poll::{Poller, Polling};

    fn pass(socket: &UnixStream, text: &[u8], descriptors: &[&UnixStream]) {
        let descriptors: Vec<_> = descriptors.iter().map(|it| it.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(20))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
        sendmsg(socket, &[IoSlice::new(text)], &mut ancillary, SendFlags::empty()).unwrap();
    }

    fn receivers() -> (Poller, Receivers, UnixStream, usize) {
        let poller = Poller::new(Polling::new(Duration::ZERO)).unwrap();
        let mut receivers = Receivers::default();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let slot = receivers.add(poller.sources(), ours, 7, Endpoint::Receiver).unwrap();
        (poller, receivers, theirs, slot)
    }

    #[test]
    fn the_first_descriptor_counts_and_no_other_stays_open() {
        for count in [1, 2, DESCRIPTORS_MAX, 20] {
            let (_poller, mut receivers, theirs, slot) = receivers();
            assert!(matches!(receivers.receive(slot), Passed::Nothing));
            let pairs: Vec<_> = (0..count).map(|_| UnixStream::pair().unwrap()).collect();
            pass(&theirs, b"any text", &pairs.iter().map(|pair| &pair.0).collect::<Vec<_>>());
            let Passed::Over { vbd: 7, endpoint: Endpoint::Receiver, connection: Some(passed) } =
                receivers.receive(slot)
            else {
                panic!("nothing came of {count}");
            };
            let mut ends = Vec::new();
            for (left, right) in pairs {
                drop(left);
                ends.push(right);
            }
            UnixStream::from(passed).write_all(b"x").unwrap();
            for (number, mut end) in ends.into_iter().enumerate() {
                end.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let mut bytes = Vec::new();
                end.read_to_end(&mut bytes).unwrap();
                assert_eq!(bytes, if number == 0 { b"x".as_slice() } else { b"" });
            }
        }
    }

    #[test]
    fn a_message_without_a_descriptor_and_an_end_without_a_message_are_over() {
        for text in [b"text".as_slice(), b""] {
            let (_poller, mut receivers, mut theirs, slot) = receivers();
            theirs.write_all(text).unwrap();
            drop(theirs);
            assert!(matches!(receivers.receive(slot), Passed::Over { connection: None, .. }));
            assert!(matches!(receivers.receive(slot), Passed::Nothing), "it is disconnected");
        }
    }

    #[test]
    fn a_process_that_sends_nothing_is_disconnected() {
        let (poller, mut receivers, _theirs, _) = receivers();
        let mut kept = Vec::new();
        for _ in 0..3 * RECEIVERS_MAX {
            let (ours, theirs) = UnixStream::pair().unwrap();
            receivers.add(poller.sources(), ours, 1, Endpoint::ReceiverNew).unwrap();
            kept.push(theirs);
        }
        assert_eq!(receivers.slots.len(), RECEIVERS_MAX);
        let deadline = receivers.next_deadline().unwrap();
        receivers.expire(deadline + RECEIVE_TIMEOUT);
        assert_eq!(receivers.next_deadline(), None);
    }
}
