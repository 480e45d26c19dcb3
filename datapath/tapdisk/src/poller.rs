//! What the loop waits for, by epoll(7): level-triggered, a key for each descriptor.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{Timespec, epoll},
    io::Errno,
};

use crate::{
    door::Door,
    polling::{Looked, Polling},
};

/// Events taken at a time.
const EVENTS_MAX: usize = 64;

/// What [`Door`]s are packed as, from this on.
const FIRST_DOOR: u64 = 5;

/// Whose descriptor is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// A signal has come.
    Signal,
    /// Somebody wants to speak to the process.
    Control,
    /// A conversation goes on: its key.
    Conversation(usize),
    /// Somebody wants to use a disk: the VBD's place.
    Door(usize, Door),
    /// A client of a disk: its place.
    Client(usize),
    /// Somebody who is about to pass on a connection: his place.
    Receiver(usize),
}

impl Key {
    fn pack(self) -> u64 {
        let (kind, place) = match self {
            Self::Signal => (0, 0),
            Self::Control => (1, 0),
            Self::Conversation(place) => (2, place),
            Self::Client(place) => (3, place),
            Self::Receiver(place) => (4, place),
            Self::Door(place, door) => (FIRST_DOOR + door as u64, place),
        };
        kind << 32 | place as u64
    }

    fn unpack(packed: u64) -> Self {
        let place = usize::try_from(packed & u64::from(u32::MAX)).expect("32 bits");
        match packed >> 32 {
            0 => Self::Signal,
            1 => Self::Control,
            2 => Self::Conversation(place),
            3 => Self::Client(place),
            4 => Self::Receiver(place),
            door => {
                Self::Door(place, Door::ALL[usize::try_from(door - FIRST_DOOR).expect("a door")])
            }
        }
    }
}

/// The set of descriptors that are waited for.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
    ready: Vec<Key>,
    polling: Polling,
}

impl Poller {
    pub(crate) fn new(polling: Polling) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, ready: Vec::with_capacity(EVENTS_MAX), polling })
    }

    /// Waits for a descriptor from now on, until it is closed.
    pub(crate) fn add(&self, fd: impl AsFd, key: Key, read: bool, write: bool) -> io::Result<()> {
        let data = epoll::EventData::new_u64(key.pack());
        Ok(epoll::add(&self.epoll, fd, data, flags(read, write))?)
    }

    /// Waits for something else of it.
    pub(crate) fn change(
        &self,
        fd: impl AsFd,
        key: Key,
        read: bool,
        write: bool,
    ) -> io::Result<()> {
        let data = epoll::EventData::new_u64(key.pack());
        Ok(epoll::modify(&self.epoll, fd, data, flags(read, write))?)
    }

    /// Waits for nothing of it any more, not even that its other end is closed.
    pub(crate) fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    /// What is ready, at the latest after `timeout` (`None`: whenever).
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<&[Key]> {
        if timeout == Some(Duration::ZERO) {
            self.sleep(timeout)?;
            return Ok(&self.ready);
        }
        let start = Instant::now();
        if let Some(look) = self.polling.look() {
            let looked = self.look(start, timeout.map_or(look, |timeout| timeout.min(look)))?;
            self.polling.looked(looked);
            if !self.ready.is_empty() {
                return Ok(&self.ready);
            }
        }
        self.sleep(timeout)?;
        if !self.ready.is_empty() {
            self.polling.slept(start.elapsed());
        }
        Ok(&self.ready)
    }

    /// Looks again and again for so long.
    fn look(&mut self, start: Instant, time: Duration) -> io::Result<Looked> {
        let mut before = start;
        loop {
            self.sleep(Some(Duration::ZERO))?;
            let now = Instant::now();
            if Polling::is_crowded(now - before) {
                return Ok(Looked::Crowded);
            }
            if !self.ready.is_empty() {
                return Ok(Looked::Found);
            }
            if now - start >= time {
                return Ok(Looked::InVain);
            }
            before = now;
        }
    }

    /// Lets the kernel say what is ready.
    fn sleep(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.map(|timeout| {
            Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: 60, tv_nsec: 0 })
        });
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); EVENTS_MAX];
        self.ready.clear();
        match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Ok((events, _)) => {
                self.ready.extend(events.iter().map(|event| Key::unpack(event.data.u64())));
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

fn flags(read: bool, write: bool) -> epoll::EventFlags {
    let mut flags = epoll::EventFlags::empty();
    flags.set(epoll::EventFlags::IN, read);
    flags.set(epoll::EventFlags::OUT, write);
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_comes_back_as_it_was() {
        let doors = Door::ALL.map(|door| Key::Door(9, door));
        let others = [
            Key::Signal,
            Key::Control,
            Key::Conversation(1),
            Key::Client(2),
            Key::Receiver(u32::MAX as usize),
        ];
        for key in doors.into_iter().chain(others) {
            assert_eq!(Key::unpack(key.pack()), key);
        }
    }
}
