//! The descriptors that the loop waits for, by epoll(7), level-triggered.
//!
//! [`Sources`] has a slot for each descriptor, which says to what an event of it belongs. A descriptor is
//! registered by wrapping its owner into [`Watched`], and is deregistered when that is dropped: also
//! where another process holds a copy of the descriptor, for which epoll would go on reporting events.

use std::{
    cell::RefCell,
    io,
    mem::MaybeUninit,
    ops::{Deref, DerefMut},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
    time::{Duration, Instant},
};

use block::Interest;
use rustix::{
    event::{Timespec, epoll},
    io::Errno,
};
use slab::Slab;

use super::{
    polling::{Outcome, Polling},
    source::Source,
};

/// Events taken at a time.
const EVENTS_MAX: usize = 64;

/// The set of descriptors that are waited for. A clone is the same set.
#[derive(Clone, Debug)]
pub(crate) struct Sources(Rc<Registry>);

#[derive(Debug)]
struct Registry {
    epoll: OwnedFd,
    slots: RefCell<Slab<Source>>,
}

impl Sources {
    fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self(Rc::new(Registry { epoll, slots: RefCell::default() })))
    }

    /// Waits for `interest` of a descriptor from now on, until its owner is dropped.
    pub(crate) fn watch<T: AsFd>(
        &self,
        owner: T,
        source: Source,
        interest: Interest,
    ) -> io::Result<Watched<T>> {
        let slot = self.0.slots.borrow_mut().insert(source);
        let mut watched = Watched { sources: self.clone(), slot, interest: NONE, owner };
        watched.wait_for(interest)?;
        Ok(watched)
    }

    fn get(&self, slot: u64) -> Option<Source> {
        self.0.slots.borrow().get(usize::try_from(slot).ok()?).copied()
    }
}

/// How often requests without an event are looked for between two questions to the kernel, which take
/// longer.
const LOOKS: u32 = 16;

/// Clients some of whose requests no event tells of, as long as they are looked for.
pub(crate) trait Unannounced {
    /// Looks for such requests; whether there are any.
    fn look(&mut self) -> bool;

    /// The loop is about to sleep: from now on an event tells of the next request. Whether there are any
    /// already.
    fn prepare_to_wait(&mut self) -> bool;

    /// Until when they are looked for in any case, whether that has paid or not.
    fn polled_until(&self) -> Option<Instant>;
}

/// Every request has an event.
impl Unannounced for () {
    fn polled_until(&self) -> Option<Instant> {
        None
    }

    fn look(&mut self) -> bool {
        false
    }

    fn prepare_to_wait(&mut self) -> bool {
        false
    }
}

const NONE: Interest = Interest { readable: false, writable: false };

/// The owner of a descriptor that the loop waits for.
#[derive(Debug)]
pub(crate) struct Watched<T: AsFd> {
    sources: Sources,
    slot: usize,
    interest: Interest,
    owner: T,
}

impl<T: AsFd> Watched<T> {
    /// Waits for something else of the descriptor. Waiting for nothing takes it out of the set: epoll
    /// would report a hangup again and again.
    pub(crate) fn wait_for(&mut self, wanted: Interest) -> io::Result<()> {
        let before = self.interest;
        if before == wanted {
            return Ok(());
        }
        let epoll = &self.sources.0.epoll;
        let data = epoll::EventData::new_u64(self.slot as u64);
        if wanted == NONE {
            epoll::delete(epoll, &self.owner)?;
        } else if before == NONE {
            epoll::add(epoll, &self.owner, data, flags(wanted))?;
        } else {
            epoll::modify(epoll, &self.owner, data, flags(wanted))?;
        }
        self.interest = wanted;
        Ok(())
    }

    /// Gives the owner another descriptor, for which the same is waited for.
    pub(crate) fn replace<E: From<io::Error>>(
        &mut self,
        replace: impl FnOnce(&mut T) -> Result<(), E>,
    ) -> Result<(), E> {
        let interest = self.interest;
        self.wait_for(NONE)?;
        let replaced = replace(&mut self.owner);
        self.wait_for(interest)?;
        replaced
    }

    /// From now on events belong to another source.
    pub(crate) fn set_source(&mut self, source: Source) {
        self.sources.0.slots.borrow_mut()[self.slot] = source;
    }
}

impl<T: AsFd> Deref for Watched<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.owner
    }
}

impl<T: AsFd> DerefMut for Watched<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.owner
    }
}

impl<T: AsFd> AsRef<T> for Watched<T> {
    fn as_ref(&self) -> &T {
        self
    }
}

impl<T: AsFd> AsMut<T> for Watched<T> {
    fn as_mut(&mut self) -> &mut T {
        self
    }
}

impl<T: AsFd> AsFd for Watched<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.owner.as_fd()
    }
}

impl<T: AsFd> Drop for Watched<T> {
    fn drop(&mut self) {
        // It fails only where the descriptor is in no set, as intended.
        let _deregistered = self.wait_for(NONE);
        self.sources.0.slots.borrow_mut().remove(self.slot);
    }
}

/// What other processes that want the processor mean for a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contention {
    /// It ends.
    Heeded,
    /// It goes on: how idle the host is was looked at before.
    Borne,
}

/// Waits for events, and learns whether polling pays.
#[derive(Debug)]
pub(crate) struct Poller {
    sources: Sources,
    polling: Polling,
    /// When the last wait ended.
    woken: Instant,
    /// The longest time between the end of a wait and the next wait.
    longest_pass: Duration,
}

impl Poller {
    pub(crate) fn new(polling: Polling) -> io::Result<Self> {
        Ok(Self {
            sources: Sources::new()?,
            polling,
            woken: Instant::now(),
            longest_pass: Duration::ZERO,
        })
    }

    pub(crate) fn sources(&self) -> &Sources {
        &self.sources
    }

    /// The longest time that the loop has been busy without looking for new events.
    pub(crate) fn longest_pass(&self) -> Duration {
        self.longest_pass
    }

    /// Waits until something is ready, at most for `timeout` (`None`: without end), and puts it into
    /// `ready`; or until one of the `clients` has a request. Returns when the wait ended.
    pub(crate) fn wait(
        &mut self,
        timeout: Option<Duration>,
        ready: &mut Vec<Source>,
        clients: &mut impl Unannounced,
    ) -> io::Result<Instant> {
        let start = Instant::now();
        self.longest_pass = self.longest_pass.max(start - self.woken);
        self.woken = self.wait_from(start, timeout, ready, clients)?;
        Ok(self.woken)
    }

    fn wait_from(
        &mut self,
        start: Instant,
        timeout: Option<Duration>,
        ready: &mut Vec<Source>,
        clients: &mut impl Unannounced,
    ) -> io::Result<Instant> {
        if timeout == Some(Duration::ZERO) {
            self.sleep(timeout, ready)?;
            clients.look();
            return Ok(start);
        }
        if let Some(time) = self.asked_time(start, clients) {
            let time = timeout.map_or(time, |timeout| timeout.min(time));
            let (_, found, end) = self.poll(start, time, Contention::Borne, ready, clients)?;
            if found {
                // Such a wait might as well have been slept.
                self.polling.slept(end - start);
                return Ok(end);
            }
        } else if let Some(time) = self.polling.time() {
            let time = timeout.map_or(time, |timeout| timeout.min(time));
            let (outcome, found, end) =
                self.poll(start, time, Contention::Heeded, ready, clients)?;
            self.polling.polled(outcome);
            if found {
                return Ok(end);
            }
        }
        if clients.prepare_to_wait() {
            ready.clear();
            return Ok(Instant::now());
        }
        self.sleep(timeout, ready)?;
        let end = Instant::now();
        if !ready.is_empty() {
            self.polling.slept(end - start);
        }
        Ok(end)
    }

    /// How long clients are still looked for in any case, unless nothing is ever polled for.
    fn asked_time(&self, now: Instant, clients: &impl Unannounced) -> Option<Duration> {
        let left = clients.polled_until()?.checked_duration_since(now)?;
        (self.polling.is_on() && !left.is_zero()).then_some(left)
    }

    /// Asks again and again, for `time` at most. How that ended, whether anything was found, and when.
    fn poll(
        &mut self,
        start: Instant,
        time: Duration,
        contention: Contention,
        ready: &mut Vec<Source>,
        clients: &mut impl Unannounced,
    ) -> io::Result<(Outcome, bool, Instant)> {
        let mut before = start;
        loop {
            self.sleep(Some(Duration::ZERO), ready)?;
            let found = !ready.is_empty() || look(clients);
            let now = Instant::now();
            if contention == Contention::Heeded && Polling::is_contended(now - before) {
                return Ok((Outcome::Contended, found, now));
            }
            if found {
                return Ok((Outcome::Found, found, now));
            }
            if now - start >= time {
                return Ok((Outcome::Empty, false, now));
            }
            before = now;
        }
    }

    /// Lets the kernel wait.
    fn sleep(&mut self, timeout: Option<Duration>, ready: &mut Vec<Source>) -> io::Result<()> {
        let timeout = timeout.map(|timeout| {
            Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: 60, tv_nsec: 0 })
        });
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); EVENTS_MAX];
        ready.clear();
        match epoll::wait(&self.sources.0.epoll, &mut events, timeout.as_ref()) {
            Ok((events, _)) => {
                ready.extend(events.iter().filter_map(|it| self.sources.get(it.data.u64())));
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Looks for requests for as long as a question to the kernel takes, more or less.
fn look(clients: &mut impl Unannounced) -> bool {
    for _ in 0..LOOKS {
        if clients.look() {
            return true;
        }
        std::hint::spin_loop();
    }
    false
}

fn flags(interest: Interest) -> epoll::EventFlags {
    let mut flags = epoll::EventFlags::empty();
    flags.set(epoll::EventFlags::IN, interest.readable);
    flags.set(epoll::EventFlags::OUT, interest.writable);
    flags
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::net::UnixStream};

    use super::*;

    const READABLE: Interest = Interest { readable: true, writable: false };

    fn ready(poller: &mut Poller) -> Vec<Source> {
        let mut ready = Vec::new();
        poller.wait(Some(Duration::ZERO), &mut ready, &mut ()).unwrap();
        ready
    }

    #[test]
    fn an_event_names_its_source_as_long_as_the_owner_lives() {
        let mut poller = Poller::new(Polling::new(Duration::ZERO)).unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut watched = poller.sources().watch(ours, Source::Receiver(3), READABLE).unwrap();
        assert_eq!(ready(&mut poller), []);
        theirs.write_all(b"x").unwrap();
        assert_eq!(ready(&mut poller), [Source::Receiver(3)]);
        watched.set_source(Source::Draining(4));
        assert_eq!(ready(&mut poller), [Source::Draining(4)]);
        watched.wait_for(NONE).unwrap();
        assert_eq!(ready(&mut poller), []);
        watched.wait_for(READABLE).unwrap();
        assert_eq!(ready(&mut poller), [Source::Draining(4)]);
        drop(watched);
        assert_eq!(ready(&mut poller), []);
    }

    /// Closing a descriptor of which another process has a copy does not take it out of an epoll set.
    #[test]
    fn a_copy_of_a_descriptor_reports_nothing_after_its_owner_is_dropped() {
        let mut poller = Poller::new(Polling::new(Duration::ZERO)).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let _copy = ours.try_clone().unwrap();
        let watched = poller.sources().watch(ours, Source::Signal, READABLE).unwrap();
        drop(theirs);
        assert_eq!(ready(&mut poller), [Source::Signal]);
        drop(watched);
        let (start, time) = (Instant::now(), Duration::from_millis(20));
        poller.wait(Some(time), &mut Vec::new(), &mut ()).unwrap();
        assert!(start.elapsed() >= time, "an event has ended the wait");
        assert!(poller.sources().0.slots.borrow().is_empty());
    }

    #[test]
    fn a_wait_allocates_nothing() {
        let mut poller = Poller::new(Polling::new(Duration::from_micros(50))).unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let _watched = poller.sources().watch(ours, Source::Signal, READABLE).unwrap();
        theirs.write_all(b"x").unwrap();
        let mut ready = Vec::with_capacity(EVENTS_MAX);
        let counted = allocation_counter::measure(|| {
            for _ in 0..100 {
                poller.wait(None, &mut ready, &mut ()).unwrap();
                assert_eq!(ready.len(), 1);
                poller.wait(Some(Duration::ZERO), &mut ready, &mut ()).unwrap();
            }
        });
        assert_eq!(counted.count_total, 0);
    }

    /// A client that has a request which no event tells of, from the second time on that it is asked.
    #[derive(Default)]
    struct Silent {
        looks: u32,
        sleeps: u32,
        polled_until: Option<Instant>,
    }

    impl Unannounced for Silent {
        fn look(&mut self) -> bool {
            self.looks += 1;
            self.looks > 1
        }

        fn prepare_to_wait(&mut self) -> bool {
            self.sleeps += 1;
            self.sleeps > 1
        }

        fn polled_until(&self) -> Option<Instant> {
            self.polled_until
        }
    }

    #[test]
    fn a_request_without_an_event_is_found_and_never_slept_over() {
        let mut poller = Poller::new(Polling::new(Duration::ZERO)).unwrap();
        let (mut client, mut ready) = (Silent::default(), Vec::new());
        // Something else is to be done at once: requests are looked for all the same.
        poller.wait(Some(Duration::ZERO), &mut ready, &mut client).unwrap();
        assert_eq!((client.looks, client.sleeps), (1, 0));
        // The first time it says that there is none, and an event would end the wait.
        let (start, time) = (Instant::now(), Duration::from_millis(20));
        poller.wait(Some(time), &mut ready, &mut client).unwrap();
        assert!(start.elapsed() >= time);
        // Then it has one: a wait without end does not begin.
        poller.wait(None, &mut ready, &mut client).unwrap();
        assert_eq!((client.looks, client.sleeps), (1, 2));
    }

    #[test]
    fn a_client_that_asks_for_it_is_looked_for_without_sleeping() {
        let mut poller = Poller::new(Polling::new(Duration::from_micros(1))).unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        let mut client = Silent { polled_until: Some(until), ..Silent::default() };
        poller.wait(None, &mut Vec::new(), &mut client).unwrap();
        assert_eq!((client.looks, client.sleeps), (2, 0));
        // The time is up, or nothing is ever polled for.
        let past = Silent { polled_until: Some(poller.woken), sleeps: 1, ..Silent::default() };
        let mut never = Poller::new(Polling::new(Duration::ZERO)).unwrap();
        let future = Silent { polled_until: Some(until), sleeps: 1, ..Silent::default() };
        for (poller, mut client) in [(&mut poller, past), (&mut never, future)] {
            poller.wait(None, &mut Vec::new(), &mut client).unwrap();
            assert_eq!((client.looks, client.sleeps), (0, 2));
        }
    }

    #[test]
    fn the_longest_pass_is_the_longest_time_between_two_waits() {
        let mut poller = Poller::new(Polling::new(Duration::ZERO)).unwrap();
        ready(&mut poller);
        std::thread::sleep(Duration::from_millis(3));
        ready(&mut poller);
        let longest = poller.longest_pass();
        assert!(longest >= Duration::from_millis(3), "{longest:?}");
        poller.wait(Some(longest * 3), &mut Vec::new(), &mut ()).unwrap();
        ready(&mut poller);
        assert!(poller.longest_pass() < longest * 3, "a wait is no pass");
    }
}
