//! A request takes the time from when it is taken off the ring until its answer is in it: what an observer says
//! that watches the ring with a clock of its own.

use std::{
    cell::Cell,
    io,
    os::fd::{AsFd, BorrowedFd},
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use blkif::{
    Abi, Copies, Domain, Journal, Ring, Xen as _,
    mock::{FrontendRequest, Span},
};
use block::{Budget, Frontend as _};
use memory::WriteMap;

use crate::rig::{Rig, SECTOR, SIZE};

/// What a slow copy takes: much more than all else of a request.
const COPY: Duration = Duration::from_millis(40);

/// A guest whose pages are reached slowly.
#[derive(Debug)]
struct Slow {
    domain: Box<dyn Domain>,
    copies: Rc<Cell<u32>>,
}

impl Domain for Slow {
    fn map(&mut self, grefs: &[u32]) -> io::Result<WriteMap> {
        self.domain.map(grefs)
    }

    fn bind(&mut self, port: u32) -> io::Result<()> {
        self.domain.bind(port)
    }

    fn copy(&mut self, copies: &mut Copies) -> io::Result<()> {
        thread::sleep(COPY);
        self.copies.set(self.copies.get() + 1);
        self.domain.copy(copies)
    }

    fn notify(&mut self) -> io::Result<()> {
        self.domain.notify()
    }

    fn take_event(&mut self) -> io::Result<bool> {
        self.domain.take_event()
    }
}

impl AsFd for Slow {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.domain.as_fd()
    }
}

/// A rig of one page with slow copies; how many there were.
fn slow() -> (Rig, Rc<Cell<u32>>) {
    let mut rig = Rig::new(Abi::X86_64, 0);
    let copies = Rc::default();
    let domain = Slow { domain: rig.xen.domain(7).unwrap(), copies: Rc::clone(&copies) };
    let journal = Journal::create().unwrap();
    rig.ring = Ring::connect(Box::new(domain), &rig.frontend.location(), journal).unwrap();
    (rig, copies)
}

/// Whether a time has all pauses in it that there were, and nothing else than what the observer saw.
#[track_caller]
fn assert_between(pauses: u32, time: Duration, observed: Duration) {
    assert!(
        (COPY * pauses..=observed).contains(&time),
        "{time:?} of {pauses} pauses and {observed:?}"
    );
}

fn reads_and_writes(rig: &Rig) -> [Duration; 2] {
    let stats = block::Frontend::<block::memory::Memory>::stats(&rig.ring);
    [stats.read.time, stats.write.time]
}

/// One at a time.
#[test]
fn a_request_takes_what_the_guest_waits_for_its_answer() {
    let (mut rig, _) = slow();
    let page = rig.guest().take_pages(1);
    let mut longest = [Duration::ZERO; 2];
    for write in [false, true] {
        let mut observed = Duration::ZERO;
        for _ in 0..5 {
            let spans = vec![Span::page(page)];
            rig.submit(&[match write {
                true => FrontendRequest::Write(8, spans),
                false => FrontendRequest::Read(8, spans),
            }]);
            let start = Instant::now();
            rig.turn();
            let time = start.elapsed();
            observed += time;
            let longest = &mut longest[usize::from(write)];
            *longest = time.max(*longest);
            assert_eq!(rig.completions().len(), 1);
        }
        assert_between(5, reads_and_writes(&rig)[usize::from(write)], observed);
    }
    let counters = rig.ring.counters().get();
    for (max, longest) in [counters.read_max, counters.write_max].into_iter().zip(longest) {
        assert!(max >= COPY && max <= longest, "{max:?}, observed: {longest:?}");
    }
}

/// Those that a turn has no time for wait, and all that are taken together are answered together.
#[test]
fn waiting_for_another_turn_is_in_the_time() {
    let (mut rig, copies) = slow();
    let page = rig.guest().take_pages(8);
    let requests: Vec<_> =
        (0..8).map(|it| FrontendRequest::Read(8, vec![Span::page(page + it)])).collect();
    rig.submit(&requests);
    let start = Instant::now();
    let (mut observed, mut pauses) = (Duration::ZERO, 0);
    let mut answered = 0;
    while answered < 8 {
        // One or two requests.
        rig.ring.turn(&mut rig.drive, &mut Budget::bytes(6 << 10));
        let count = u32::try_from(rig.completions().len()).unwrap();
        observed += start.elapsed() * count;
        pauses += copies.get() * count;
        answered += count;
    }
    assert!(copies.get() >= 4, "{} turns: none of them has waited", copies.get());
    assert_between(pauses, reads_and_writes(&rig)[0], observed);
    let max = rig.ring.counters().get().read_max;
    assert!(max >= COPY * copies.get(), "{max:?}");
}

/// Two writes behind a discard of the same blocks, which takes several turns. They are taken at different times, and
/// answered together.
#[test]
fn waiting_for_another_request_is_in_the_time() {
    let mut rig = Rig::new(Abi::X86_64, 0);
    let page = rig.guest().take_pages(1);
    let write = FrontendRequest::Write(0, vec![Span::page(page)]);
    rig.submit(std::slice::from_ref(&write));
    rig.serve();
    rig.completions();
    let before = reads_and_writes(&rig)[1];
    rig.submit(&[FrontendRequest::Discard(0, SIZE / SECTOR), write.clone()]);
    let start = Instant::now();
    rig.turn();
    thread::sleep(COPY);
    rig.submit(&[write]);
    let second = Instant::now();
    rig.turn();
    assert_eq!(rig.completions().len(), 0);
    thread::sleep(COPY);
    rig.serve();
    assert_eq!(rig.completions().len(), 3);
    assert_between(3, reads_and_writes(&rig)[1] - before, start.elapsed() + second.elapsed());
    let max = rig.ring.counters().get().write_max;
    assert!(max >= COPY * 2, "{max:?}");
}

/// What a process had taken that has died takes its time from when another one goes on.
#[test]
fn a_successor_begins_anew() {
    let mut rig = Rig::new(Abi::X86_64, 0);
    let page = rig.guest().take_pages(1);
    let write = FrontendRequest::Write(0, vec![Span::page(page)]);
    rig.submit(&[FrontendRequest::Discard(0, SIZE / SECTOR), write]);
    rig.turn();
    thread::sleep(COPY * 2);
    let start = Instant::now();
    rig.take_over();
    thread::sleep(COPY);
    rig.serve();
    assert_eq!(rig.completions().len(), 2);
    assert_between(1, reads_and_writes(&rig)[1], start.elapsed());
}
