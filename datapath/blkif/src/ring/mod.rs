//! A guest's ring as a frontend of a disk.
//!
//! A pass takes requests ([`take`]), has their data copied and carries them out ([`execute`]), and
//! publishes the answers ([`answers`]). The files beside this directory have a part each: [`Shared`] the
//! pages of the ring, [`request`](crate::request) what a slot says, [`Batch`] the copies,
//! [`DeferredRequests`] what takes longer than a pass, [`Journal`] what a successor needs.
//!
//! Invariants: a request is in the journal before it is carried out, and its answer before it is in the
//! ring. A change is answered only after everything before it in the same blocks is. No copy outlives
//! the turn in which it was begun, so that the disk may change its structure between two turns.

mod answers;
mod execute;
mod frontend;
mod take;

use std::{collections::VecDeque, fs::File, io, rc::Rc};

use block::Stats;
use rustix::io::Errno;

use crate::{
    batch::Batch,
    copies::{Copies, Grant},
    counters::SharedCounters,
    deferred::{DeferredRequests, Turn},
    domain::Domain,
    journal::{Held, Journal},
    layout::Abi,
    request::{Head, Parsed, Refusal},
    shared::{Answer, Shared},
    times::Times,
};

/// Where a guest's ring is, and how it is laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The pages of the ring: one, two, four or eight.
    pub grefs: Vec<u32>,
    /// The layout of its slots, as the control message numbers it ([`Abi::of_protocol`]).
    pub protocol: u32,
    /// The guest's event channel.
    pub port: u32,
}

/// A request that was taken in this round.
#[derive(Debug)]
struct Taken {
    turn: Turn,
    head: Head,
    what: Result<Parsed, Refusal>,
}

/// A ring that is served.
#[derive(Debug)]
pub struct Ring {
    // Before the domain, so that it is unmapped first.
    shared: Shared,
    domain: Box<dyn Domain>,
    journal: Journal,
    abi: Abi,
    /// Requests to carry out before further ones are taken, in the order in which they came: those of a
    /// process that has died, those that had to wait, and those for which a turn had no time.
    queue: VecDeque<Turn>,
    /// A barrier that waits for everything before it. Nothing behind it is taken.
    barrier: Option<Turn>,
    deferred: DeferredRequests,
    next_order: u64,
    /// Whether the loop looks for requests by itself, and says when it waits for an event.
    is_polled: bool,
    /// Whether an event was asked for that has not come.
    is_event_due: bool,
    /// Requests are answered with errors from now on.
    stopping: bool,
    stats: Stats,
    times: Times,
    counters: Rc<SharedCounters>,
    /// Requests of this round, the segments that they name, and their answers. Kept for their
    /// capacities, as the next two are: no pass allocates.
    round: Vec<Taken>,
    grants: Vec<Grant>,
    answers: Vec<(Held, Answer)>,
    batch: Batch,
    /// Pages of segments.
    indirect: Copies,
}

impl Ring {
    /// Maps a ring and binds its event channel. The journal is a new one, made by [`Journal::create`].
    ///
    /// # Errors
    /// Where the guest has granted no such ring; nothing of it stays mapped then.
    pub fn connect(
        domain: Box<dyn Domain>,
        location: &Location,
        journal: File,
    ) -> io::Result<Self> {
        Self::open(domain, location, |shared| {
            // A frontend that begins has zeroes here. One that goes on after its backend was lost without
            // a journal has requests behind its last answer.
            Journal::begin(journal, shared.entries(), shared.answers_end())
        })
    }

    /// Goes on with a ring whose server has died, with what its journal says.
    ///
    /// # Errors
    /// Where the ring cannot be reached, or the journal is of another ring.
    pub fn resume(domain: Box<dyn Domain>, location: &Location, journal: File) -> io::Result<Self> {
        let mut ring =
            Self::open(domain, location, |shared| Journal::resume(journal, shared.entries()))?;
        ring.publish_recorded()?;
        // Taken by another process, which told no moment: their time begins here.
        for held in ring.journal.unanswered() {
            ring.times.take(held);
            let turn = ring.next_turn(held);
            ring.queue.push_back(turn);
        }
        Ok(ring)
    }

    fn open(
        mut domain: Box<dyn Domain>,
        location: &Location,
        journal: impl FnOnce(&Shared) -> io::Result<Journal>,
    ) -> io::Result<Self> {
        let Location { grefs, protocol, port } = location;
        if !grefs.len().is_power_of_two() {
            let text = format!("{} pages are no ring: one, two, four or eight are", grefs.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        // blktap looks at the protocol only when the pages are mapped, and at the port last.
        let pages = domain.map(grefs)?;
        let abi = Abi::of_protocol(*protocol).ok_or(Errno::PROTONOSUPPORT)?;
        let shared = Shared::new(pages, abi, grefs.len().ilog2());
        domain.bind(*port)?;
        let times = Times::new(shared.entries());
        Ok(Self {
            journal: journal(&shared)?,
            shared,
            domain,
            abi,
            queue: VecDeque::new(),
            barrier: None,
            deferred: DeferredRequests::default(),
            next_order: 0,
            is_polled: false,
            is_event_due: true,
            stopping: false,
            stats: Stats::default(),
            times,
            counters: Rc::default(),
            round: Vec::new(),
            grants: Vec::new(),
            answers: Vec::new(),
            batch: Batch::default(),
            indirect: Copies::new(),
        })
    }

    /// The journal, to be kept for a successor.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Sets whether the loop looks for requests by itself ([`has_unannounced`]), and says when it is about
    /// to wait ([`prepare_to_wait`]). Until then the guest is not asked for events, which cost both sides
    /// more than most requests do.
    ///
    /// [`has_unannounced`]: block::Frontend::has_unannounced
    /// [`prepare_to_wait`]: block::Frontend::prepare_to_wait
    pub fn set_polled(&mut self, is_polled: bool) {
        self.is_polled = is_polled;
    }

    /// Counters that can be read while the ring is served.
    #[must_use]
    pub fn counters(&self) -> Rc<SharedCounters> {
        Rc::clone(&self.counters)
    }

    fn next_turn(&mut self, held: Held) -> Turn {
        self.next_order += 1;
        Turn { held, order: self.next_order }
    }
}
