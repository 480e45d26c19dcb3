//! A frontend that does what Windows' PV driver does: win-xenvbd 9.1 (github.com/xcp-ng/win-xenvbd, 2025), whose
//! functions are named here, and `xencrsh` of the same sources, which writes crash dumps and hibernation files.
//!
//! What it has in common with neither Linux' blkfront nor [`Frontend`](super::Frontend): it is asked in SCSI
//! requests, each of which becomes several requests of the ring; ids are addresses; a slot keeps what was in it
//! where a request has no such field; data that is not aligned to sectors goes through pages of the driver's own;
//! an answer to a request that is not known is skipped, and "not supported" is taken for success.

use std::{
    collections::VecDeque,
    io,
    rc::Rc,
    sync::atomic::{AtomicU32, Ordering, fence},
};

use super::{
    guest::Span,
    machine::{Buffer, Channel, Machine},
};
use crate::{
    copies::PAGE_BYTES,
    layout::{
        Abi, HEADER_BYTES, INDIRECT_PAGES_MAX, SEGMENT_BYTES, SEGMENTS_IN_PAGE, SEGMENTS_MAX, at,
        operation, word,
    },
    ring::Location,
};

const SECTOR_BYTES: usize = 512;
const SECTORS_IN_PAGE: usize = PAGE_BYTES / SECTOR_BYTES;
/// The address of the first request, and from one to the next: ids use all of 64 bits.
const ADDRESS: u64 = 0xffff_e00b_5e8a_2010;
const ADDRESS_STEP: u64 = 0x90;
/// How often `BlkifRingDisable` looks for answers, with a millisecond between.
const ATTEMPTS: u32 = 100;

/// Which of the two drivers it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// `xenvbd`, with rings of two to the power of so many pages, and with indirect requests of so many segments
    /// where the backend offers more than 11.
    Xenvbd {
        /// `ring-page-order`.
        order: u32,
        /// `feature-max-indirect-segments`.
        indirect_segments_max: usize,
    },
    /// `xencrsh`: one page, at most two requests at a time, no indirect requests, and answers are looked for
    /// without waiting for events.
    CrashDump,
}

/// What Windows asks for.
#[derive(Clone, Debug)]
pub enum Command {
    /// READ: so many sectors, from that one on.
    Read(u64, usize, Buffer),
    /// WRITE.
    Write(u64, usize, Buffer),
    /// SYNCHRONIZE CACHE, with the sector that its command names.
    SynchronizeCache(u64),
    /// UNMAP: sectors, and how many.
    Unmap(Vec<(u64, u64)>),
}

/// `SrbStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SrbStatus {
    /// It is under way.
    Pending,
    /// SRB_STATUS_SUCCESS.
    Success,
    /// SRB_STATUS_ERROR.
    Error,
}

#[derive(Debug)]
struct Srb {
    status: SrbStatus,
    requests: usize,
}

/// `XENVBD_SEGMENT`; with a page of the driver's own also where its bytes belong.
#[derive(Debug)]
struct Segment {
    span: Span,
    bounced: Option<(Buffer, usize)>,
}

/// `XENVBD_REQUEST`.
#[derive(Debug)]
struct Request {
    id: u64,
    srb: usize,
    operation: u8,
    sector: u64,
    sectors: u64,
    segments: Vec<Segment>,
    indirect_pages: Vec<u32>,
}

/// The driver, with one ring.
#[derive(Debug)]
pub struct Xenvbd {
    machine: Rc<dyn Machine>,
    driver: Driver,
    abi: Abi,
    first_page: u32,
    order: u32,
    entries: u32,
    port: u32,
    events: Box<dyn Channel>,
    is_enabled: bool,
    /// `req_prod_pvt`, `req_prod` and `rsp_cons`.
    prepared: u32,
    pushed: u32,
    consumed: u32,
    queue: VecDeque<Request>,
    submitted: Vec<Request>,
    srbs: Vec<Srb>,
    /// Pages and ids that are free, of which the last one is used first.
    pages: Vec<u32>,
    ids: Vec<u64>,
    ids_made: u64,
    /// Whether the backend says that it flushes (`feature-flush-cache`); else barriers are sent.
    pub has_flush: bool,
    /// Counted: answers of "not supported", and answers to requests that are not known.
    pub unsupported: u64,
    /// As said above.
    pub unknown: u64,
    /// Counted: events that were sent because the backend had asked for them.
    pub notified: u64,
}

impl Xenvbd {
    /// `BlkifRingConnect`: makes a ring and an event channel. `abi`: that of Windows with 64 bits or with 32.
    ///
    /// # Errors
    /// Where no event channel can be made.
    pub fn connect(machine: Rc<dyn Machine>, driver: Driver, abi: Abi) -> io::Result<Self> {
        let order = match driver {
            Driver::Xenvbd { order, .. } => order,
            Driver::CrashDump => 0,
        };
        let first_page = machine.take_pages(1 << order);
        let (port, events) = machine.open_port()?;
        let driver = Self {
            machine,
            driver,
            abi,
            first_page,
            order,
            entries: abi.entries(order),
            port,
            events,
            is_enabled: true,
            prepared: 0,
            pushed: 0,
            consumed: 0,
            queue: VecDeque::new(),
            submitted: Vec::new(),
            srbs: Vec::new(),
            pages: Vec::new(),
            ids: Vec::new(),
            ids_made: 0,
            has_flush: driver != Driver::CrashDump,
            unsupported: 0,
            unknown: 0,
            notified: 0,
        };
        driver.machine.write(first_page, 0, &[0; HEADER_BYTES]);
        driver.word(word::REQ_EVENT).store(1, Ordering::Relaxed);
        driver.word(word::RSP_EVENT).store(1, Ordering::Relaxed);
        Ok(driver)
    }

    /// What a backend is told (`BlkifRingStoreWrite`, `RingStoreWrite`).
    #[must_use]
    pub fn location(&self) -> Location {
        let pages = self.first_page..self.first_page + (1 << self.order);
        let grefs = pages.map(|page| self.machine.gref(page)).collect();
        Location { grefs, protocol: self.abi.protocol(), port: self.port }
    }

    fn word(&self, index: usize) -> &AtomicU32 {
        self.machine.word(self.first_page, index)
    }

    fn slot(&self, number: u32) -> usize {
        HEADER_BYTES + (number & (self.entries - 1)) as usize * self.abi.layout().stride
    }

    /// `RingQueueRequest`: takes a SCSI request; its number.
    pub fn start(&mut self, command: Command) -> usize {
        let srb = self.srbs.len();
        let before = self.queue.len();
        match command {
            Command::Read(sector, count, buffer) => {
                self.transfer(srb, operation::READ, sector, count, &buffer);
            }
            Command::Write(sector, count, buffer) => {
                self.transfer(srb, operation::WRITE, sector, count, &buffer);
            }
            Command::SynchronizeCache(sector) => {
                let flush = operation::FLUSH_DISKCACHE;
                let code = if self.has_flush { flush } else { operation::WRITE_BARRIER };
                self.prepare(srb, code, sector, 0);
            }
            Command::Unmap(ranges) => {
                for (sector, sectors) in ranges {
                    self.prepare(srb, operation::DISCARD, sector, sectors);
                }
            }
        }
        let requests = self.queue.len() - before;
        self.srbs.push(Srb { status: SrbStatus::Pending, requests });
        self.schedule();
        srb
    }

    /// The state of a SCSI request.
    #[must_use]
    pub fn status(&self, srb: usize) -> SrbStatus {
        self.srbs[srb].status
    }

    /// How many requests the backend has not answered.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.submitted.len()
    }

    fn prepare(&mut self, srb: usize, operation: u8, sector: u64, sectors: u64) -> &mut Request {
        let id = self.ids.pop().unwrap_or_else(|| {
            self.ids_made += 1;
            ADDRESS + self.ids_made * ADDRESS_STEP
        });
        let (segments, indirect_pages) = (Vec::new(), Vec::new());
        self.queue.push_back(Request {
            id,
            srb,
            operation,
            sector,
            sectors,
            segments,
            indirect_pages,
        });
        self.queue.back_mut().expect("it was put there")
    }

    fn take_page(&mut self) -> u32 {
        self.pages.pop().unwrap_or_else(|| self.machine.take_pages(1))
    }

    /// `BlkifRingPrepareReadWrite`, and `PrepareReadWrite` of xencrsh.
    fn transfer(&mut self, srb: usize, code: u8, sector: u64, count: usize, buffer: &Buffer) {
        let mut done = 0;
        while done < count {
            let most = self.segments_max(count - done);
            let mut segments = Vec::new();
            let begin = sector + done as u64;
            while segments.len() < most && done < count {
                let (segment, sectors) = self.segment(code, buffer, done, count - done);
                segments.push(segment);
                done += sectors;
            }
            let pages =
                if most > SEGMENTS_MAX { segments.len().div_ceil(SEGMENTS_IN_PAGE) } else { 0 };
            let pages = (0..pages).map(|_| self.take_page()).collect();
            let request = self.prepare(srb, code, begin, 0);
            (request.segments, request.indirect_pages) = (segments, pages);
        }
    }

    /// `__UseIndirect`.
    fn segments_max(&self, sectors: usize) -> usize {
        match self.driver {
            Driver::Xenvbd { indirect_segments_max, .. }
                if indirect_segments_max > SEGMENTS_MAX
                    && sectors >= SEGMENTS_MAX * SECTORS_IN_PAGE =>
            {
                indirect_segments_max
            }
            _ => SEGMENTS_MAX,
        }
    }

    /// `BlkifRingPrepareSegment`: the next segment, and how many sectors it has.
    fn segment(&mut self, code: u8, buffer: &Buffer, done: usize, left: usize) -> (Segment, usize) {
        let at = buffer.offset + done * SECTOR_BYTES;
        let (page, offset) = (buffer.pages[at / PAGE_BYTES], at % PAGE_BYTES);
        if offset % SECTOR_BYTES == 0 {
            let first = offset / SECTOR_BYTES;
            let count = left.min(SECTORS_IN_PAGE - first);
            return (Segment { span: span(page, first, count), bounced: None }, count);
        }
        let count = left.min(SECTORS_IN_PAGE);
        let own = self.take_page();
        if code == operation::WRITE {
            let bytes = from(buffer, at).bytes(&*self.machine, count * SECTOR_BYTES);
            self.machine.write(own, 0, &bytes);
        }
        let bounced = Some((from(buffer, at), count));
        (Segment { span: span(own, 0, count), bounced }, count)
    }

    /// `BlkifRingSchedule`: posts what there is room for and lets the backend see it.
    pub fn schedule(&mut self) {
        while self.is_enabled
            && self.prepared.wrapping_sub(self.consumed) < self.entries
            && let Some(request) = self.queue.pop_front()
        {
            self.insert(&request);
            self.prepared = self.prepared.wrapping_add(1);
            self.submitted.push(request);
        }
        let (old, new) = (self.pushed, self.prepared);
        if old == new {
            return;
        }
        self.word(word::REQ_PROD).store(new, Ordering::Release);
        self.pushed = new;
        fence(Ordering::SeqCst);
        let wanted = self.word(word::REQ_EVENT).load(Ordering::Relaxed);
        if new.wrapping_sub(wanted) < new.wrapping_sub(old) {
            self.notified += 1;
            self.send();
        }
    }

    /// Sends an event, as the watchdog (`RingWatchdog`) does too, without being asked.
    pub fn send(&self) {
        // A backend that has closed its end is what some tests are about.
        let _closed = self.events.notify();
    }

    /// `__BlkifRingInsertRequest`: no byte is written but those of its fields.
    fn insert(&self, request: &Request) {
        let slot = self.slot(self.prepared);
        let put = |at: usize, bytes: &[u8]| self.machine.write(self.first_page, slot + at, bytes);
        let layout = self.abi.layout();
        let Request { id, operation: code, sector, ref segments, .. } = *request;
        put(layout.id, &id.to_le_bytes());
        put(layout.sector, &sector.to_le_bytes());
        let gref = |page| self.machine.gref(page);
        let encoded = |it: &Segment| encoded(gref(it.span.gref), it.span);
        let bytes: Vec<u8> = segments.iter().flat_map(encoded).collect();
        if segments.len() > SEGMENTS_MAX {
            put(at::OPERATION, &[operation::INDIRECT, code]);
            put(at::INDIRECT_COUNT, &(segments.len() as u16).to_le_bytes());
            let pages = request.indirect_pages.iter().take(INDIRECT_PAGES_MAX);
            for (index, (page, part)) in pages.zip(bytes.chunks(PAGE_BYTES)).enumerate() {
                self.machine.write(*page, 0, part);
                put(layout.indirect_grefs + 4 * index, &gref(*page).to_le_bytes());
            }
            return;
        }
        // A discard's flag lies where the number of segments does; it is never that of a secure one.
        put(at::OPERATION, &[code, segments.len() as u8]);
        if code == operation::DISCARD {
            put(layout.discard_sectors, &request.sectors.to_le_bytes());
        } else {
            put(layout.segments, &bytes);
        }
    }

    /// What follows an event, and what xencrsh does again and again: takes answers, posts what waits.
    pub fn interrupt(&mut self) {
        while self.poll() {
            self.schedule();
        }
        self.schedule();
    }

    /// Takes the events that have come; whether there were any.
    ///
    /// # Errors
    /// Where they cannot be taken.
    pub fn take_event(&self) -> io::Result<bool> {
        self.events.take()
    }

    /// `BlkifRingPoll`, and `FrontendCompleteResponses` of xencrsh: takes answers; whether it stopped after a
    /// quarter of the ring though there may be more.
    fn poll(&mut self) -> bool {
        let mut retry = false;
        while self.is_enabled && !retry {
            fence(Ordering::SeqCst);
            let end = self.word(word::RSP_PROD).load(Ordering::Acquire);
            let begin = self.consumed;
            if begin == end {
                break;
            }
            let mut next = begin;
            while next != end && !retry {
                self.take_answer(next);
                next = next.wrapping_add(1);
                retry =
                    self.driver != Driver::CrashDump && next.wrapping_sub(begin) > self.entries / 4;
            }
            self.consumed = next;
            self.word(word::RSP_EVENT).store(next.wrapping_add(1), Ordering::Relaxed);
        }
        retry
    }

    fn take_answer(&mut self, number: u32) {
        let mut raw = [0; 16];
        let slot = self.slot(number);
        self.machine.read(self.first_page, slot, &mut raw);
        if self.driver == Driver::CrashDump {
            let bytes = self.abi.layout().answer_bytes;
            self.machine.write(self.first_page, slot, &[0; 16][..bytes]);
        }
        let id = u64::from_le_bytes(raw[at::ANSWER_ID..][..8].try_into().expect("eight bytes"));
        let status = i16::from_le_bytes([raw[at::ANSWER_STATUS], raw[at::ANSWER_STATUS + 1]]);
        match self.submitted.iter().position(|it| it.id == id) {
            Some(index) => {
                let request = self.submitted.remove(index);
                self.complete(request, status);
            }
            None => self.unknown += 1,
        }
    }

    /// `__BlkifRingCompleteResponse`.
    fn complete(&mut self, request: Request, status: i16) {
        let srb = &mut self.srbs[request.srb];
        match status {
            0 => {}
            -2 => {
                self.unsupported += 1;
                srb.status = SrbStatus::Success;
            }
            _ => srb.status = SrbStatus::Error,
        }
        srb.requests -= 1;
        if srb.requests == 0 && srb.status == SrbStatus::Pending {
            srb.status = SrbStatus::Success;
        }
        for Segment { span, bounced } in request.segments {
            if let Some((buffer, count)) = bounced {
                if status == 0 && request.operation == operation::READ {
                    let mut bytes = vec![0; count * SECTOR_BYTES];
                    self.machine.read(span.gref, 0, &mut bytes);
                    buffer.fill(&*self.machine, &bytes);
                }
                self.pages.push(span.gref);
            }
        }
        self.pages.extend(request.indirect_pages);
        self.ids.push(request.id);
    }

    /// `BlkifRingDisable`, which a reset, a suspend and a close begin with: waits for answers for a tenth of a
    /// second, sending events all the time, and fails what is not answered. `pass` passes a millisecond.
    pub fn disable(&mut self, mut pass: impl FnMut()) {
        for _ in 0..ATTEMPTS {
            if self.submitted.is_empty() {
                break;
            }
            self.send();
            self.poll();
            pass();
        }
        self.is_enabled = false;
        let lost = self.submitted.drain(..).chain(self.queue.drain(..));
        for request in lost.collect::<Vec<_>>() {
            self.complete(request, -1);
        }
    }

    /// `BlkifRingEnable`: goes on, with the same ring after a reset (`FrontendReset`).
    pub fn enable(&mut self) {
        self.is_enabled = true;
        self.schedule();
    }
}

fn span(gref: u32, first: usize, count: usize) -> Span {
    Span { gref, first: first as u8, last: (first + count - 1) as u8 }
}

/// The two bytes behind it are not written in the driver's own pages either.
fn encoded(gref: u32, span: Span) -> [u8; SEGMENT_BYTES] {
    let [a, b, c, d] = gref.to_le_bytes();
    [a, b, c, d, span.first, span.last, 0x5a, 0x5a]
}

/// What lies behind a place of a buffer.
fn from(buffer: &Buffer, at: usize) -> Buffer {
    let pages = buffer.pages[at / PAGE_BYTES..].to_vec();
    Buffer { pages, offset: at % PAGE_BYTES }
}
