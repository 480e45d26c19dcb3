//! Requests that cannot be, each answered with its id and its operation, and without any effect.

use std::sync::atomic::Ordering::Relaxed;

use blkif::{
    Abi, Status,
    mock::{FrontendRequest, Span},
};
use block::Progress;

use crate::rig::{Rig, SECTOR, SIZE};

/// Bytes of a slot of x86_64.
type Slot = [u8; 112];

/// A slot with operation, number of segments, sector, and segments.
fn slot(operation: u8, count: u8, sector: u64, segments: &[(u32, u8, u8)]) -> Slot {
    let mut raw = [0; 112];
    (raw[0], raw[1]) = (operation, count);
    raw[8..16].copy_from_slice(&0xfeed_u64.to_le_bytes());
    raw[16..24].copy_from_slice(&sector.to_le_bytes());
    for (index, &(gref, first, last)) in segments.iter().enumerate() {
        let at = 24 + 8 * index;
        raw[at..at + 4].copy_from_slice(&gref.to_le_bytes());
        (raw[at + 4], raw[at + 5]) = (first, last);
    }
    raw
}

/// An indirect request of so many segments, which lie in a page.
fn indirect(operation: u8, count: u16, sector: u64, gref: u32) -> Slot {
    let mut raw = slot(6, operation, sector, &[]);
    raw[2..4].copy_from_slice(&count.to_le_bytes());
    raw[28..32].copy_from_slice(&gref.to_le_bytes());
    raw
}

fn discard(flag: u8, sector: u64, sectors: u64) -> Slot {
    let mut raw = slot(5, flag, sector, &[]);
    raw[24..32].copy_from_slice(&sectors.to_le_bytes());
    raw
}

/// Sends bytes; the answer as it lies in the ring: id, operation, status.
fn answer(rig: &mut Rig, number: u32, raw: &Slot) -> (u64, u8, i16) {
    rig.frontend.put(raw);
    rig.frontend.push().unwrap();
    rig.serve();
    assert_eq!(rig.frontend.word(2).load(Relaxed), number + 1, "one answer");
    let mut bytes = [0; 16];
    let at = 64 + (number as usize % 32) * 112;
    rig.guest().read(rig.frontend.location().grefs[0], at, &mut bytes);
    let status = i16::from_le_bytes([bytes[10], bytes[11]]);
    (u64::from_le_bytes(bytes[..8].try_into().unwrap()), bytes[8], status)
}

#[test]
fn what_cannot_be_is_refused_and_nothing_happens() {
    let mut rig = Rig::new(Abi::X86_64, 0);
    let page = rig.guest().take_pages(2);
    let end = SIZE / SECTOR;
    let whole = (page, 0, 7);
    let (error, unknown) = (Status::Error as i16, Status::NotSupported as i16);
    // Segments of which the second is impossible.
    rig.guest().write(page + 1, 0, &slot(0, 0, 0, &[whole, (page, 3, 8)])[24..40]);
    let cases: Vec<(&str, Slot, i16)> = vec![
        ("no segment", slot(0, 0, 0, &[]), error),
        ("no segment to write", slot(1, 0, 0, &[]), error),
        ("twelve segments", slot(1, 12, 0, &[whole; 11]), error),
        ("32 segments, which stock takes", slot(1, 32, 0, &[whole; 11]), error),
        ("255 segments", slot(0, 255, 0, &[whole; 11]), error),
        ("a sector behind the page", slot(1, 1, 0, &[(page, 0, 8)]), error),
        ("the last sector of any", slot(0, 1, 0, &[(page, 0, 255)]), error),
        ("first behind last", slot(1, 1, 0, &[(page, 4, 3)]), error),
        ("behind the end", slot(1, 1, end, &[whole]), error),
        ("over the end", slot(1, 1, end - 7, &[whole]), error),
        ("a sector that overflows", slot(1, 1, u64::MAX, &[whole]), error),
        ("a sector that overflows in bytes", slot(1, 1, 1 << 55, &[whole]), error),
        ("a page that is not granted", slot(1, 1, 0, &[(99_999, 0, 7)]), error),
        ("the second page is not granted", slot(1, 2, 0, &[whole, (u32::MAX, 0, 7)]), error),
        ("read into no page", slot(0, 1, 0, &[(u32::MAX, 0, 7)]), error),
        ("an operation that is not there", slot(4, 1, 0, &[whole]), unknown),
        ("another one", slot(255, 1, 0, &[whole]), unknown),
        ("discard over the end", discard(0, end - 1, 2), error),
        ("discard that overflows", discard(0, 8, u64::MAX), error),
        ("discard that overflows in bytes", discard(0, 8, u64::MAX / 512 - 7), error),
        ("secure discard", discard(1, 0, 8), unknown),
        ("no indirect segment", indirect(1, 0, 0, page + 1), error),
        ("257 indirect segments", indirect(1, 257, 0, page + 1), error),
        ("all indirect segments", indirect(1, u16::MAX, 0, page + 1), error),
        ("a page of segments that is not granted", indirect(1, 2, 0, 99_999), error),
        ("an indirect segment that cannot be", indirect(1, 2, 0, page + 1), error),
        ("an indirect discard", indirect(5, 1, 0, page + 1), unknown),
        ("an indirect indirect", indirect(6, 1, 0, page + 1), unknown),
    ];
    let count = cases.len() as u64;
    for (number, (what, raw, status)) in cases.into_iter().enumerate() {
        let operation = if raw[0] == 6 { raw[1] } else { raw[0] };
        let found = answer(&mut rig, number as u32, &raw);
        assert_eq!(found, (0xfeed, operation, status), "{what}");
    }
    assert_eq!(rig.drive.structure().changes, 0);
    let counters = rig.ring.counters().get();
    assert_eq!((counters.refused, counters.failed, counters.answered), (count, 0, count));
    assert_eq!(rig.ring_stats().failed(), count);
}

impl Rig {
    fn ring_stats(&self) -> block::Stats {
        *block::Frontend::<block::memory::Memory>::stats(&self.ring)
    }
}

#[test]
fn a_read_only_disk_is_read_and_flushed() {
    let mut rig = Rig::new(Abi::X86_64, 0);
    rig.drive.structure().read_only = true;
    let page = rig.guest().take_pages(12);
    let many: Vec<Span> = (page..page + 12).map(Span::page).collect();
    let sent = rig.submit(&[
        FrontendRequest::Read(0, vec![Span::page(page)]),
        FrontendRequest::Read(0, many.clone()),
        FrontendRequest::Flush,
        FrontendRequest::Write(0, vec![Span::page(page)]),
        FrontendRequest::Write(0, many),
        FrontendRequest::Discard(0, 8),
        FrontendRequest::Barrier(0, vec![Span::page(page)]),
    ]);
    rig.serve();
    let mut found = rig.completions();
    found.sort_by_key(|it| sent.iter().position(|id| *id == it.id));
    let status: Vec<Status> = found.iter().map(|it| it.status).collect();
    let (okay, error) = (Status::Okay, Status::Error);
    assert_eq!(status, [okay, okay, okay, error, error, error, error]);
    assert_eq!(rig.drive.structure().changes, 0);
}

#[test]
fn an_error_of_the_disk_fails_one_request() {
    let mut rig = Rig::new(Abi::X86_64, 0);
    let page = rig.guest().take_pages(1);
    for request in [
        FrontendRequest::Read(0, vec![Span::page(page)]),
        FrontendRequest::Write(0, vec![Span::page(page)]),
        FrontendRequest::Discard(0, 8),
    ] {
        rig.drive.structure().fail_next = Some(std::io::Error::other("no"));
        rig.submit(&[request.clone(), FrontendRequest::Read(64, vec![Span::page(page)])]);
        rig.serve();
        let mut status: Vec<Status> = rig.completions().iter().map(|it| it.status).collect();
        status.sort_by_key(|it| *it as i16);
        assert_eq!(status, [Status::Error, Status::Okay], "{request:?}");
    }
}

/// A frontend whose indices cannot be is believed nothing any more.
#[test]
fn a_ring_whose_indices_lie_is_given_up() {
    for (requests, lie) in [(0, 33), (0, u32::MAX), (0, 1 << 31), (2, 35), (2, 1), (2, u32::MAX)] {
        let mut rig = Rig::new(Abi::X86_64, 0);
        let page = rig.guest().take_pages(1);
        for _ in 0..requests {
            rig.submit(&[FrontendRequest::Read(0, vec![Span::page(page)])]);
        }
        rig.serve();
        rig.completions();
        rig.frontend.word(0).store(lie, Relaxed);
        let Progress::Closed { fault: Some(fault) } = rig.turn() else {
            panic!("{lie} after {requests} requests was believed");
        };
        assert!(fault.contains("its ring of 32 slots says"), "{fault}");
        assert_eq!(rig.ring.counters().get().taken, requests);
    }
}

/// The guest may turn the answers' index back or forward: only its own half suffers.
#[test]
fn the_backend_does_not_read_its_own_index_from_the_ring() {
    let mut rig = Rig::new(Abi::X86_64, 0);
    let page = rig.guest().take_pages(1);
    rig.submit(&[FrontendRequest::Read(0, vec![Span::page(page)])]);
    rig.serve();
    assert_eq!(rig.completions().len(), 1);
    rig.frontend.word(2).store(77, Relaxed);
    rig.frontend.submit(&FrontendRequest::Read(0, vec![Span::page(page)])).unwrap();
    rig.frontend.push().unwrap();
    rig.serve();
    assert_eq!(rig.frontend.word(2).load(Relaxed), 2);
    assert_eq!(rig.completions().len(), 1);
}

#[test]
fn a_frontend_that_stops_has_everything_answered() {
    let mut rig = Rig::new(Abi::X86_64, 0);
    let page = rig.guest().take_pages(1);
    rig.submit(&[FrontendRequest::Write(0, vec![Span::page(page)])]);
    block::Frontend::<block::memory::Memory>::stop(&mut rig.ring);
    assert_eq!(rig.turn(), Progress::Closed { fault: None });
    assert_eq!(rig.completions()[0].status, Status::Error);
    assert_eq!(rig.drive.structure().changes, 0);
}
