//! Those who pass on a connection: each connects, sends one message with a descriptor, and is let
//! go. Nobody is waited for; whoever connects and sends nothing gives way in time.

use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::net::UnixStream},
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
};

use crate::{
    door::Door,
    poller::{Key, Poller},
};

/// How many may be about to pass something on, in the whole process; the oldest gives way.
const RECEIVERS_MAX: usize = 32;

/// How long one may take to do so.
const PATIENCE: Duration = Duration::from_secs(10);

/// How much text is taken with the descriptor, and not looked at. (`UNIX_BUFFER_SIZE` of blktap.)
const TEXT_BYTES: usize = 16 << 10;

/// How many descriptors are taken from one message, of which only the first counts.
const DESCRIPTORS_MAX: usize = 8;

/// Somebody who has connected and not passed on anything yet.
#[derive(Debug)]
struct Receiver {
    socket: UnixStream,
    /// The place of the VBD that the connection is for.
    vbd: usize,
    door: Door,
    until: Instant,
}

/// All of them, each in a place of its own.
#[derive(Debug, Default)]
pub(crate) struct Receivers {
    places: Vec<Option<Receiver>>,
}

/// What came.
#[derive(Debug)]
pub(crate) enum Passed {
    /// Nothing yet.
    Nothing,
    /// A message, or the end: with a descriptor, or without one.
    Over { vbd: usize, door: Door, connection: Option<OwnedFd> },
}

impl Receivers {
    /// Takes a connection that was accepted at a door of a VBD; its place.
    pub(crate) fn add(
        &mut self,
        poller: &Poller,
        socket: UnixStream,
        vbd: usize,
        door: Door,
    ) -> io::Result<usize> {
        let place = match self.places.iter().position(Option::is_none) {
            Some(place) => place,
            None if self.places.len() < RECEIVERS_MAX => {
                self.places.push(None);
                self.places.len() - 1
            }
            None => {
                let until = |place: &usize| self.places[*place].as_ref().map(|it| it.until);
                (0..self.places.len()).min_by_key(until).unwrap_or_default()
            }
        };
        // Whoever was there is closed, which takes him out of the poller.
        self.places[place] = None;
        poller.add(&socket, Key::Receiver(place), true, false)?;
        self.places[place] = Some(Receiver { socket, vbd, door, until: Instant::now() + PATIENCE });
        Ok(place)
    }

    /// Takes what one passes on, after which he is let go.
    pub(crate) fn receive(&mut self, place: usize) -> Passed {
        let Some(receiver) = self.places.get(place).and_then(Option::as_ref) else {
            return Passed::Nothing;
        };
        let connection = match descriptor(&receiver.socket) {
            Err(Errno::AGAIN | Errno::INTR) => return Passed::Nothing,
            // He is gone, which is as good as nothing.
            Err(_) => None,
            Ok(connection) => connection,
        };
        let (vbd, door) = (receiver.vbd, receiver.door);
        self.places[place] = None;
        Passed::Over { vbd, door, connection }
    }

    /// Lets go of those of a VBD.
    pub(crate) fn remove_of(&mut self, vbd: usize) {
        self.places.iter_mut().for_each(|place| {
            place.take_if(|receiver| receiver.vbd == vbd);
        });
    }

    /// Lets go of those who took too long.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.places.iter_mut().for_each(|place| {
            place.take_if(|receiver| receiver.until <= now);
        });
    }

    /// When somebody will have taken too long.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.places.iter().flatten().map(|receiver| receiver.until).min()
    }
}

/// The first descriptor of the next message; the others are closed.
fn descriptor(socket: &UnixStream) -> Result<Option<OwnedFd>, Errno> {
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
    use crate::polling::Polling;

    fn pass(socket: &UnixStream, text: &[u8], descriptors: &[&UnixStream]) {
        let descriptors: Vec<_> = descriptors.iter().map(|it| it.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(20))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
        sendmsg(socket, &[IoSlice::new(text)], &mut ancillary, SendFlags::empty()).unwrap();
    }

    fn receivers() -> (Poller, Receivers, UnixStream, usize) {
        let (poller, mut receivers) =
            (Poller::new(Polling::new(std::time::Duration::ZERO)).unwrap(), Receivers::default());
        let (ours, theirs) = UnixStream::pair().unwrap();
        let place = receivers.add(&poller, ours, 7, Door::Receiver).unwrap();
        (poller, receivers, theirs, place)
    }

    #[test]
    fn the_first_descriptor_counts_and_no_other_stays_open() {
        for count in [1, 2, DESCRIPTORS_MAX, 20] {
            let (_poller, mut receivers, theirs, place) = receivers();
            assert!(matches!(receivers.receive(place), Passed::Nothing));
            let pairs: Vec<_> = (0..count).map(|_| UnixStream::pair().unwrap()).collect();
            pass(&theirs, b"any text", &pairs.iter().map(|pair| &pair.0).collect::<Vec<_>>());
            let Passed::Over { vbd: 7, door: Door::Receiver, connection: Some(passed) } =
                receivers.receive(place)
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
            let (_poller, mut receivers, mut theirs, place) = receivers();
            theirs.write_all(text).unwrap();
            drop(theirs);
            assert!(matches!(receivers.receive(place), Passed::Over { connection: None, .. }));
            assert!(matches!(receivers.receive(place), Passed::Nothing), "and he is gone");
        }
    }

    #[test]
    fn whoever_says_nothing_gives_way() {
        let (poller, mut receivers, _theirs, _) = receivers();
        let mut kept = Vec::new();
        for _ in 0..3 * RECEIVERS_MAX {
            let (ours, theirs) = UnixStream::pair().unwrap();
            receivers.add(&poller, ours, 1, Door::ReceiverNew).unwrap();
            kept.push(theirs);
        }
        assert_eq!(receivers.places.len(), RECEIVERS_MAX);
        let deadline = receivers.next_deadline().unwrap();
        receivers.expire(deadline + PATIENCE);
        assert_eq!(receivers.next_deadline(), None);
    }
}
