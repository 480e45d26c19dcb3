//! What waits for what: barriers, and changes behind a large discard in the same blocks.

use blkif::{
    Abi, Status,
    mock::{FrontendRequest, Span},
};
use block::{Budget, Progress};

use crate::rig::{Rig, SECTOR, SIZE};

fn ids(rig: &mut Rig) -> Vec<u64> {
    rig.completions().iter().map(|it| it.id).collect()
}

/// A disk that is written in its first MiB, and a discard of all of it, which takes several turns.
fn with_large_discard() -> (Rig, u32, u64) {
    let mut rig = Rig::new(Abi::X86_64, 0);
    let page = rig.guest().take_pages(4);
    rig.guest().write(page, 0, &[0xaa; 4096]);
    rig.submit(&[FrontendRequest::Write(0, vec![Span::page(page)])]);
    rig.serve();
    assert_eq!(rig.completions().len(), 1);
    let discard = rig.submit(&[FrontendRequest::Discard(0, SIZE / SECTOR)])[0];
    (rig, page, discard)
}

#[test]
fn a_large_discard_holds_up_changes_in_its_blocks_and_nothing_else() {
    let (mut rig, page, discard) = with_large_discard();
    rig.guest().write(page, 0, &[0xbb; 4096]);
    let behind = rig.submit(&[
        FrontendRequest::Read(8, vec![Span::page(page + 1)]),
        FrontendRequest::Write(0, vec![Span::page(page)]),
        FrontendRequest::Flush,
        FrontendRequest::Read(0, vec![Span::page(page + 2)]),
    ]);
    rig.turn();
    assert_eq!(ids(&mut rig), [behind[0], behind[2], behind[3]].map(|id| id), "reads do not wait");
    rig.serve();
    assert_eq!(ids(&mut rig), [discard, behind[1]], "the write is behind the discard");
    rig.submit(&[FrontendRequest::Read(0, vec![Span::page(page + 3)])]);
    rig.serve();
    let mut bytes = [0; 4096];
    rig.guest().read(page + 3, 0, &mut bytes);
    assert_eq!(bytes, [0xbb; 4096], "the discard came before the write");
}

/// Three changes of the same block, of which the first waits: they stay in their order.
#[test]
fn changes_that_wait_keep_their_order() {
    let (mut rig, page, discard) = with_large_discard();
    rig.guest().write(page, 0, &[1; 4096]);
    rig.guest().write(page + 1, 0, &[2; 4096]);
    let behind = rig.submit(&[
        FrontendRequest::Write(0, vec![Span::page(page)]),
        FrontendRequest::Discard(0, SIZE / SECTOR),
        FrontendRequest::Write(0, vec![Span::page(page + 1)]),
    ]);
    rig.turn();
    assert_eq!(ids(&mut rig), []);
    rig.serve();
    assert_eq!(ids(&mut rig), [discard, behind[0], behind[1], behind[2]]);
    rig.submit(&[FrontendRequest::Read(0, vec![Span::page(page + 3)])]);
    rig.serve();
    let mut bytes = [0; 4096];
    rig.guest().read(page + 3, 0, &mut bytes);
    assert_eq!(bytes, [2; 4096]);
}

#[test]
fn a_barrier_is_behind_all_before_it_and_before_all_behind_it() {
    for spans in [vec![], vec![Span::page(3)]] {
        let (mut rig, page, discard) = with_large_discard();
        let far = SIZE / SECTOR - 8;
        let behind = rig.submit(&[
            FrontendRequest::Read(8, vec![Span::page(page)]),
            FrontendRequest::Barrier(far, spans),
            FrontendRequest::Read(16, vec![Span::page(page)]),
            FrontendRequest::Flush,
        ]);
        rig.turn();
        assert_eq!(ids(&mut rig), [behind[0]], "what is behind the barrier is not taken");
        rig.serve();
        assert_eq!(ids(&mut rig), [discard, behind[1], behind[2], behind[3]]);
    }
}

#[test]
fn a_flush_is_told_to_the_disk() {
    let mut rig = Rig::new(Abi::X86_64, 0);
    rig.submit(&[FrontendRequest::Flush, FrontendRequest::Barrier(0, vec![])]);
    rig.serve();
    assert_eq!(rig.completions().len(), 2);
    assert_eq!(rig.drive.structure().flushes, 2);
    rig.drive.structure().fail_next = Some(std::io::Error::other("no"));
    rig.submit(&[FrontendRequest::Flush]);
    rig.serve();
    assert_eq!(rig.completions()[0].status, Status::Error);
}

/// A paused disk goes on with what was under way; one that is closed answers it with errors.
#[test]
fn what_is_under_way_when_the_disk_is_taken_away_is_answered_in_the_end() {
    use block::{Frontend, memory::Memory};
    let submit = |rig: &mut Rig, page: u32| {
        let write = FrontendRequest::Write(0, vec![Span::page(page)]);
        rig.submit(&[write, FrontendRequest::Barrier(0, vec![]), FrontendRequest::Flush])
    };
    let (mut rig, page, discard) = with_large_discard();
    let behind = submit(&mut rig, page);
    rig.turn();
    let Rig { ring, drive, .. } = &mut rig;
    // Paused: the disk is somewhere else, and nothing can be answered.
    let paused = std::mem::replace(drive, block::Drive::new(Memory::new(4096).unwrap()));
    let (disk, attachments) = paused.detach();
    assert_eq!(Frontend::<Memory>::drain(ring), Progress::Idle);
    *drive = block::Drive::with(disk, attachments);
    rig.serve();
    assert_eq!(ids(&mut rig), [discard, behind[0], behind[1], behind[2]]);

    let (mut rig, page, _) = with_large_discard();
    submit(&mut rig, page);
    rig.turn();
    drop(std::mem::replace(&mut rig.drive, block::Drive::new(Memory::new(4096).unwrap())));
    assert_eq!(Frontend::<Memory>::drain(&mut rig.ring), Progress::Worked);
    let status: Vec<Status> = rig.completions().iter().map(|it| it.status).collect();
    // The flush is behind the barrier and was not taken.
    assert_eq!(status, [Status::Error; 3]);
    assert!(Frontend::<Memory>::is_drained(&rig.ring));
}

/// A turn does what its budget allows, keeps the order, and says that there is more.
#[test]
fn a_turn_is_bounded_by_its_budget() {
    let mut rig = Rig::new(Abi::X86_64, 2);
    let page = rig.guest().take_pages(30);
    let requests: Vec<_> =
        (0..30).map(|index| FrontendRequest::Write(0, vec![Span::page(page + index)])).collect();
    (0..30).for_each(|index| rig.guest().write(page + index, 0, &[index as u8; 4096]));
    let sent = rig.submit(&requests);
    let mut done = Vec::new();
    let mut turns = 0;
    loop {
        let progress = blkif_turn(&mut rig, 12 << 10);
        let now = ids(&mut rig);
        assert!(now.len() <= 3, "{} requests of 5 KiB each for a budget of 12 KiB", now.len());
        done.extend(now);
        turns += 1;
        if progress != Progress::More {
            break;
        }
    }
    assert!(turns >= 10);
    assert_eq!(done, sent);
    rig.submit(&[FrontendRequest::Read(0, vec![Span::page(page)])]);
    rig.serve();
    let mut bytes = [0; 1];
    rig.guest().read(page, 0, &mut bytes);
    assert_eq!(bytes, [29]);
}

fn blkif_turn(rig: &mut Rig, bytes: usize) -> Progress {
    use block::Frontend as _;
    rig.ring.turn(&mut rig.drive, &mut Budget::bytes(bytes))
}

/// Events are sent for what the frontend waits for, and asked for with what it has not sent yet.
#[test]
fn events_are_held_off_while_they_are_not_asked_for() {
    use std::sync::atomic::Ordering::Relaxed;
    let mut rig = Rig::new(Abi::X86_64, 0);
    let page = rig.guest().take_pages(1);
    let read = FrontendRequest::Read(0, vec![Span::page(page)]);
    rig.serve();
    rig.submit(&[read.clone(), read.clone(), read.clone()]);
    assert_eq!(rig.frontend.notified, 1, "the backend waits for the first of three");
    // RSP_EVENT: the frontend wants to be told of the third answer behind these.
    rig.frontend.word(3).store(6, Relaxed);
    rig.serve();
    assert_eq!(rig.ring.counters().get().notified, 0, "it did not ask for these");
    assert_eq!(rig.completions().len(), 3);
    rig.frontend.word(3).store(6, Relaxed);
    for expected in [0, 0, 1] {
        rig.submit(std::slice::from_ref(&read));
        rig.serve();
        assert_eq!(rig.ring.counters().get().notified, expected);
    }
    let counters = rig.ring.counters().get();
    assert_eq!((counters.taken, counters.answered, counters.events), (6, 6, 4));
}

/// A loop that looks for requests by itself is told by events only after it has said that it waits.
#[test]
fn a_polled_ring_asks_for_events_only_before_a_wait() {
    use block::{Frontend, memory::Memory};
    let mut rig = Rig::new(Abi::X86_64, 0);
    rig.ring.set_polled(true);
    let has_request = |rig: &Rig| Frontend::<Memory>::has_unannounced(&rig.ring);
    rig.serve();
    // The first request always has one, as the frontend says so when it begins.
    rig.submit(&[FrontendRequest::Flush]);
    assert_eq!(rig.frontend.notified, 1);
    rig.serve();
    assert!(!has_request(&rig));
    for _ in 0..3 {
        rig.submit(&[FrontendRequest::Flush]);
        assert!(has_request(&rig));
        rig.serve();
        assert!(!has_request(&rig));
    }
    assert_eq!(rig.frontend.notified, 1, "nobody has asked");
    assert!(!Frontend::<Memory>::prepare_to_wait(&mut rig.ring));
    rig.submit(&[FrontendRequest::Flush]);
    assert_eq!(rig.frontend.notified, 2);
    assert!(Frontend::<Memory>::prepare_to_wait(&mut rig.ring), "it is there already");
    rig.serve();
    assert_eq!(rig.completions().len(), 5);
}

/// A guest that sends events without being asked is not looked at again and again for them.
#[test]
fn an_event_without_a_request_is_taken() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut rig = Rig::new(Abi::X86_64, 0);
    rig.ring.set_polled(true);
    // The one that was asked for when the ring was connected.
    rig.submit(&[FrontendRequest::Flush]);
    rig.serve();
    assert_eq!(rig.ring.counters().get().events, 1);
    rig.frontend.notify().unwrap();
    let readable = |rig: &Rig| {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&rig.ring, PollFlags::IN)], Some(&zero)).unwrap() == 1
    };
    assert!(readable(&rig));
    rig.serve();
    assert!(!readable(&rig));
}
