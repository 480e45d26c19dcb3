//! Random requests against a plain vector of bytes: after what data that is not what was written, or that
//! goes to the wrong place, in any layout, with requests that overlap and several under way.

use blkif::{
    Abi, PAGE_BYTES, Status,
    mock::{FrontendRequest, Span},
};

use crate::{
    random::Random,
    rig::{Rig, SECTOR, SIZE},
};

/// Where the requests of one test go: so few sectors that they meet.
const SECTORS: u64 = 600;

/// Bytes that a read has to bring, and where.
type Expected = Option<(Vec<Span>, Vec<u8>)>;

/// A request with what it has to be found to have done.
struct Sent {
    id: u64,
    expected: Expected,
}

fn length(spans: &[Span]) -> usize {
    spans.iter().map(|span| usize::from(span.last - span.first + 1) * SECTOR as usize).sum()
}

/// Spans of pages of their own, of which some are not whole.
fn spans(random: &mut Random, pages: &mut u32) -> Vec<Span> {
    let count = match random.below(8) {
        0 => 12 + random.below(60),
        _ => 1 + random.below(11),
    };
    (0..count)
        .map(|_| {
            let gref = *pages;
            *pages += 1;
            if random.one_in(3) {
                let first = random.below(8) as u8;
                Span { gref, first, last: first + random.below(u64::from(8 - first)) as u8 }
            } else {
                Span::page(gref)
            }
        })
        .collect()
}

fn gather(rig: &Rig, spans: &[Span]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for span in spans {
        let from = bytes.len();
        bytes.resize(from + length(&[*span]), 0);
        rig.guest().read(span.gref, usize::from(span.first) * 512, &mut bytes[from..]);
    }
    bytes
}

fn scatter(rig: &Rig, spans: &[Span], bytes: &[u8]) {
    let mut at = 0;
    for span in spans {
        let count = length(&[*span]);
        rig.guest().write(span.gref, usize::from(span.first) * 512, &bytes[at..at + count]);
        at += count;
    }
}

/// Makes one request, and does to the model what it does.
fn request(
    rig: &Rig,
    random: &mut Random,
    model: &mut [u8],
    pages: &mut u32,
) -> (FrontendRequest, Expected) {
    let kind = random.below(16);
    if kind == 0 {
        return (FrontendRequest::Flush, None);
    }
    if kind == 1 {
        let sector = random.below(SECTORS);
        let count = random.below(SECTORS - sector);
        // What the disk in memory makes of it.
        model[(sector * SECTOR) as usize..((sector + count) * SECTOR) as usize].fill(0);
        return (FrontendRequest::Discard(sector, count), None);
    }
    let spans = spans(random, pages);
    let bytes = length(&spans);
    let sector = random.below(SECTORS - bytes as u64 / SECTOR);
    let at = (sector * SECTOR) as usize;
    // What a request does not name stays as it is.
    for span in &spans {
        let mut page = [0; PAGE_BYTES];
        random.fill(&mut page);
        rig.guest().write(span.gref, 0, &page);
    }
    if kind < 8 {
        return (
            FrontendRequest::Read(sector, spans.clone()),
            Some((spans, model[at..at + bytes].to_vec())),
        );
    }
    let data = gather(rig, &spans);
    scatter(rig, &spans, &data);
    model[at..at + bytes].copy_from_slice(&data);
    let barrier = kind == 8 && spans.len() <= 11;
    let make = if barrier { FrontendRequest::Barrier } else { FrontendRequest::Write };
    (make(sector, spans), None)
}

fn run(seed: u64, abi: Abi, order: u32, rounds: usize, take_over: bool) {
    let mut random = Random(seed);
    let mut rig = Rig::new(abi, order);
    let first = rig.guest().take_pages(2400);
    let mut model = vec![0; (SECTORS * SECTOR) as usize];
    for round in 0..rounds {
        let (mut pages, mut sent) = (first, Vec::new());
        for _ in 0..1 + random.below(u64::from(rig.frontend.entries())) {
            if pages + 80 > first + 2400 {
                break;
            }
            let (request, expected) = request(&rig, &mut random, &mut model, &mut pages);
            let id = rig.frontend.submit(&request).unwrap();
            sent.push(Sent { id, expected });
        }
        rig.frontend.push().unwrap();
        if take_over && random.one_in(4) {
            rig.take_over();
        }
        rig.serve();
        let completions = rig.completions();
        assert_eq!(completions.len(), sent.len(), "round {round}");
        for Sent { id, expected } in sent {
            let found = completions.iter().find(|it| it.id == id).expect("an answer");
            assert_eq!(found.status, Status::Okay, "round {round}");
            if let Some((spans, bytes)) = expected {
                assert!(
                    gather(&rig, &spans) == bytes,
                    "round {round}: request {id} read wrong bytes"
                );
            }
        }
    }
    assert_eq!(rig.completions(), []);
}

#[test]
fn random_requests_do_what_they_do_to_a_vector_of_bytes() {
    for order in 0..=3 {
        run(0x9e37 + u64::from(order), Abi::X86_64, order, 60, false);
        run(0xabcd + u64::from(order), Abi::X86_32, order, 60, false);
    }
}

#[test]
fn they_do_so_when_others_take_the_ring_over_again_and_again() {
    run(77, Abi::X86_64, 1, 100, true);
    run(78, Abi::X86_32, 2, 100, true);
}

/// The last sector of the disk, and a range that ends with it.
#[test]
fn the_end_of_the_disk_can_be_reached_and_not_passed() {
    let mut rig = Rig::new(Abi::X86_64, 0);
    let page = rig.guest().take_pages(1);
    let last = SIZE / SECTOR - 1;
    let one = Span { gref: page, first: 3, last: 3 };
    let two = Span { gref: page, first: 3, last: 4 };
    let ids = rig.submit(&[
        FrontendRequest::Write(last, vec![one]),
        FrontendRequest::Write(last, vec![two]),
        FrontendRequest::Read(last + 1, vec![one]),
        FrontendRequest::Read(last, vec![one]),
        FrontendRequest::Discard(last, 1),
        FrontendRequest::Discard(last, 2),
    ]);
    rig.serve();
    let completions = rig.completions();
    let status = ids.iter().map(|id| completions.iter().find(|it| it.id == *id).unwrap().status);
    let (okay, error) = (Status::Okay, Status::Error);
    assert_eq!(status.collect::<Vec<_>>(), [okay, error, error, okay, okay, error]);
}
