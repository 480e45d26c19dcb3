//! What a pass does not do.

use blkif::{
    Abi,
    mock::{FrontendRequest, Span},
};

use crate::rig::Rig;

#[test]
fn a_pass_allocates_nothing_once_it_has_its_capacities() {
    let mut rig = Rig::new(Abi::X86_64, 0);
    let page = rig.guest().take_pages(40);
    let many: Vec<Span> = (page..page + 32).map(Span::page).collect();
    let requests = [
        FrontendRequest::Write(0, vec![Span::page(page)]),
        FrontendRequest::Read(0, vec![Span::page(page + 1)]),
        FrontendRequest::Write(64, many.clone()),
        FrontendRequest::Read(64, many),
        FrontendRequest::Flush,
    ];
    for _ in 0..3 {
        rig.submit(&requests);
        rig.serve();
        rig.completions();
    }
    rig.submit(&requests);
    let counted = allocation_counter::measure(|| {
        rig.turn();
    });
    assert_eq!(counted.count_total, 0);
    assert_eq!(rig.completions().len(), requests.len());
}

/// The guest has the answers of a quarter while the others are carried out. Each part is one call that copies.
#[test]
fn a_full_ring_is_carried_out_in_parts() {
    for (order, waiting, copies) in [(0, 32, 4), (0, 8, 1), (3, 256, 19)] {
        let mut rig = Rig::new(Abi::X86_64, order);
        let page = rig.guest().take_pages(1);
        let requests: Vec<_> =
            (0..waiting).map(|it| FrontendRequest::Read(it * 8, vec![Span::page(page)])).collect();
        rig.submit(&requests);
        rig.serve();
        assert_eq!(rig.ring.counters().get().copies, copies, "{waiting} requests");
        assert_eq!(rig.completions().len(), requests.len());
    }
}
