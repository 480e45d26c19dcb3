//! The guest's half of a ring, which believes as little as Linux' blkfront does: an answer has to be to a
//! request that is under way, with its operation, and there are no more answers than requests.

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd},
    rc::Rc,
    sync::atomic::{AtomicU32, Ordering, fence},
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    events::Events,
    guest::{Guest, Span},
};
use crate::{
    copies::PAGE_BYTES,
    layout::{
        Abi, HEADER_BYTES, INDIRECT_PAGES_MAX, SEGMENT_BYTES, SEGMENTS_IN_PAGE, SLOT_BYTES, Status,
        at, operation, word,
    },
    ring::Location,
};

/// A request of a frontend. Sectors are of 512 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrontendRequest {
    /// Into the spans, from that sector on. With more than 11 spans it is an indirect request.
    Read(u64, Vec<Span>),
    /// From the spans. With more than 11 spans it is an indirect request.
    Write(u64, Vec<Span>),
    /// A write before and after which nothing else is done; without spans a barrier alone.
    Barrier(u64, Vec<Span>),
    /// Flush.
    Flush,
    /// Discard so many sectors.
    Discard(u64, u64),
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// As the request was submitted.
    pub id: u64,
    /// What the backend says.
    pub status: Status,
}

/// The backend has done what makes a frontend give up the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the backend has broken the protocol: {}", self.0)
    }
}

impl std::error::Error for Violation {}

/// A request that is under way: the operation that its answer has to name, and the page of its segments.
#[derive(Clone, Copy, Debug)]
struct Shadow {
    operation: u8,
}

/// The guest's half of one ring.
#[derive(Debug)]
pub struct Frontend {
    guest: Rc<Guest>,
    first_page: u32,
    order: u32,
    abi: Abi,
    entries: u32,
    port: u32,
    events: Events,
    /// `req_prod_pvt`.
    prepared: u32,
    /// `req_prod` as it was published.
    published: u32,
    /// `rsp_cons`.
    consumed: u32,
    /// By id.
    shadows: Vec<Option<Shadow>>,
    /// Ids that are free.
    ids: Vec<u16>,
    /// A page of segments for each id: the first of them.
    indirect_page: u32,
    /// Counted: events that were sent.
    pub notified: u64,
    /// Counted: wake-ups.
    pub events_taken: u64,
}

impl Frontend {
    /// Makes a ring of two to the power of `order` pages.
    ///
    /// # Errors
    /// Where no event channel can be made.
    pub fn create(guest: &Rc<Guest>, abi: Abi, order: u32) -> io::Result<Self> {
        let first_page = guest.take_pages(1 << order);
        let entries = abi.entries(order);
        let indirect_page = guest.take_pages(entries);
        let (port, events) = guest.open_port()?;
        let frontend = Self {
            guest: Rc::clone(guest),
            first_page,
            order,
            abi,
            entries,
            port,
            events,
            prepared: 0,
            published: 0,
            consumed: 0,
            shadows: vec![None; entries as usize],
            ids: (0..entries as u16).rev().collect(),
            indirect_page,
            notified: 0,
            events_taken: 0,
        };
        frontend.clear_header();
        Ok(frontend)
    }

    /// Begins again with an empty ring, as after a crash of the guest. No backend may serve it.
    pub fn reset(&mut self) {
        (self.prepared, self.published, self.consumed) = (0, 0, 0);
        self.shadows.fill(None);
        self.ids = (0..self.entries as u16).rev().collect();
        self.clear_header();
    }

    fn clear_header(&self) {
        self.guest.write(self.first_page, 0, &[0; HEADER_BYTES]);
        self.word(word::REQ_EVENT).store(1, Ordering::Relaxed);
        self.word(word::RSP_EVENT).store(1, Ordering::Relaxed);
    }

    /// What a backend is told.
    #[must_use]
    pub fn location(&self) -> Location {
        let grefs = (self.first_page..self.first_page + (1 << self.order)).collect();
        Location { grefs, protocol: self.abi.protocol(), port: self.port }
    }

    /// The guest that it belongs to.
    #[must_use]
    pub fn guest(&self) -> &Rc<Guest> {
        &self.guest
    }

    /// How many requests may be under way.
    #[must_use]
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// How many requests are under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.entries as usize - self.ids.len()
    }

    /// A word of the ring's header, for frontends that lie.
    #[must_use]
    pub fn word(&self, index: usize) -> &AtomicU32 {
        &self.guest.memory().words()[self.first_page as usize * PAGE_BYTES / 4 + index]
    }

    fn slot(&self, number: u32) -> usize {
        HEADER_BYTES + (number & (self.entries - 1)) as usize * self.abi.layout().stride
    }

    /// Puts a request into the ring; its id. `None`: the ring is full. [`push`](Self::push) lets the backend
    /// see it.
    pub fn submit(&mut self, request: &FrontendRequest) -> Option<u64> {
        let id = self.ids.pop()?;
        let mut raw = [0; SLOT_BYTES];
        let shadow = self.encode(id, request, &mut raw);
        self.shadows[usize::from(id)] = Some(shadow);
        self.put(&raw);
        Some(id.into())
    }

    /// Puts bytes into the next slot, whatever they are.
    pub fn put(&mut self, raw: &[u8; SLOT_BYTES]) {
        let at = self.slot(self.prepared);
        let stride = self.abi.layout().stride;
        self.guest.write(self.first_page, at, &raw[..stride]);
        self.prepared = self.prepared.wrapping_add(1);
    }

    fn encode(&self, id: u16, request: &FrontendRequest, raw: &mut [u8; SLOT_BYTES]) -> Shadow {
        let layout = self.abi.layout();
        let sector = match request {
            FrontendRequest::Read(sector, _)
            | FrontendRequest::Write(sector, _)
            | FrontendRequest::Barrier(sector, _)
            | FrontendRequest::Discard(sector, _) => *sector,
            FrontendRequest::Flush => 0,
        };
        raw[layout.id..layout.id + 8].copy_from_slice(&u64::from(id).to_le_bytes());
        raw[layout.sector..layout.sector + 8].copy_from_slice(&sector.to_le_bytes());
        let (code, spans) = match request {
            FrontendRequest::Read(_, spans) => (operation::READ, spans.as_slice()),
            FrontendRequest::Write(_, spans) => (operation::WRITE, spans.as_slice()),
            FrontendRequest::Barrier(_, spans) => (operation::WRITE_BARRIER, spans.as_slice()),
            FrontendRequest::Flush => (operation::FLUSH_DISKCACHE, [].as_slice()),
            FrontendRequest::Discard(_, sectors) => {
                let at = layout.discard_sectors;
                raw[at..at + 8].copy_from_slice(&sectors.to_le_bytes());
                (operation::DISCARD, [].as_slice())
            }
        };
        let length = spans.len() * SEGMENT_BYTES;
        if spans.len() <= crate::SEGMENTS_MAX {
            raw[at::OPERATION] = code;
            raw[at::SEGMENT_COUNT] = spans.len() as u8;
            encode_spans(spans, &mut raw[layout.segments..][..length]);
        } else {
            assert!(spans.len() <= SEGMENTS_IN_PAGE, "one page of segments for each id");
            raw[at::OPERATION] = operation::INDIRECT;
            raw[at::INDIRECT_OPERATION] = code;
            raw[at::INDIRECT_COUNT..at::INDIRECT_COUNT + 2]
                .copy_from_slice(&(spans.len() as u16).to_le_bytes());
            let page = self.indirect_page + u32::from(id);
            let mut segments = [0; PAGE_BYTES];
            encode_spans(spans, &mut segments);
            self.guest.write(page, 0, &segments[..length]);
            let grefs = &mut raw[layout.indirect_grefs..][..4 * INDIRECT_PAGES_MAX];
            grefs[..4].copy_from_slice(&page.to_le_bytes());
        }
        Shadow { operation: code }
    }

    /// Lets the backend see what was submitted, and sends an event where it wants one.
    ///
    /// # Errors
    /// Where the event cannot be sent.
    pub fn push(&mut self) -> io::Result<()> {
        let (old, new) = (self.published, self.prepared);
        if old == new {
            return Ok(());
        }
        self.word(word::REQ_PROD).store(new, Ordering::Release);
        self.published = new;
        fence(Ordering::SeqCst);
        let wanted = self.word(word::REQ_EVENT).load(Ordering::Relaxed);
        if new.wrapping_sub(wanted) < new.wrapping_sub(old) {
            self.notify()?;
        }
        Ok(())
    }

    /// Sends an event.
    ///
    /// # Errors
    /// Where it cannot be sent.
    pub fn notify(&mut self) -> io::Result<()> {
        self.notified += 1;
        self.events.notify()
    }

    /// Takes the answers that are there, and asks for an event with the next.
    ///
    /// # Errors
    /// Where the backend has broken the protocol.
    pub fn complete(&mut self, into: &mut Vec<Completion>) -> Result<(), Violation> {
        loop {
            let end = self.word(word::RSP_PROD).load(Ordering::Acquire);
            let count = end.wrapping_sub(self.consumed);
            if count as usize > self.under_way() {
                let under_way = self.under_way();
                return Err(Violation(format!("{count} answers to {under_way} requests")));
            }
            while self.consumed != end {
                let completion = self.answer(self.consumed)?;
                self.consumed = self.consumed.wrapping_add(1);
                into.push(completion);
            }
            if self.under_way() == 0 {
                // blkfront does so: nothing can come.
                self.word(word::RSP_EVENT).store(self.consumed.wrapping_add(1), Ordering::Relaxed);
                return Ok(());
            }
            self.word(word::RSP_EVENT).store(self.consumed.wrapping_add(1), Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if self.word(word::RSP_PROD).load(Ordering::Acquire) == self.consumed {
                return Ok(());
            }
        }
    }

    fn answer(&mut self, number: u32) -> Result<Completion, Violation> {
        let mut raw = [0; 16];
        let at = self.slot(number);
        self.guest.read(self.first_page, at, &mut raw[..self.abi.layout().answer_bytes]);
        let id = u64::from_le_bytes(raw[at::ANSWER_ID..][..8].try_into().expect("eight bytes"));
        let code = raw[at::ANSWER_OPERATION];
        let shadow = usize::try_from(id).ok().and_then(|id| self.shadows.get_mut(id)?.take());
        let Some(shadow) = shadow else {
            return Err(Violation(format!("answer {number} is to {id}, which is not under way")));
        };
        if shadow.operation != code {
            let asked = shadow.operation;
            return Err(Violation(format!("operation {asked} of {id} is answered as {code}")));
        }
        self.ids.push(id as u16);
        let status = match i16::from_le_bytes([raw[at::ANSWER_STATUS], raw[at::ANSWER_STATUS + 1]])
        {
            0 => Status::Okay,
            -1 => Status::Error,
            -2 => Status::NotSupported,
            other => return Err(Violation(format!("status {other} of {id}"))),
        };
        Ok(Completion { id, status })
    }

    /// Waits for an event, for so long at most; whether one came.
    ///
    /// # Errors
    /// Where waiting fails.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<bool> {
        let timeout =
            Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        match poll(&mut [PollFd::new(&self.events, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let came = self.events.take()?;
        self.events_taken += u64::from(came);
        Ok(came)
    }
}

impl AsFd for Frontend {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

fn encode_spans(spans: &[Span], into: &mut [u8]) {
    for (span, bytes) in spans.iter().zip(into.chunks_exact_mut(SEGMENT_BYTES)) {
        bytes[..4].copy_from_slice(&span.gref.to_le_bytes());
        (bytes[at::SEGMENT_FIRST], bytes[at::SEGMENT_LAST]) = (span.first, span.last);
    }
}
